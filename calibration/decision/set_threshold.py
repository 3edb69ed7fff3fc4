"""From a model and known images to the threshold in its place: what `agp-edge threshold` does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from agp_edge.calibration.decision.conformal import promise_for
from agp_edge.calibration.decision.good_set import (
    distinct_photos,
    good_samples,
    labelled_samples,
    near_duplicates,
    part_key,
    set_warnings,
    trained_on,
)
from agp_edge.calibration.decision.scoring import images_sha256, score_samples
from agp_edge.calibration.decision.threshold import (
    conformal_threshold,
    f1_threshold,
    recall_threshold,
)
from agp_edge.calibration.decision.write_threshold import (
    write_manifest_threshold,
    write_site_threshold,
    writes_to_site,
)
from agp_edge.errors import DataError
from agp_edge.manifest import ThresholdSpec, read_manifest
from agp_edge.metrics import rate_interval
from agp_edge.site import read_site

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from pathlib import Path

    from agp_edge.calibration.decision.scoring import Scored

__all__ = ["ThresholdResult", "set_threshold"]

_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class ThresholdResult:
    """The threshold that was set, and what there is to say of it."""

    spec: ThresholdSpec
    path: Path | None
    """The file that was written; None: a dry run."""

    before: float | None
    """The threshold that the line had."""

    photos: int
    parts: int
    reused: int
    """Images whose scores were known from an earlier run."""

    engine: str
    limit: float | None
    """Share that this very threshold rejects at most, with 0.95 confidence; None: see `spec`."""

    observed: str | None
    """What the threshold does to labelled images; None without defects."""

    highest: tuple[tuple[str, float], ...]
    """Names and scores of the good images that score highest: a defect among them lifts it."""

    warnings: tuple[str, ...]
    was_signed: bool


def set_threshold(
    model: str | os.PathLike[str],
    images: str | os.PathLike[str],
    *,
    method: str = "conformal",
    false_reject: float | None = None,
    confidence: float | None = None,
    region: float | None = None,
    recall: float | None = None,
    parts_file: str | os.PathLike[str] | None = None,
    min_area: int | None = None,
    skip_unreadable: bool = False,
    to_site: bool = False,
    dry_run: bool = False,
    journal: str | os.PathLike[str] | None = None,
    device: str = "auto",
    engine: str | None = None,
    threads: int = 0,
    progress: bool = False,
) -> ThresholdResult:
    """Scores known images and sets the threshold of a model.

    Args:
        model: an ONNX file or a plan.
        images: a folder of good images (`good_set.good_samples`); for "f1" and "recall" with
            defective ones beside them (`good_set.labelled_samples`).
        method: "conformal", "f1" or "recall".
        false_reject: "conformal": share of good parts that may be rejected, in (0, 1).
        confidence: that this very threshold keeps its rate; None: on average.
        region: share of good parts that may show any region in the mask; None: the mask follows.
        recall: "recall": share of defective parts to find, in (0, 1).
        parts_file: a parts.csv; None: the one that is found.
        min_area: map pixels of the smallest region that counts for `region`; None: the site file's.
        skip_unreadable: leave unreadable images out instead of stopping at the first.
        to_site: write to the site file of an ONNX file too.
        dry_run: write nothing but the journal.
        journal: file of scores; None: beside the model.
        device: as for `agp_edge.Detector`.
        engine: as for `agp_edge.Detector`.
        threads: as for `agp_edge.Detector`.
        progress: show a progress bar on stderr.

    Raises:
        DataError: too few parts (the number needed is named), an unreadable image, no images, or
            the model was trained on them.
        ModelError: as for `agp_edge.Detector`; the site file is of another model.
        ValueError: a rate out of range.
    """
    find = good_samples if method == "conformal" else labelled_samples
    samples = find(images, parts_file)
    manifest = read_manifest(model)
    warnings = trained_on(images, samples, manifest)
    if method == "conformal" and false_reject is not None:
        # before an hour of scoring: no set has more parts than photos
        known = {part_key(sample) or sample.path for sample in samples}
        promise_for(len(known), min(false_reject, region or false_reject), confidence)
    scoring = score_samples(
        model, samples, min_area=min_area, skip_unreadable=skip_unreadable, device=device,
        engine=engine, threads=threads, journal=journal, progress=progress,
    )  # fmt: skip
    if scoring.was_stale:
        warnings.append(
            "the kept scores were those of another model, engine or site view and were not used"
        )
    warnings += [f"left out: {sentence}" for sentence in scoring.skipped]
    good, copies = distinct_photos([s for s in scoring.images if not s.sample.is_defective])
    defective = [scored for scored in scoring.images if scored.sample.is_defective]
    if not good:
        raise DataError(f"'{images}' holds no good image; expected some in a folder good")
    warnings += copies + set_warnings(good) + near_duplicates(good, progress=progress)
    if method == "conformal":
        if false_reject is None:
            raise ValueError("the method conformal needs false_reject")
        spec = _conformal(good, false_reject, confidence, region)
    else:
        spec = _labelled(good, defective, method, recall, confidence)
        if region is not None:
            mask = _conformal(good, region, None, region)
            spec = replace(spec, mask_value=mask.mask_value, mask_target=region)
    spec = replace(
        spec,
        images_sha256=images_sha256([*good, *defective]),
        scored_by=scoring.scored_by,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    site = read_site(model)
    own = manifest.get("threshold") or {}
    path: Path | None = None
    if not dry_run:
        if to_site or writes_to_site(model):
            path = write_site_threshold(model, spec)
        else:
            spec, path = write_manifest_threshold(model, spec)
    limit = None
    if method == "conformal" and confidence is None:
        limit = promise_for(spec.n, spec.target or 0.0).limit()
    return ThresholdResult(
        spec=spec,
        path=path,
        before=own.get("value") if site is None or site.threshold is None else site.threshold,
        photos=len(scoring.images),
        parts=len({part_key(s.sample) or s.result.sha256 for s in scoring.images}),
        reused=scoring.reused,
        engine=scoring.engine,
        limit=limit,
        observed=_observed(good, defective, spec.value) if defective else None,
        highest=tuple(
            (scored.sample.path.name, scored.result.score)
            for scored in sorted(good, key=lambda scored: -scored.result.score)[:_NAMED]
        ),
        warnings=tuple(warnings),
        was_signed=path is not None and site is not None and site.signature is not None,
    )


def _conformal(
    good: Sequence[Scored], false_reject: float, confidence: float | None, region: float | None
) -> ThresholdSpec:
    scores, parts = _columns(good)
    peaks = [scored.result.peak for scored in good]
    # without a rate of its own the mask follows the score's threshold, as at export
    own_mask = region is not None or peaks != scores
    spec: ThresholdSpec = conformal_threshold(
        scores,
        parts,
        false_reject,
        peaks if own_mask else None,
        confidence=confidence,
        mask_false_reject=region,
        strict=True,
        tail_limit=None,
    )
    return spec


def _labelled(
    good: Sequence[Scored],
    defective: Sequence[Scored],
    method: str,
    recall: float | None,
    confidence: float | None,
) -> ThresholdSpec:
    scores, parts = _columns(good)
    bad_scores, bad_parts = _columns(defective)
    spec: ThresholdSpec
    if method == "f1":
        spec = f1_threshold(scores, parts, bad_scores)
    elif method == "recall" and recall is not None:
        spec = recall_threshold(scores, parts, bad_scores, bad_parts, recall, confidence=confidence)
    else:
        raise ValueError(f"method is '{method}'; expected conformal, f1, or recall with a recall")
    return spec


def _columns(images: Sequence[Scored]) -> tuple[list[float], list[str | None]]:
    return [s.result.score for s in images], [part_key(s.sample) for s in images]


def _observed(good: Sequence[Scored], defective: Sequence[Scored], threshold: float) -> str:
    clauses = []
    for images, what in ((good, "good parts rejected"), (defective, "defective parts found")):
        parts = {part_key(s.sample) or s.result.sha256 for s in images}
        above = {
            part_key(s.sample) or s.result.sha256 for s in images if s.result.score > threshold
        }
        low, high = rate_interval(len(above), len(parts))
        clauses.append(
            f"{len(above)} of {len(parts)} {what} (95 % interval {low:.1%} to {high:.1%})"
        )
    return ", ".join(clauses)
