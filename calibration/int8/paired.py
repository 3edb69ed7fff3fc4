"""What a changed model loses on the same images, AUROC and AUPRO, and how sure that is.

Both models are judged on the same resampled parts (paired cluster bootstrap), so that images which
are hard for both cancel out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agp_edge.dependencies import require
from agp_edge.metrics import AUPRO_LIMIT, part_strata

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Loss", "OverlapTable", "aupro_loss", "auroc_loss", "resampled_weights"]

RESAMPLES = 1000
LEVEL = 0.95
# Levels of the false-positive rate at which maps are tabulated. Resampling moves the rate of a
# level, so they reach well beyond the limit.
LEVELS = 400
REACH = 2.0 * AUPRO_LIMIT


@dataclass(frozen=True, kw_only=True)
class Loss:
    """By how much a figure falls; negative: it rises."""

    before: float
    after: float
    value: float
    """before - after."""

    upper: float
    """Upper end of the two-sided 95 % interval of `value`."""

    lower: float
    """Lower end of it."""


def resampled_weights(
    defective: NDArray[np.bool_], parts: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """How often each image is drawn in each resample of whole parts: (resamples, n)."""
    clusters, index = np.unique(np.asarray(parts), return_inverse=True)
    generator = np.random.default_rng(seed)
    drawn = np.zeros((resamples, len(clusters)))
    for members in part_strata(defective, index, len(clusters)):
        for row in drawn:
            picks = generator.integers(0, len(members), len(members))
            row[members] = np.bincount(picks, minlength=len(members))
    return drawn[:, index]


def auroc_loss(
    defective: NDArray[np.bool_],
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> Loss:
    """Loss of image AUROC.

    Args:
        defective: bool (n,).
        before: scores (n,) of the reference.
        after: scores (n,) of the other model.
        weights: of `resampled_weights`.
    """
    ones = np.ones((1, len(defective)))
    values = [_aurocs(defective, scores, ones)[0] for scores in (before, after)]
    resampled = _aurocs(defective, before, weights) - _aurocs(defective, after, weights)
    return _loss(float(values[0]), float(values[1]), resampled)


def _aurocs(
    defective: NDArray[np.bool_], scores: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """AUROC of each row of weights; ties count half (Mann and Whitney)."""
    good, bad = np.flatnonzero(~defective), np.flatnonzero(defective)
    good = good[np.argsort(scores[good], kind="stable")]
    below = np.searchsorted(scores[good], scores[bad], side="left")
    not_above = np.searchsorted(scores[good], scores[bad], side="right")
    up_to = np.concatenate([np.zeros((len(weights), 1)), np.cumsum(weights[:, good], axis=1)], 1)
    wins = (up_to[:, below] + up_to[:, not_above]) * weights[:, bad] / 2.0
    return np.asarray(wins.sum(axis=1) / (up_to[:, -1] * weights[:, bad].sum(axis=1)))


@dataclass(frozen=True)
class OverlapTable:
    """Of each image, at each of many thresholds: what a per-region overlap curve is made of."""

    above: NDArray[np.float64]
    """(n, levels): defect-free pixels above the threshold."""

    overlap: NDArray[np.float64]
    """(n, levels): the found shares of the image's regions, added up."""

    normal: NDArray[np.float64]
    """(n,): defect-free pixels."""

    regions: NDArray[np.float64]
    """(n,)."""

    @classmethod
    def collect(
        cls, maps: Sequence[NDArray[np.float32]], masks: Sequence[NDArray[np.bool_]]
    ) -> OverlapTable:
        """Tabulates some maps (H, W) with their masks, as `metrics.PixelScores.collect`."""
        label = require("scipy.ndimage").label
        sample = np.concatenate([m[~k][::7] for m, k in zip(maps, masks, strict=True)])
        shares = np.linspace(0.0, min(REACH, 1.0), LEVELS)
        # descending, so that rates rise along the levels
        thresholds = np.quantile(sample, 1.0 - shares).astype(np.float32)
        rising = thresholds[::-1]
        above, overlap, normal, regions = [], [], [], []
        for scores, mask in zip(maps, masks, strict=True):
            outside = scores[~mask]
            above.append(_counts_above(outside, np.ones(len(outside)), rising))
            labels, count = label(mask, structure=np.ones((3, 3), np.int8))
            inside = labels[mask]
            share = 1.0 / np.bincount(inside, minlength=count + 1)[inside]
            overlap.append(_counts_above(scores[mask], share, rising))
            normal.append(len(outside))
            regions.append(count)
        return cls(
            np.stack(above),
            np.stack(overlap),
            np.asarray(normal, np.float64),
            np.asarray(regions, np.float64),
        )

    def aupro(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """AUPRO for each row of image weights (resamples, n), by the trapezoid rule."""
        rates = weights @ self.above / (weights @ self.normal)[:, None]
        shares = weights @ self.overlap / (weights @ self.regions)[:, None]
        grid = np.linspace(0.0, AUPRO_LIMIT, LEVELS)
        curves = np.stack(
            [np.interp(grid, [0.0, *x], [0.0, *y]) for x, y in zip(rates, shares, strict=True)]
        )
        steps = (curves[:, 1:] + curves[:, :-1]) / 2.0
        return np.asarray(steps.mean(axis=1))


def aupro_loss(before: OverlapTable, after: OverlapTable, weights: NDArray[np.float64]) -> Loss:
    """Loss of AUPRO; both values from the tables, so that they are rounded alike."""
    ones = np.ones((1, len(before.normal)))
    resampled = before.aupro(weights) - after.aupro(weights)
    return _loss(float(before.aupro(ones)[0]), float(after.aupro(ones)[0]), resampled)


def _counts_above(
    values: NDArray[np.float32], weights: NDArray[np.float64], rising: NDArray[np.float32]
) -> NDArray[np.float64]:
    """The weight of the values above each threshold, for the thresholds from the highest down."""
    places = np.searchsorted(rising, values, side="left")  # thresholds below the value
    counted = np.bincount(places, weights, len(rising) + 1)
    return np.cumsum(counted[::-1], dtype=np.float64)[:-1]


def _loss(before: float, after: float, resampled: NDArray[np.float64]) -> Loss:
    lower, upper = np.quantile(resampled, ((1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0))
    return Loss(
        before=before, after=after, value=before - after, upper=float(upper), lower=float(lower)
    )
