"""Scores known images through the pipeline that serves the line; what was scored before is kept.

Reads a model, its site file and images, one at a time; keeps a journal beside the model, from which
an interrupted run goes on and other rates are tried without scoring again.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agp_edge.calibration.decision.score_journal import ImageScore, ScoreJournal
from agp_edge.calibration.graph.model_digest import graph_sha256
from agp_edge.dependencies import require
from agp_edge.detector import Detector
from agp_edge.errors import DataError, FrameError
from agp_edge.images import read_image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from agp_edge.dataset import Sample

__all__ = ["Scored", "Scoring", "images_sha256", "journal_path", "region_peak", "score_samples"]

# Below every score and map value; the mask is then all that counts.
_EVERYTHING = -3.0e38
_DARK = 8  # of 255; sensor noise with the light off stays below


@dataclass(frozen=True)
class Scored:
    """One image and what the model said."""

    sample: Sample
    result: ImageScore


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """What the model said of a set of images."""

    images: tuple[Scored, ...]
    skipped: tuple[str, ...]
    """A sentence for each image that could not be read."""

    scored_by: str
    """"sha256:<hex>" of the graph, its pre- and postprocessing, the site's view and the engine."""

    engine: str
    reused: int
    """How many scores came from the journal."""

    was_stale: bool
    """There was a journal of another model or of other settings; it was begun anew."""


def journal_path(model: str | os.PathLike[str]) -> Path:
    """Where scores of known images are kept: the model's path and ".scores.jsonl"."""
    return Path(f"{os.fspath(model)}.scores.jsonl")


def score_samples(
    model: str | os.PathLike[str],
    samples: Sequence[Sample],
    *,
    min_area: int | None = None,
    skip_unreadable: bool = False,
    device: str = "auto",
    engine: str | None = None,
    threads: int = 0,
    journal: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Scoring:
    """Scores images one by one; the order is kept.

    Args:
        model: an ONNX file or a plan; the view of its site file counts.
        samples: the images.
        min_area: map pixels of the smallest region that the line reports; None: the site file's.
        skip_unreadable: leave unreadable images out instead of stopping at the first.
        device: as for `agp_edge.Detector`.
        engine: as for `agp_edge.Detector`.
        threads: as for `agp_edge.Detector`.
        journal: the file of scores; None: `journal_path(model)`.
        progress: show a progress bar on stderr.

    Raises:
        DataError: an image is unreadable, or none is left.
        FrameError: an image does not hold the region of interest.
        ModelError: as for `agp_edge.Detector`; the site file is of another model.
    """
    tqdm = require("tqdm").tqdm
    images: list[Scored] = []
    skipped: list[str] = []
    reused = 0
    with Detector(
        model, device=device, engine=engine, threads=threads, threshold=_EVERYTHING, min_area=0,
        outputs=("map", "mask"),
    ) as detector:  # fmt: skip
        if min_area is None:
            min_area = (detector.site or {}).get("min_area", 0)
        scored_by = _scored_by(model, detector, min_area)
        with ScoreJournal(journal or journal_path(model), scored_by) as known:
            for sample in tqdm(samples, desc="score", unit="image", disable=not progress):
                try:
                    digest = _file_sha256(sample.path)
                    result = known.get(digest)
                    if result is None:
                        result = _score(detector, sample.path, digest, min_area)
                        known.add(result)
                    else:
                        reused += 1
                except DataError as error:
                    if not skip_unreadable:
                        raise
                    skipped.append(str(error))
                    continue
                images.append(Scored(sample, result))
            stale = known.stale
        name = detector.engine_name
    if not images:
        raise DataError(f"none of the {len(samples)} images could be read; first: {skipped[0]}")
    return Scoring(
        images=tuple(images),
        skipped=tuple(skipped),
        scored_by=scored_by,
        engine=name,
        reused=reused,
        was_stale=stale,
    )


def images_sha256(images: Sequence[Scored]) -> str:
    """Digest of a set of images, whatever their names and order: "sha256:<hex>"."""
    lines = sorted(image.result.sha256 for image in images)
    return "sha256:" + hashlib.sha256("\n".join(lines).encode()).hexdigest()


def region_peak(
    anomaly_map: NDArray[np.float32], counts: NDArray[np.bool_], min_area: int
) -> float:
    """The smallest mask threshold at which a map shows no region.

    A region is an 8-connected part of {map > threshold} of at least `min_area` pixels. As the
    threshold rises these sets shrink one inside the other, so that the answer is found by
    bisection over the map's values. Up to a `min_area` of 1 it is the largest value.

    Args:
        anomaly_map: float32 (H, W).
        counts: bool (H, W): False in don't-care areas.
        min_area: map pixels.
    """
    values = anomaly_map[counts]
    if min_area <= 1:
        return float(values.max())
    cv2 = require("cv2", extra="images")
    levels = np.unique(values)
    low, high = 0, len(levels) - 1  # at the highest level the set is empty
    while low < high:
        middle = (low + high) // 2
        above = ((anomaly_map > levels[middle]) & counts).astype(np.uint8)
        count, _, stats, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
        if count > 1 and int(stats[1:, cv2.CC_STAT_AREA].max()) >= min_area:
            low = middle + 1
        else:
            high = middle
    return float(levels[low])


def _score(detector: Detector, path: Path, digest: str, min_area: int) -> ImageScore:
    frame = read_image(path)
    try:
        result = detector.score(frame)
    except FrameError as error:
        raise FrameError(f"image '{path}': {error}") from error
    assert result.anomaly_map is not None
    assert result.mask is not None
    return ImageScore(
        sha256=digest,
        score=result.score,
        peak=region_peak(result.anomaly_map, result.mask, min_area),
        width=int(frame.shape[1]),
        height=int(frame.shape[0]),
        is_blank=bool(frame.max() < _DARK or frame.min() == frame.max()),
    )


def _scored_by(model: str | os.PathLike[str], detector: Detector, min_area: int) -> str:
    manifest = detector.manifest
    site: dict[str, Any] = detector.site or {}
    settings = {
        "graph": graph_sha256(model),
        **{key: manifest[key] for key in ("input", "output", "postprocess")},
        **{key: site.get(key) for key in ("rois", "dont_care")},
        "min_area": max(min_area, 1),
        "engine": detector.engine_name,
    }
    text = json.dumps(settings, sort_keys=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"cannot read image '{path}': {error.strerror or error}") from error
