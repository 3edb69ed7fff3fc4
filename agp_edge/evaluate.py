"""Scores a data set's test images with a model and measures how well it separates them.

Reads a model file and a data set in the MVTec-AD layout; the frames go through `agp_edge.Detector`,
so what is measured is what the line will run.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from agp_edge.dataset import GOOD, Dataset, open_dataset, part_of, read_mask
from agp_edge.dependencies import require
from agp_edge.detector import Detector
from agp_edge.errors import DataError
from agp_edge.files import write_aside
from agp_edge.images import read_image
from agp_edge.manifest import read_manifest
from agp_edge.metrics import (
    RESAMPLES,
    PixelScores,
    aupro,
    average_precision,
    f1_max,
    image_auroc,
    image_auroc_interval,
    pixel_auroc,
)
from agp_edge.site import read_site

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from agp_edge.dataset import Sample
    from agp_edge.result import Latency, Result

__all__ = ["STAGES", "Evaluation", "Metrics", "ScoredFrame", "evaluate"]

STAGES = ("preprocess", "execute", "postprocess", "total")


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """One row of figures: all defect types, or one of them against every good image."""

    image_auroc: float
    image_auroc_interval: tuple[float, float]
    """95 % bootstrap interval over parts, see `agp_edge.metrics.image_auroc_interval`."""

    image_ap: float
    image_f1_max: float
    pixel_auroc: float | None
    """None unless every defective image of the row has a mask."""

    aupro: float | None
    """Per-region overlap up to a false-positive rate of 0.3; None as for `pixel_auroc`."""

    n_good: int
    n_defective: int


@dataclass(frozen=True, kw_only=True)
class ScoredFrame:
    """One test image and what the model said."""

    sample: Sample
    score: float
    is_anomalous: bool | None  # None: the model has no threshold
    latency: Latency


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Everything that a model said about a data set."""

    overall: Metrics
    types: dict[str, Metrics]
    manifest: dict[str, Any]
    frames: tuple[ScoredFrame, ...]
    threshold: float | None
    engine: str
    root: Path
    has_parts: bool
    threshold_source: str | None = None
    """Whose threshold decided: "site file" or "model"; None without one."""

    threshold_record: dict[str, Any] | None = None
    """How that threshold was found, for `promise_text`; None: set by hand, or none."""

    def to_dict(self) -> dict[str, Any]:
        """The figures as `agp-edge eval --json` writes them."""
        figures = asdict(self.overall)
        counts = {key: figures.pop(key) for key in ("n_good", "n_defective")}
        types = {name: asdict(metrics) for name, metrics in self.types.items()}
        return {**figures, "types": types, **counts, "manifest": self.manifest}

    def write_json(self, path: str | os.PathLike[str]) -> None:
        """Writes `to_dict`, aside and renamed."""
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        with write_aside(path) as aside:
            aside.write_text(text + "\n", encoding="utf-8")

    def count(self, *, defective: bool, anomalous: bool | None = None) -> int:
        """Frames of one class; with `anomalous`, those of them that got this verdict."""
        return sum(
            frame.sample.is_defective == defective and anomalous in (None, frame.is_anomalous)
            for frame in self.frames
        )

    def good_parts(self) -> tuple[int, int]:
        """Good parts with at least one rejected photo, and all good parts: the promise's unit."""
        good = [frame for frame in self.frames if not frame.sample.is_defective]
        rejected = {part_of(frame.sample) for frame in good if frame.is_anomalous}
        return len(rejected), len({part_of(frame.sample) for frame in good})

    def latency(self, percentiles: Sequence[float] = (50, 90, 99)) -> dict[str, list[float]]:
        """Milliseconds per frame: for each of `STAGES`, the value at each percentile (linear)."""
        return {
            stage: [
                float(value)
                for value in np.percentile(
                    [getattr(frame.latency, f"{stage}_ms") for frame in self.frames], percentiles
                )
            ]
            for stage in STAGES
        }

    def name_of(self, frame: ScoredFrame) -> str:
        """The image's path from the data set's root, with forward slashes."""
        return frame.sample.path.relative_to(self.root).as_posix()


