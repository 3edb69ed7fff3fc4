"""The circular block bootstrap: intervals for series whose neighbours are alike."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["block_length", "bootstrap_percentiles"]

# Correlations at so many lags in a row have to be small before the rest is called noise.
QUIET_LAGS = 5


def block_length(values: ArrayLike) -> int:
    """Length of the blocks for a series, by Politis and White's automatic rule.

    Politis, White: Automatic block-length selection for the dependent bootstrap, 2004, with the
    correction by Patton, Politis, White, 2009; for the circular block bootstrap.

    Args:
        values: (n,).

    Returns:
        1 (independent samples) to n / 3.
    """
    series = np.asarray(values, np.float64)
    n = len(series)
    longest = max(1, n // 3)
    centred = series - series.mean()
    if n < 10 or not centred.any():
        return 1
    quiet = max(QUIET_LAGS, math.ceil(math.sqrt(math.log10(n))))
    most = min(n - 1, math.ceil(math.sqrt(n)) + quiet)
    covariance = np.array([centred[lag:] @ centred[: n - lag] for lag in range(most + 1)]) / n
    small = np.abs(covariance / covariance[0]) < 2 * math.sqrt(math.log10(n) / n)
    runs = (m for m in range(most - quiet + 1) if small[m + 1 : m + 1 + quiet].all())
    width = 2 * max(1, next(runs, most - quiet))
    lags = np.arange(1, min(width, most) + 1)
    weights = np.minimum(1.0, 2 * (1 - lags / width))  # flat-top window
    spectrum = float(covariance[0] + 2 * (weights @ covariance[lags]))
    slope = float(2 * ((weights * lags) @ covariance[lags]))
    if spectrum <= 0:
        return longest
    optimal = (2 * slope**2 / (4 / 3 * spectrum**2)) ** (1 / 3) * n ** (1 / 3)
    return int(min(longest, max(1, math.ceil(optimal))))


def bootstrap_percentiles(
    values: NDArray[np.float64],
    percents: tuple[float, ...],
    *,
    resamples: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Percentiles of resampled series: blocks of neighbours, drawn from a ring.

    Args:
        values: (n,) in the order of time; infinity stands for a frame that was never served.
        percents: between 0 and 100, exclusive.
        resamples: how many series are drawn.
        rng: makes the draws.

    Returns:
        float64 (resamples, len(percents)).
    """
    n = len(values)
    finite = np.where(np.isfinite(values), values, values[np.isfinite(values)].max(initial=0.0))
    length = block_length(finite)
    ring = np.concatenate([values, values[: length - 1]])
    ranks = [math.ceil(round(n * percent / 100, 9)) - 1 for percent in percents]
    found = np.empty((resamples, len(percents)))
    for row in found:
        starts = rng.integers(0, n, -(-n // length))
        drawn = ring[(starts[:, None] + np.arange(length)).ravel()[:n]]
        row[:] = np.partition(drawn, ranks)[ranks]
    return found
