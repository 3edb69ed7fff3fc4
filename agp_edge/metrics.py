"""How well scores and anomaly maps separate good from defective: AUROC, AP, F1-max, AUPRO.

Image-level figures come from scikit-learn. The pixel-level curves are built here from sorted
scores, since scikit-learn knows no regions and flattening a thousand maps for it takes gigabytes;
they are exact, not binned. A larger score is more anomalous everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from agp_edge.dependencies import require
from agp_edge.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "AUPRO_LIMIT",
    "RESAMPLES",
    "PixelScores",
    "aupro",
    "average_precision",
    "f1_max",
    "image_auroc",
    "image_auroc_interval",
    "part_strata",
    "pixel_auroc",
    "rate_interval",
]

AUPRO_LIMIT = 0.3  # false-positive rate up to which per-region overlap is integrated
# A 95 % limit then varies from seed to seed by about 2 % of the interval's width (normal
# approximation: sqrt(0.025 * 0.975 / 2000) / density at 1.96 sigma, over 3.92 sigma).
RESAMPLES = 2000


def image_auroc(defective: ArrayLike, scores: ArrayLike) -> float:
    """Area under the receiver operating characteristic, by `sklearn.metrics.roc_auc_score`.

    Args:
        defective: bool (n,), True for a defective image.
        scores: float (n,), any range.

    Raises:
        DataError: one class is missing, or a score is not finite.
        DependencyError: scikit-learn is not installed.
    """
    labels, values = _checked(defective, scores)
    return float(require("sklearn.metrics").roc_auc_score(labels, values))


def average_precision(defective: ArrayLike, scores: ArrayLike) -> float:
    """Mean precision over the recall steps, by `sklearn.metrics.average_precision_score`.

    Args and errors as in `image_auroc`. The value of a guess is the share of defective images.
    """
    labels, values = _checked(defective, scores)
    return float(require("sklearn.metrics").average_precision_score(labels, values))


def f1_max(defective: ArrayLike, scores: ArrayLike) -> float:
    """Largest F1 of any threshold, from `sklearn.metrics.precision_recall_curve`.

    Args and errors as in `image_auroc`. The threshold is chosen on the test images themselves: an
    upper bound for comparison with other tables, not what a line will see.
    """
    labels, values = _checked(defective, scores)
    precision, recall, _ = require("sklearn.metrics").precision_recall_curve(labels, values)
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    return float(f1.max())


def image_auroc_interval(
    defective: ArrayLike,
    scores: ArrayLike,
    *,
    parts: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of `image_auroc`, resampling parts and not photos.

    Photos of one part rise and fall together, so whole parts are drawn with replacement (cluster
    bootstrap). Parts with only good, only defective and both kinds of photos are drawn separately,
    each to its own number, so that every resample has both classes. The interval says nothing
    about parts unlike those tested, and has no width where the classes do not overlap.

    Args:
        defective: bool (n,).
        scores: float (n,).
        parts: n names, photos of one part under one name; None: every image is a part.
        resamples: how many resamples are drawn.
        seed: the same seed and data give the same interval.
        level: coverage aimed at, in (0, 1).

    Returns:
        Lower and upper limit.

    Raises:
        DataError: as in `image_auroc`.
        ValueError: `parts` has another length, or an option is out of range.
    """
    labels, values = _checked(defective, scores)
    if parts is not None and len(parts) != len(labels):
        raise ValueError(f"{len(parts)} parts given for {len(labels)} images")
    if resamples < 1 or not 0.0 < level < 1.0:
        raise ValueError(f"resamples {resamples} must be positive, level {level} in (0, 1)")
    names = np.arange(len(labels)) if parts is None else np.asarray(parts)
    clusters, index = np.unique(names, return_inverse=True)
    strata = part_strata(labels, index, len(clusters))

    good = np.flatnonzero(~labels)
    good = good[np.argsort(values[good], kind="stable")]
    bad = np.flatnonzero(labels)
    below = np.searchsorted(values[good], values[bad], side="left")
    not_above = np.searchsorted(values[good], values[bad], side="right")

    generator = np.random.default_rng(seed)
    estimates = np.empty(resamples)
    for number in range(resamples):
        drawn = np.zeros(len(clusters), np.int64)
        for members in strata:
            picks = generator.integers(0, len(members), len(members))
            drawn[members] = np.bincount(picks, minlength=len(members))
        weight = drawn[index]
        good_up_to = np.concatenate(([0], np.cumsum(weight[good])))
        # Mann-Whitney with ties counted half, each photo weighted by how often it was drawn
        wins = (good_up_to[below] + good_up_to[not_above]) @ weight[bad] / 2
        estimates[number] = wins / (good_up_to[-1] * weight[bad].sum())
    tail = (1.0 - level) / 2
    low, high = np.quantile(estimates, [tail, 1.0 - tail])
    return float(low), float(high)