def evaluate(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str] | Dataset,
    *,
    device: str = "auto",
    engine: str | None = None,
    threads: int = 0,
    resamples: int = RESAMPLES,
    progress: bool = False,
) -> Evaluation:
    """Scores every test image of `data` and computes all metrics.

    Verdicts are those of the site file's threshold where it has one, else of the model's own.

    The first image is scored once more before the others, so that latencies are those of a warm
    engine. Same model, data, engine and machine: the same digits (latency excepted).

    Args:
        model: an ONNX file or a plan.
        data: a data set in the MVTec-AD layout, with test/good and at least one defect type; or
            one that was opened, its test samples sorted by label.
        device: as for `agp_edge.Detector`.
        engine: as for `agp_edge.Detector`.
        threads: as for `agp_edge.Detector`.
        resamples: of the bootstrap.
        progress: show a progress bar on stderr.

    Raises:
        DataError: no test images, one class only, or an unreadable image or mask.
        ModelError: as for `agp_edge.Detector`.
        DependencyError: scikit-learn or SciPy is missing.
    """
    tqdm = require("tqdm").tqdm
    dataset = data if isinstance(data, Dataset) else open_dataset(data)
    types = _defect_types(dataset)
    masked = {sample.label for sample in dataset.test if sample.mask_path is not None}
    manifest = read_manifest(model)
    site = read_site(model)
    threshold_source, threshold_record = None, manifest["threshold"]
    if site is not None and site.threshold is not None:
        threshold_source, threshold_record = "site file", site.threshold_record
    elif threshold_record is not None:
        threshold_source = "model"
    has_threshold = threshold_source is not None
    frames: list[ScoredFrame] = []
    pixels: dict[str, PixelScores] = {}
    with Detector(
        model,
        device=device,
        engine=engine,
        # without a threshold there are no verdicts, yet scores and maps are the same
        threshold=None if has_threshold else 0.0,
        threads=threads,
    ) as detector:
        detector.score(read_image(dataset.test[0].path))
        with tqdm(total=len(dataset.test), unit="image", disable=not progress) as bar:
            for label, samples in groupby(dataset.test, key=lambda sample: sample.label):
                bar.set_description(f"scoring {label}")
                with_maps = label in masked or (label == GOOD and bool(masked))
                maps: list[NDArray[np.float32]] = []
                masks: list[NDArray[np.bool_]] = []
                for sample in samples:
                    image = read_image(sample.path)
                    result = detector.score(image)
                    verdict = result.is_anomalous if has_threshold else None
                    frames.append(
                        ScoredFrame(
                            sample=sample,
                            score=result.score,
                            is_anomalous=verdict,
                            latency=result.latency,
                        )
                    )
                    if with_maps and result.anomaly_map is not None:
                        maps.append(result.anomaly_map)
                        masks.append(_mask_on_map(sample, image.shape, result))
                    bar.update()
                if with_maps:
                    pixels[label] = PixelScores.collect(maps, masks)
        threshold = detector.threshold if has_threshold else None
        engine_name = detector.engine_name
    return Evaluation(
        overall=_metrics(frames, types, pixels, resamples),
        types={name: _metrics(frames, [name], pixels, resamples) for name in types},
        manifest=manifest,
        frames=tuple(frames),
        threshold=threshold,
        engine=engine_name,
        root=dataset.root,
        has_parts=dataset.has_parts,
        threshold_source=threshold_source,
        threshold_record=threshold_record,
    )


def _defect_types(dataset: Dataset) -> list[str]:
    if not dataset.test:
        raise DataError(
            f"data set '{dataset.root}' has no test images; evaluation needs test/good and "
            "test/<defect type>"
        )
    labels = sorted({sample.label for sample in dataset.test})
    types = [label for label in labels if label != GOOD]
    if GOOD not in labels or not types:
        raise DataError(
            f"data set '{dataset.root}' has the test folders {labels}; evaluation needs test/good "
            "and at least one defect type beside it"
        )
    return types


def _mask_on_map(sample: Sample, frame_shape: tuple[int, ...], result: Result) -> NDArray[np.bool_]:
    """The part of the mask that the map covers, at the map's size, by nearest neighbours."""
    assert result.anomaly_map is not None
    height, width = result.anomaly_map.shape
    rows, columns = frame_shape[:2]
    x, y, roi_width, roi_height = result.roi
    if (x, y, roi_width, roi_height) == (0, 0, columns, rows):
        return read_mask(sample, (height, width), image_shape=frame_shape)
    view = read_mask(sample, (rows, columns), image_shape=frame_shape)[
        y : y + roi_height, x : x + roi_width
    ]
    down = ((np.arange(height) + 0.5) * roi_height / height).astype(np.intp)
    across = ((np.arange(width) + 0.5) * roi_width / width).astype(np.intp)
    return np.asarray(view[down[:, None], across[None, :]], np.bool_)


def _metrics(
    frames: Iterable[ScoredFrame],
    types: Sequence[str],
    pixels: dict[str, PixelScores],
    resamples: int,
) -> Metrics:
    chosen = [frame for frame in frames if frame.sample.label in (GOOD, *types)]
    defective = [frame.sample.is_defective for frame in chosen]
    scores = [frame.score for frame in chosen]
    parts = [part_of(frame.sample) for frame in chosen]
    joined = None
    if all(name in pixels for name in types):
        joined = PixelScores.join([pixels[GOOD], *(pixels[name] for name in types)])
    return Metrics(
        image_auroc=image_auroc(defective, scores),
        image_auroc_interval=image_auroc_interval(
            defective, scores, parts=parts, resamples=resamples
        ),
        image_ap=average_precision(defective, scores),
        image_f1_max=f1_max(defective, scores),
        pixel_auroc=None if joined is None else pixel_auroc(joined),
        aupro=None if joined is None else aupro(joined),
        n_good=len(defective) - sum(defective),
        n_defective=sum(defective),
    )
