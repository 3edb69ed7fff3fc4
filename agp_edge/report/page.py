"""Puts the page together: figures, histogram, latencies, frames with their maps, provenance.

Reads an evaluation and the model it was made with; writes one HTML file.
"""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agp_edge.detector import Detector
from agp_edge.images import read_image
from agp_edge.report.histogram import score_histogram
from agp_edge.report.pictures import data_uri
from agp_edge.report.render import write_page
from agp_edge.threshold_text import promise_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agp_edge.evaluate import Evaluation, ScoredFrame

__all__ = ["Card", "Group", "write_report"]

PERCENTILES = (50, 90, 99, 100)
# A page of a thousand rows is still opened at once by a browser; beyond that a table helps nobody.
MAX_ROWS = 1000


@dataclass(frozen=True)
class Card:
    """One frame with its map, ready to be shown."""

    name: str
    truth: str
    score: float
    is_anomalous: bool | None
    is_right: bool | None
    share: float
    """Score over twice the threshold, 0 to 1: the length of the card's bar; its middle decides."""

    regions: int
    total_ms: float
    frame: str
    """Data URI."""

    overlay: str
    """Data URI."""


@dataclass(frozen=True)
class Group:
    """Cards under one heading, and how many frames there are of that kind."""

    title: str
    explanation: str
    total: int
    cards: tuple[Card, ...]


def write_report(
    path: str | os.PathLike[str],
    evaluation: Evaluation,
    model: str | os.PathLike[str],
    *,
    title: str | None = None,
    notes: Sequence[str] = (),
    device: str = "auto",
    engine: str | None = None,
    threads: int = 0,
    max_cards: int = 24,
) -> None:
    """Writes the page, aside and renamed; pictures are at most 320 pixels a side.

    The frames shown are scored once more for their maps. At most `max_cards` are shown: mistakes
    first, then verdicts spread evenly over the scores.

    Args:
        path: the HTML file.
        evaluation: what `agp_edge.evaluate.evaluate` returned.
        model: the file that it was made with.
        title: heading; None: the model's name.
        notes: sentences about data and weights, such as their licences.
        device: as for `agp_edge.Detector`.
        engine: as for `agp_edge.Detector`.
        threads: as for `agp_edge.Detector`.
        max_cards: how many frames are shown, 4 or more.

    Raises:
        DataError: an image has become unreadable.
        DependencyError: Jinja2 or OpenCV is not installed.
    """
    has_verdicts = evaluation.threshold is not None
    with Detector(
        model,
        device=device,
        engine=engine,
        threshold=None if has_verdicts else max(frame.score for frame in evaluation.frames),
        threads=threads,
    ) as detector:
        groups = [
            Group(
                heading,
                explanation,
                len(frames),
                tuple(_card(detector, evaluation, frame) for frame in _spread(frames, count)),
            )
            for heading, explanation, frames, count in _groups(evaluation, max_cards)
        ]
    scores = {
        kind: [f.score for f in evaluation.frames if f.sample.is_defective == kind]
        for kind in (False, True)
    }
    rows = sorted(evaluation.frames, key=lambda frame: -frame.score)
    write_page(
        path,
        "report.html.j2",
        title=title or evaluation.manifest["name"],
        evaluation=evaluation,
        manifest=evaluation.manifest,
        promise_words=promise_text(evaluation.threshold_record),
        histogram=score_histogram(scores[False], scores[True], evaluation.threshold),
        latency=evaluation.latency(PERCENTILES),
        counts=_counts(evaluation),
        groups=[group for group in groups if group.cards],
        rows=[(evaluation.name_of(frame), frame) for frame in rows[:MAX_ROWS]],
        hidden_rows=max(0, len(rows) - MAX_ROWS),
        notes=list(notes),
        manifest_text=json.dumps(evaluation.manifest, indent=2, ensure_ascii=False),
        machine=f"{_processor()}, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}",
    )


def _processor() -> str:
    """The processor's name as Linux tells it, and how many of its cores there are."""
    cores = f"{os.cpu_count()} cores"
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # another system
        return cores
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return f"{names[0]}, {cores}" if names else cores


def _counts(evaluation: Evaluation) -> dict[str, int]:
    return {
        "good": evaluation.count(defective=False),
        "defective": evaluation.count(defective=True),
        "rejected": evaluation.count(defective=False, anomalous=True),
        "found": evaluation.count(defective=True, anomalous=True),
    }


def _groups(
    evaluation: Evaluation, max_cards: int
) -> list[tuple[str, str, list[ScoredFrame], int]]:
    """Heading, explanation, frames in the order of interest, and how many of them are shown."""

    def frames(defective: bool, anomalous: bool | None) -> list[ScoredFrame]:
        chosen = [
            frame
            for frame in evaluation.frames
            if frame.sample.is_defective == defective and frame.is_anomalous == anomalous
        ]
        return sorted(chosen, key=lambda frame: -frame.score)

    quarter = max(1, max_cards // 4)
    if evaluation.threshold is None:
        return [
            ("Defective", "from the highest score to the lowest", frames(True, None), 2 * quarter),
            ("Good", "from the highest score to the lowest", frames(False, None), 2 * quarter),
        ]
    return [
        ("Found", "defective and called anomalous", frames(True, True), quarter),
        ("Missed", "defective, yet called good", frames(True, False), quarter),
        ("False alarms", "good, yet called anomalous", frames(False, True), quarter),
        ("Passed", "good and called good", frames(False, False), quarter),
    ]


def _spread(frames: list[ScoredFrame], count: int) -> list[ScoredFrame]:
    """First, last and evenly between."""
    if len(frames) <= count:
        return frames
    if count == 1:
        return frames[:1]
    return [frames[round(n * (len(frames) - 1) / (count - 1))] for n in range(count)]


def _card(detector: Detector, evaluation: Evaluation, frame: ScoredFrame) -> Card:
    image = read_image(frame.sample.path)
    result = detector.score(image)
    share = 0.0
    if evaluation.threshold is not None and evaluation.threshold > 0:
        share = min(1.0, max(0.0, frame.score / (2 * evaluation.threshold)))
    return Card(
        name=evaluation.name_of(frame),
        truth=frame.sample.label,
        score=frame.score,
        is_anomalous=frame.is_anomalous,
        is_right=None
        if frame.is_anomalous is None
        else frame.is_anomalous == frame.sample.is_defective,
        share=share,
        regions=len(result.regions),
        total_ms=frame.latency.total_ms,
        frame=data_uri(image),
        overlay=data_uri(result.overlay(image)),
    )
