"""Ranges of activations: calibration inputs -> the largest absolute value that INT8 shall show.

A range is a compromise: a wide one rounds coarsely, a narrow one clips. Four ways to choose:

"minmax"      the largest value seen; nothing is clipped
"percentile"  99.99 % of the values lie inside
"mse"         the smallest mean square error of quantised values
"entropy"     the least information lost: Kullback-Leibler divergence of quantised and original
              histogram (Migacz, "8-bit inference with TensorRT", GTC 2017)

Inputs are read once and one at a time; what stays is a histogram per tensor.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from agp_edge.calibration.graph.run_graph import open_graph
from agp_edge.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

__all__ = ["RANGES", "Histogram", "collect_ranges", "range_from_histogram"]

RANGES = ("entropy", "minmax", "mse", "percentile")
BINS = 4096
LEVELS = 127  # of a sign
PERCENTILE = 0.9999


class Histogram:
    """Counts of absolute values in equal bins from 0 on; twice as wide whenever a value is beyond.

    Doubling joins pairs of bins, so the counts stay exact and the memory what it is.
    """

    def __init__(self, bins: int = BINS) -> None:
        self.counts: NDArray[np.int64] = np.zeros(bins, np.int64)
        self.limit = 0.0
        self.peak = 0.0

    def add(self, values: NDArray[np.float32]) -> None:
        """Counts values of any shape.

        Raises:
            ModelError: one is not finite.
        """
        sizes = np.abs(values).ravel()
        peak = float(sizes.max(initial=0.0))
        if not math.isfinite(peak):
            raise ModelError(
                "the network gives values that are not finite on the calibration images: check "
                "the model with `agp-edge score`"
            )
        self.peak = max(self.peak, peak)
        if peak == 0.0 and self.limit == 0.0:
            return
        if self.limit == 0.0:
            self.limit = 2.0 ** math.ceil(math.log2(peak))
        while peak > self.limit:
            joined = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts[:] = 0
            self.counts[: len(joined)] = joined
            self.limit *= 2.0
        bins = len(self.counts)
        places = np.minimum((sizes * np.float32(bins / self.limit)).astype(np.int32), bins - 1)
        self.counts += np.bincount(places, minlength=bins)


def collect_ranges(
    model: ModelProto,
    tensors: Sequence[str],
    inputs: Iterable[NDArray[np.float32]],
    *,
    method: str,
) -> dict[str, float]:
    """The range of each tensor over the inputs; 0 where a tensor is always zero.

    Args:
        model: FP32.
        tensors: names.
        inputs: (1, 3, H, W) each.
        method: one of `RANGES`.

    Raises:
        ModelError: a value is not finite.
    """
    histograms = {name: Histogram() for name in tensors}
    run = open_graph(model, tensors)
    for image in inputs:
        for histogram, values in zip(histograms.values(), run(image), strict=True):
            histogram.add(values)
    return {name: range_from_histogram(h, method) for name, h in histograms.items()}


def range_from_histogram(histogram: Histogram, method: str) -> float:
    """The range by one of the methods of `RANGES`."""
    if histogram.peak == 0.0 or method == "minmax":
        return histogram.peak
    width = histogram.limit / len(histogram.counts)
    used = min(len(histogram.counts), math.floor(histogram.peak / width) + 1)
    counts = histogram.counts[:used].astype(np.float64)
    if method == "percentile":
        reached = np.cumsum(counts) >= PERCENTILE * counts.sum()
        bins = int(np.argmax(reached)) + 1
    elif method == "mse":
        bins = _least_error(counts)
    else:
        bins = _least_divergence(counts)
    return min(histogram.peak, bins * width)


def _least_error(counts: NDArray[np.float64]) -> int:
    """How many bins make the range whose quantised values have the least mean square error."""
    used = np.flatnonzero(counts)
    centres, weights = used + 0.5, counts[used]
    best, least = len(counts), math.inf
    for bins in _candidates(len(counts), 1):
        step = bins / LEVELS
        error = centres - step * np.minimum(np.rint(centres / step), LEVELS)
        total = float((weights * error * error).sum())
        if total < least:
            best, least = bins, total
    return best


def _least_divergence(counts: NDArray[np.float64]) -> int:
    """How many bins make the range whose quantised histogram is nearest to the original one."""
    counts = counts.copy()
    counts[0] = 0.0  # zeros, half of all values behind a ReLU, are exact at any range
    best, least = len(counts), math.inf
    for bins in _candidates(len(counts), LEVELS + 1):
        clipped = counts[:bins].copy()
        original = clipped.copy()
        original[-1] += counts[bins:].sum()
        filled = clipped > 0
        level = np.arange(bins) * (LEVELS + 1) // bins
        sums = np.bincount(level, clipped, LEVELS + 1)
        places = np.bincount(level, filled, LEVELS + 1)
        quantised = np.where(filled, (sums / np.maximum(places, 1))[level], 0.0)
        if not quantised.any() or (original[~filled] > 0).any():
            continue  # values were moved to a bin that the quantised histogram does not have
        p = original[filled] / original.sum()
        q = quantised[filled] / quantised.sum()
        divergence = float((p * np.log(p / q)).sum())
        if divergence < least:
            best, least = bins, divergence
    return best


def _candidates(bins: int, lowest: int) -> list[int]:
    """About 200 range widths in bins, from `lowest` on, the full range last."""
    first = max(lowest, bins // 200)
    return sorted({*(round(x) for x in np.linspace(first, bins, 200)), bins})
