"""The report to sign: a validation as one HTML page and as JSON, each naming the other's digest.

Reads a validation; the images of escapes and false rejects are read once more for the page.
"""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agp_edge.dataset import GOOD
from agp_edge.files import write_aside
from agp_edge.images import read_image
from agp_edge.report.histogram import score_histogram
from agp_edge.report.pictures import data_uri
from agp_edge.report.render import write_page
from agp_edge.threshold_text import promise_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agp_edge.calibration.decision.validate import KnownPart, Validation

__all__ = ["validation_figures", "write_validation"]

_PACKAGES = ("agp-edge", "numpy", "onnxruntime", "openvino", "opencv-python-headless", "scipy")
_MAX_CARDS = 12
_MAX_ROWS = 1000


@dataclass(frozen=True)
class Card:
    """A part whose verdict is wrong, with its deciding photo."""

    part: KnownPart
    photo: str
    picture: str
    """Data URI."""


def validation_figures(
    validation: Validation, thresholds: Sequence[float] = (), failures: Sequence[str] = ()
) -> dict[str, Any]:
    """Everything the page says, ready for `json.dumps`."""
    alternatives = []
    for threshold in validation.alternatives(thresholds):
        rejected, escaped = validation.at(threshold)
        alternatives.append(
            {
                "threshold": threshold,
                "false_reject": asdict(rejected),
                "escape": None if escaped is None else asdict(escaped),
            }
        )
    figures = asdict(validation)
    return {
        **figures,
        "promise": promise_text(validation.record),
        "alternatives": alternatives,
        "failures": list(failures),
        "versions": _versions(),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def write_validation(
    validation: Validation,
    *,
    html: Path | None,
    json_file: Path | None,
    thresholds: Sequence[float] = (),
    failures: Sequence[str] = (),
) -> None:
    """Writes the page, the figures, or both, aside and renamed.

    Args:
        validation: what `agp_edge.calibration.decision.validate.validate` returned.
        html: the page; None: not written.
        json_file: the figures; None: not written.
        thresholds: further ones for the table.
        failures: limits that were asked for and not kept.

    Raises:
        DataError: an image has become unreadable.
        DependencyError: Jinja2 or OpenCV is not installed.
    """
    figures = validation_figures(validation, thresholds, failures)
    text = json.dumps(figures, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if json_file is not None:
        with write_aside(json_file) as aside:
            aside.write_text(text, encoding="utf-8")
    if html is None:
        return
    good = [part for part in validation.parts if part.label == GOOD]
    bad = [part for part in validation.parts if part.label != GOOD]
    escaped = [part for part in bad if part.largest <= validation.threshold]
    rejected = [part for part in good if part.largest > validation.threshold]
    rows = sorted(validation.parts, key=lambda part: -part.largest)
    write_page(
        html,
        "validation.html.j2",
        v=validation,
        figures=figures,
        figures_text=text,
        promise=figures["promise"],
        # whoever signs the page signs these figures
        figures_sha256=hashlib.sha256(text.encode()).hexdigest(),
        failures=list(failures),
        histogram=score_histogram(
            [part.largest for part in good], [part.largest for part in bad], validation.threshold
        ),
        groups=[
            ("Escapes", "defective, every photo called good", len(escaped),
             _cards(validation, sorted(escaped, key=lambda part: part.largest))),
            ("False rejects", "good, a photo called anomalous", len(rejected),
             _cards(validation, sorted(rejected, key=lambda part: -part.largest))),
        ],
        rows=rows[:_MAX_ROWS],
        hidden_rows=max(0, len(rows) - _MAX_ROWS),
        good=GOOD,
    )  # fmt: skip


def _cards(validation: Validation, parts: Sequence[KnownPart]) -> list[Card]:
    cards = []
    for part in parts[:_MAX_CARDS]:
        photo = part.photos[part.scores.index(part.largest)]
        path = Path(validation.data).absolute() / photo
        cards.append(Card(part, photo, data_uri(read_image(path))))
    return cards


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
