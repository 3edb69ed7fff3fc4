"""Do two models say the same? Reads two models and a data set, from uint8 frame to decision.

Each model may be a checkpoint of torch, an ONNX file (FP32, FP16, INT8) or a TensorRT plan. All of
them run behind the same preprocessing and postprocessing, so what differs is the network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from agp_edge.comparing.comparison import TOLERANCES, ComparedFrame, Comparison, Tolerances
from agp_edge.comparing.side import OwnThreshold, open_side, own_threshold
from agp_edge.dataset import open_dataset
from agp_edge.dependencies import require
from agp_edge.errors import DataError, ModelError
from agp_edge.images import read_image
from agp_edge.metrics import image_auroc

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from agp_edge.dataset import Sample

__all__ = ["compare"]


def compare(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    limit: int | None = None,
    tolerances: Tolerances | None = None,
    progress: bool = False,
) -> Comparison:
    """Scores every test image with both models and measures how far they lie apart.

    Each model decides with its own threshold, its site file's before its manifest's; one that has
    none (a checkpoint never has) takes the other's. Self-tests are not run: a difference is what is
    looked for.

    Args:
        first: the reference: a checkpoint, an ONNX file or a plan.
        second: the model that is compared with it.
        data: a data set in the MVTec-AD layout, of which the test images are taken, or a folder of
            images.
        limit: take at most so many images, spread evenly; None: all.
        tolerances: None: `TOLERANCES` of the coarser precision.
        progress: show a progress bar on stderr where that is a terminal.

    Raises:
        DataError: no images, or one is unreadable.
        ModelError: a model cannot be opened, or their maps have different sizes.
        DependencyError: scikit-learn, SciPy, or torch for a checkpoint is missing.
    """
    tqdm = require("tqdm").tqdm
    dataset = open_dataset(data)
    samples = _spread(dataset.test or dataset.train, limit)
    if not samples:
        raise DataError(f"data set '{dataset.root}' has no images to compare models on")
    own = (own_threshold(first), own_threshold(second))
    thresholds = _thresholds(*own)
    frames: list[ComparedFrame] = []
    lowest, highest = np.inf, -np.inf
    with (
        open_side(first, None if thresholds is None else thresholds[0]) as a,
        open_side(second, None if thresholds is None else thresholds[1]) as b,
    ):
        for sample in tqdm(
            samples, desc="comparing", unit="image", disable=None if progress else True
        ):
            image = read_image(sample.path)
            answers = a.score(image), b.score(image)
            maps = [_map(answer) for answer in answers]
            if maps[0].shape != maps[1].shape:
                raise ModelError(
                    f"the maps of '{a.name}' are {maps[0].shape} and those of '{b.name}' "
                    f"{maps[1].shape}: only models of one input size can be compared"
                )
            lowest, highest = min(lowest, maps[0].min()), max(highest, maps[0].max())
            difference = np.abs(maps[0] - maps[1])
            frames.append(
                ComparedFrame(
                    sample=sample,
                    scores=(answers[0].score, answers[1].score),
                    verdicts=None
                    if thresholds is None
                    else (answers[0].is_anomalous, answers[1].is_anomalous),
                    map_maximum=float(difference.max()),
                    map_mean=float(difference.mean()),
                )
            )
        used = None if thresholds is None else (a.threshold, b.threshold)
        engines, precisions = (a.engine, b.engine), (a.precision, b.precision)
    return _figures(
        frames,
        float(highest - lowest),
        models=(str(first), str(second)),
        engines=engines,
        precisions=precisions,
        thresholds=used,
        threshold_sources=None if thresholds is None else (_source(own[0]), _source(own[1])),
        root=dataset.root,
        tolerances=tolerances or TOLERANCES[max(precisions, key=list(TOLERANCES).index)],
    )


def _figures(
    frames: Sequence[ComparedFrame],
    span: float,
    *,
    models: tuple[str, str],
    engines: tuple[str, str],
    precisions: tuple[str, str],
    thresholds: tuple[float, float] | None,
    threshold_sources: tuple[str, str] | None,
    root: Path,
    tolerances: Tolerances,
) -> Comparison:
    scores = np.array([frame.scores for frame in frames])  # (images, 2)
    tiny = 1e-12
    differences = np.abs(scores[:, 1] - scores[:, 0])
    shares = differences / np.maximum(np.abs(scores[:, 0]), tiny)
    defective = [frame.sample.is_defective for frame in frames]
    aurocs = None
    if len(set(defective)) == 2:
        aurocs = (image_auroc(defective, scores[:, 0]), image_auroc(defective, scores[:, 1]))
    return Comparison(
        models=models,
        engines=engines,
        precisions=precisions,
        thresholds=thresholds,
        threshold_sources=threshold_sources,
        frames=tuple(frames),
        root=root,
        score_maximum=float(differences.max()),
        score_share_maximum=float(shares.max()),
        score_share_mean=float(shares.mean()),
        map_share_maximum=max(frame.map_maximum for frame in frames) / max(span, tiny),
        map_share_mean=float(np.mean([frame.map_mean for frame in frames])) / max(span, tiny),
        rank_correlation=_rank_correlation(scores),
        image_auroc=aurocs,
        tolerances=tolerances,
    )


def _rank_correlation(scores: NDArray[np.float64]) -> float | None:
    if any(len(set(column)) < 2 for column in scores.T):
        return None
    stats = require("scipy.stats", extra="eval")
    return float(stats.spearmanr(scores[:, 0], scores[:, 1]).statistic)


def _spread(samples: Sequence[Sample], limit: int | None) -> list[Sample]:
    if limit is None or len(samples) <= limit:
        return list(samples)
    # rounding down keeps the places apart
    return [samples[index * len(samples) // limit] for index in range(limit)]


def _map(answer: Any) -> NDArray[np.float32]:
    if answer.anomaly_map is None:
        raise ModelError("a model gave no anomaly map")
    found: NDArray[np.float32] = answer.anomaly_map
    return found


def _thresholds(
    first: OwnThreshold | None, second: OwnThreshold | None
) -> tuple[float | None, float | None] | None:
    """What each side is told: None for its own; no pair where neither has one."""
    if first is None and second is None:
        return None
    return (
        second[0] if first is None and second is not None else None,
        first[0] if second is None and first is not None else None,
    )


def _source(own: OwnThreshold | None) -> str:
    return "other model" if own is None else own[1]
