"""How a model with its threshold does on known parts: what `agp-edge validate` reports.

A part is rejected when any of its photos is anomalous, as a line would. Rates are of parts, which
are independent; photos of one part are not.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agp_edge.calibration.decision.good_set import labelled_samples, part_key
from agp_edge.calibration.decision.scoring import images_sha256, score_samples
from agp_edge.dataset import GOOD
from agp_edge.errors import DataError, ModelError
from agp_edge.manifest import read_manifest
from agp_edge.metrics import rate_interval
from agp_edge.site import file_sha256, read_site, site_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agp_edge.calibration.decision.scoring import Scored

__all__ = ["KnownPart", "Rate", "Repeatability", "Validation", "validate"]


@dataclass(frozen=True)
class Rate:
    """A share of parts with its exact (Clopper-Pearson) two-sided limits."""

    count: int
    total: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share found, 0 to 1."""
        return self.count / self.total


@dataclass(frozen=True)
class KnownPart:
    """One part with all its photos."""

    label: str
    name: str
    photos: tuple[str, ...]
    scores: tuple[float, ...]

    @property
    def largest(self) -> float:
        """The score that decides: the part is rejected when it is above the threshold."""
        return max(self.scores)


@dataclass(frozen=True, kw_only=True)
class Repeatability:
    """How much the score of one part varies from shot to shot, over parts with several.

    Variance components of a one-way layout, as in a gauge study (AIAG, Measurement Systems
    Analysis, 4th edition), over good parts and defective ones alike.
    """

    parts: int
    shots: int
    repeatability: float
    """Standard deviation within a part, pooled; score units."""

    part_variation: float
    """Standard deviation between parts, what repeatability adds to it taken off; score units."""

    distinct_categories: float | None
    """1.41 x part variation / repeatability: 5 or more is asked of a gauge. None: no spread."""

    flips: tuple[str, ...]
    """Parts whose photos got different verdicts."""

    near_threshold: int
    """Parts whose mean score is within three repeatabilities of the threshold."""


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Everything that the report says."""

    model: str
    model_sha256: str
    manifest: dict[str, Any]
    threshold: float
    threshold_source: str
    record: dict[str, Any] | None
    """How the threshold was found; None: by hand."""

    data: str
    images_sha256: str
    engine: str
    level: float
    """Of the two-sided limits."""

    parts: tuple[KnownPart, ...]
    has_parts: bool
    """Parts are known; False: every photo is taken for a part of its own."""

    false_reject: Rate
    escape: Rate | None
    """Of all defective parts; None where there are none."""

    escape_by_type: dict[str, Rate]
    repeatability: Repeatability | None
    """None: no part has two photos."""

    warnings: tuple[str, ...]

    def at(self, threshold: float) -> tuple[Rate, Rate | None]:
        """False rejects and escapes that another threshold would have given."""
        good = [part.largest for part in self.parts if part.label == GOOD]
        bad = [part.largest for part in self.parts if part.label != GOOD]
        rejected = _rate(sum(score > threshold for score in good), len(good), self.level)
        if not bad:
            return rejected, None
        return rejected, _rate(sum(score <= threshold for score in bad), len(bad), self.level)

    def alternatives(self, more: Sequence[float] = ()) -> list[float]:
        """Thresholds worth a look, rising: where no part escapes, and where rates change."""
        good = np.sort([part.largest for part in self.parts if part.label == GOOD])
        bad = [part.largest for part in self.parts if part.label != GOOD]
        found = {self.threshold, float(good[-1]), *more}
        found |= {float(np.quantile(good, q, method="higher")) for q in (0.5, 0.8, 0.9, 0.95, 0.99)}
        if bad:
            # the runtime compares as float32
            found.add(float(np.nextafter(np.float32(min(bad)), np.float32(-math.inf))))
        return sorted(found)


def validate(
    model: str | os.PathLike[str],
    known: str | os.PathLike[str],
    *,
    level: float = 0.95,
    parts_file: str | os.PathLike[str] | None = None,
    skip_unreadable: bool = False,
    journal: str | os.PathLike[str] | None = None,
    device: str = "auto",
    engine: str | None = None,
    threads: int = 0,
    progress: bool = False,
) -> Validation:
    """Scores known parts and compares the verdicts with the truth.

    Args:
        model: an ONNX file or a plan, with a threshold in its site file or manifest.
        known: good and defective parts, see `good_set.labelled_samples`.
        level: of the exact limits, two-sided, in (0, 1).
        parts_file: a parts.csv; None: the one that is found.
        skip_unreadable: leave unreadable images out instead of stopping at the first.
        journal: file of scores; None: beside the model.
        device: as for `agp_edge.Detector`.
        engine: as for `agp_edge.Detector`.
        threads: as for `agp_edge.Detector`.
        progress: show a progress bar on stderr.

    Raises:
        DataError: no good part, or an unreadable image.
        ModelError: as for `agp_edge.Detector`; the model has no threshold.
    """
    samples = labelled_samples(known, parts_file)
    manifest = read_manifest(model)
    site = read_site(model)
    own = manifest["threshold"]
    record: dict[str, Any] | None
    if site is not None and site.threshold is not None:
        value, source, record = site.threshold, str(site_path(model)), site.threshold_record
    elif own is not None:
        value, source, record = own["value"], "the model's manifest", own
    else:
        raise ModelError(
            f"'{os.fspath(model)}' has no threshold to validate: set one with `agp-edge threshold`"
        )
    scoring = score_samples(
        model, samples, skip_unreadable=skip_unreadable, device=device, engine=engine,
        threads=threads, journal=journal, progress=progress,
    )  # fmt: skip
    threshold = float(np.float32(value))  # as the runtime compares
    root = Path(known).absolute()
    parts = _parts(scoring.images, root)
    good = [part for part in parts if part.label == GOOD]
    bad = [part for part in parts if part.label != GOOD]
    if not good:
        raise DataError(f"none of the good images in '{known}' could be read")
    warnings = [f"left out: {sentence}" for sentence in scoring.skipped]
    scored_by = None if record is None else record.get("scored_by")
    if scored_by is not None and scored_by != scoring.scored_by:
        warnings.append(
            "the threshold was found with another graph, engine or view than this one (an FP32 "
            "model before it was converted or built?): its promise is about that one; run "
            "`agp-edge threshold` on this file"
        )
    good_images = [scored for scored in scoring.images if not scored.sample.is_defective]
    seen = None if record is None else record.get("images_sha256")
    if seen in (images_sha256(good_images), images_sha256(scoring.images)):
        warnings.append(
            "the good parts are those that the threshold was found on: the false-reject rate here "
            "shows nothing new"
        )
    by_type: dict[str, list[KnownPart]] = defaultdict(list)
    for part in bad:
        by_type[part.label].append(part)
    return Validation(
        model=os.fspath(model),
        model_sha256=file_sha256(model),
        manifest=manifest,
        threshold=threshold,
        threshold_source=source,
        record=record,
        data=str(known),
        images_sha256=images_sha256(scoring.images),
        engine=scoring.engine,
        level=level,
        parts=tuple(parts),
        has_parts=any(scored.sample.part is not None for scored in scoring.images),
        false_reject=_rate(sum(part.largest > threshold for part in good), len(good), level),
        escape=_escape(bad, threshold, level) if bad else None,
        escape_by_type={name: _escape(of, threshold, level) for name, of in by_type.items()},
        repeatability=_repeatability(parts, threshold),
        warnings=tuple(warnings),
    )


def _parts(images: Sequence[Scored], root: Path) -> list[KnownPart]:
    grouped: dict[object, list[Scored]] = {}
    for scored in images:
        grouped.setdefault(part_key(scored.sample) or scored.sample.path, []).append(scored)
    parts = []
    for members in grouped.values():
        first = members[0].sample
        names = [_name(scored.sample.path, root) for scored in members]
        parts.append(
            KnownPart(
                first.label,
                first.part or names[0],
                tuple(names),
                tuple(scored.result.score for scored in members),
            )
        )
    return parts


def _name(path: Path, root: Path) -> str:
    absolute = path.absolute()
    return (absolute.relative_to(root) if absolute.is_relative_to(root) else path).as_posix()


def _escape(parts: Sequence[KnownPart], threshold: float, level: float) -> Rate:
    return _rate(sum(part.largest <= threshold for part in parts), len(parts), level)


def _rate(count: int, total: int, level: float) -> Rate:
    low, high = rate_interval(count, total, level)
    return Rate(count, total, low, high)


def _repeatability(parts: Sequence[KnownPart], threshold: float) -> Repeatability | None:
    several = [part for part in parts if len(part.scores) > 1]
    if not several:
        return None
    sizes = np.array([len(part.scores) for part in several], np.float64)
    means = np.array([np.mean(part.scores) for part in several])
    shots = float(sizes.sum())
    squares = sum(float(((np.array(p.scores) - np.mean(p.scores)) ** 2).sum()) for p in several)
    within = squares / (shots - len(several))
    between = 0.0
    if len(several) > 1:
        overall = float((sizes * means).sum() / shots)
        mean_square = float((sizes * (means - overall) ** 2).sum()) / (len(several) - 1)
        # shots per part, for unequal numbers (Searle, Casella and McCulloch 1992)
        typical = (shots - float((sizes**2).sum()) / shots) / (len(several) - 1)
        between = max(0.0, (mean_square - within) / typical)
    sigma = math.sqrt(within)
    return Repeatability(
        parts=len(several),
        shots=int(shots),
        repeatability=sigma,
        part_variation=math.sqrt(between),
        distinct_categories=1.41 * math.sqrt(between) / sigma if sigma > 0 else None,
        flips=tuple(
            f"{part.label}: {part.name}"
            for part in several
            if min(part.scores) <= threshold < max(part.scores)
        ),
        near_threshold=int((np.abs(means - threshold) < 3 * sigma).sum()),
    )