def rate_interval(count: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Exact (Clopper-Pearson) interval of a rate, by `scipy.stats.binomtest`.

    Args:
        count: independent parts with the property, such as good parts rejected.
        total: all parts, at least one.
        level: coverage at least, in (0, 1).
    """
    interval = require("scipy.stats").binomtest(count, total).proportion_ci(level, "exact")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class PixelScores:
    """Anomaly-map values of some images, sorted so that curves over every threshold are cheap.

    Groups (the good images, one defect type, another) are collected apart and joined with
    `join`, so that no map is kept or sorted twice. Memory: 4 bytes per defect-free pixel and 16
    per defective one, 260 MB for a thousand maps of 256 x 256.
    """

    normal: tuple[NDArray[np.float32], ...]  # ascending arrays of the values outside every defect
    defective: NDArray[np.float32]  # (n,) values inside defects
    weights: NDArray[np.float64]  # (n,) 1 / pixels of the region that each belongs to
    regions: int

    @classmethod
    def collect(
        cls, maps: Sequence[NDArray[np.float32]], masks: Sequence[NDArray[np.bool_]]
    ) -> PixelScores:
        """Sorts the values of some maps.

        Args:
            maps: float32 (height, width) each; sizes may differ.
            masks: bool, each of its map's shape, True inside a defect. Regions are the
                8-connected parts of a mask (diagonal neighbours belong together), labelled by
                `scipy.ndimage.label` as in MVTec-AD's own evaluation.

        Raises:
            DataError: a map holds a value that is not finite.
            ValueError: shapes or counts differ.
        """
        label = require("scipy.ndimage").label
        if len(maps) != len(masks):
            raise ValueError(f"{len(maps)} maps given with {len(masks)} masks")
        normal: list[NDArray[np.float32]] = []
        defective: list[NDArray[np.float32]] = []
        weights: list[NDArray[np.float64]] = []
        regions = 0
        for scores, mask in zip(maps, masks, strict=True):
            if scores.shape != mask.shape:
                raise ValueError(f"a map of shape {scores.shape} has a mask of {mask.shape}")
            if not np.isfinite(scores).all():
                raise DataError("an anomaly map holds a value that is not finite; score it again")
            labels, count = label(mask, structure=np.ones((3, 3), np.int8))
            inside = labels[mask]
            normal.append(np.asarray(scores[~mask], np.float32))
            defective.append(np.asarray(scores[mask], np.float32))
            weights.append(1.0 / np.bincount(inside, minlength=count + 1)[inside])
            regions += count
        values = np.concatenate([np.empty(0, np.float32), *normal])
        values.sort()
        return cls(
            (values,),
            np.concatenate([np.empty(0, np.float32), *defective]),
            np.concatenate([np.empty(0, np.float64), *weights]),
            regions,
        )

    @classmethod
    def join(cls, groups: Sequence[PixelScores]) -> PixelScores:
        """The images of several groups together; the sorted values are shared, not copied."""
        return cls(
            tuple(values for group in groups for values in group.normal),
            np.concatenate([group.defective for group in groups]),
            np.concatenate([group.weights for group in groups]),
            sum(group.regions for group in groups),
        )

    def curve(self, weights: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """False-positive rate against the weighted share of defective pixels found.

        Exact over all thresholds: between two values that occur inside defects the share is
        constant, so the corners at those values hold the whole piecewise linear curve.

        Args:
            weights: float (n,), one per defective pixel; the share is normalised to their sum.

        Returns:
            Two float64 arrays (k,), both ascending from 0 to 1.

        Raises:
            DataError: there is no defective or no defect-free pixel.
        """
        normal = sum(len(values) for values in self.normal)
        if not normal or not len(self.defective):
            kind = "defect-free" if not normal else "defective"
            raise DataError(
                f"no {kind} pixel in {self.regions} masked regions; pixel metrics need both kinds"
            )
        order = np.argsort(-self.defective, kind="stable")
        values = self.defective[order]
        found = np.cumsum(np.asarray(weights, np.float64)[order])
        last = np.flatnonzero(np.append(values[1:] != values[:-1], True))
        thresholds, found = values[last], found[last] / found[-1]

        above = np.zeros(len(thresholds), np.int64)
        not_below = np.zeros(len(thresholds), np.int64)
        for ordered in self.normal:
            above += len(ordered) - np.searchsorted(ordered, thresholds, side="right")
            not_below += len(ordered) - np.searchsorted(ordered, thresholds, side="left")
        # at each threshold: reached with the share so far, left with the pixels of that value
        rates = np.stack([above, not_below], axis=1).ravel() / normal
        shares = np.stack([np.append(0.0, found[:-1]), found], axis=1).ravel()
        return np.concatenate(([0.0], rates, [1.0])), np.concatenate(([0.0], shares, [1.0]))


def pixel_auroc(pixels: PixelScores) -> float:
    """Area under the receiver operating characteristic over all pixels, exact.

    `sklearn.metrics.auc` of the exact curve: equal to `roc_auc_score` of the flattened maps.

    Raises:
        DataError: there is no defective or no defect-free pixel.
    """
    rates, shares = pixels.curve(np.ones(len(pixels.defective)))
    return float(require("sklearn.metrics").auc(rates, shares))


def aupro(pixels: PixelScores, limit: float = AUPRO_LIMIT) -> float:
    """Area under the per-region overlap curve up to a false-positive rate, divided by that rate.

    Bergmann et al., "The MVTec Anomaly Detection Dataset" (IJCV 2021): at each threshold, the mean
    over all regions of the share of the region's pixels found, against the share of defect-free
    pixels (those of good images included) that are above it. Exact over all thresholds, trapezoid
    between them, interpolated linearly at the limit.

    Args:
        pixels: defects and defect-free pixels, see `PixelScores.collect` for what a region is.
        limit: false-positive rate, in (0, 1].

    Raises:
        DataError: there is no defective or no defect-free pixel.
        ValueError: `limit` is out of range.
    """
    if not 0.0 < limit <= 1.0:
        raise ValueError(f"the false-positive limit {limit} must lie in (0, 1]")
    rates, shares = pixels.curve(pixels.weights)
    inside = int(np.searchsorted(rates, limit, side="right"))
    x, y = rates[:inside], shares[:inside]
    if inside < len(rates):
        x0, x1 = rates[inside - 1], rates[inside]
        step = (limit - x0) / (x1 - x0) * (shares[inside] - shares[inside - 1])
        x, y = np.append(x, limit), np.append(y, shares[inside - 1] + step)
    return float(((x[1:] - x[:-1]) * (y[1:] + y[:-1])).sum() / 2 / limit)


def _checked(
    defective: ArrayLike, scores: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    labels = np.asarray(defective, np.bool_)
    values = np.asarray(scores, np.float64)
    if labels.ndim != 1 or labels.shape != values.shape:
        raise ValueError(f"labels {labels.shape} and scores {values.shape} must be equal vectors")
    bad = int(labels.sum())
    if bad == 0 or bad == len(labels):
        raise DataError(
            f"{len(labels) - bad} good and {bad} defective images; these metrics need at least one "
            "of each (test/good and test/<defect type>)"
        )
    if not np.isfinite(values).all():
        raise DataError(
            f"{int((~np.isfinite(values)).sum())} of {len(values)} scores are not finite numbers; "
            "metrics need finite ones"
        )
    return labels, values


def part_strata(
    labels: NDArray[np.bool_], index: NDArray[np.intp], clusters: int
) -> list[NDArray[np.intp]]:
    """Parts with only good, only defective, and both kinds of photos: a bootstrap's strata.

    Args:
        labels: bool (n,), True for a defective photo.
        index: (n,), the part that each photo shows, 0 to clusters - 1.
        clusters: number of parts.

    Returns:
        Indices of parts, one array for each stratum that is not empty.
    """
    bad = np.bincount(index, weights=labels, minlength=clusters)
    every = np.bincount(index, minlength=clusters)
    kinds = (bad == 0, bad == every, (bad > 0) & (bad < every))
    return [members for kind in kinds if len(members := np.flatnonzero(kind))]
