"""Percentiles with intervals that assume no distribution, jitter, and how many frames they need."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from agp_edge.dependencies import require

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "CONFIDENCE",
    "PERCENTS",
    "Percentile",
    "Summary",
    "autocorrelation",
    "frames_for_interval",
    "frames_for_percentile",
    "percentile",
    "summarise",
]

PERCENTS = (50.0, 90.0, 99.0, 99.9)
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Percentile:
    """One percentile; in the unit of the samples, infinite where unserved frames decide it."""

    percent: float
    value: float | None
    """The order statistic of rank ceil(n p); None: too few samples, see `needed`."""

    low: float | None
    """Lower confidence limit; None: the samples do not bound it."""

    high: float | None
    """Upper confidence limit; None: the samples do not bound it."""

    needed: int
    """Samples from which on there is a value."""

    needed_for_interval: int
    """Samples from which on both limits exist."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A series of times in words of one line each; in the unit of the samples."""

    count: int
    """Samples, unserved ones included."""

    unserved: int
    mean: float | None
    minimum: float | None
    maximum: float | None
    percentiles: tuple[Percentile, ...]

    jitter: float | None
    """Mean absolute difference of consecutive samples (inter-packet delay variation, RFC 3393)."""

    variation_p99: float | None
    """99th percentile of sample minus minimum (packet delay variation, RFC 5481)."""

    autocorrelation: float | None
    """Of neighbours: above about 0.1 the intervals, which take samples as independent, are too
    narrow."""

    def at(self, percent: float) -> Percentile:
        """One of the percentiles; StopIteration where it was not asked for."""
        return next(p for p in self.percentiles if p.percent == percent)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: what is infinite becomes null, beside the number of unserved frames."""
        document = asdict(self)
        for key in ("mean", "maximum", "variation_p99"):
            document[key] = _finite(document[key])
        document["percentiles"] = {
            f"p{p.percent:g}": {
                "value": _finite(p.value),
                "low": _finite(p.low),
                "high": _finite(p.high),
                "needed": p.needed,
                "needed_for_interval": p.needed_for_interval,
            }
            for p in self.percentiles
        }
        return document


def frames_for_percentile(percent: float) -> int:
    """The least n of which one sample is expected to lie beyond the percentile."""
    return math.ceil(round(1 / (1 - percent / 100), 6))


def frames_for_interval(percent: float, confidence: float = CONFIDENCE) -> int:
    """The least n with which both limits of the interval are order statistics.

    The largest of n samples is an upper limit with confidence 1 - p^n, the smallest a lower one
    with 1 - (1 - p)^n; each side gets half of the error.
    """
    p = percent / 100
    error = (1 - confidence) / 2
    return math.ceil(max(math.log(error) / math.log(p), math.log(error) / math.log(1 - p)))


def percentile(
    ordered: NDArray[np.float64], percent: float, confidence: float = CONFIDENCE
) -> Percentile:
    """A percentile and its distribution-free interval by order statistics.

    The number of samples below the true percentile is binomial, whatever the distribution is, so
    the order statistics whose ranks enclose that number with the given probability enclose the
    percentile (David, Nagaraja: Order Statistics, 3rd ed., 7.1). Independent samples are assumed.

    Args:
        ordered: float64 (n,), ascending; infinity stands for a frame that was never served.
        percent: between 0 and 100, exclusive.
        confidence: of the interval, two-sided.

    Raises:
        DependencyError: SciPy is not installed.
    """
    n, p = len(ordered), percent / 100
    needed = frames_for_percentile(percent)
    value = low = high = None
    if n >= needed:
        # 99.9 / 100 * 1000 is a little more than 999 in floating point
        value = float(ordered[math.ceil(round(n * p, 9)) - 1])
        ranks = require("scipy.stats", extra="bench").binom.ppf(
            [(1 - confidence) / 2, (1 + confidence) / 2], n, p
        )
        first, last = int(ranks[0]), int(ranks[1]) + 1  # from 1
        low = float(ordered[first - 1]) if first >= 1 else None
        high = float(ordered[last - 1]) if last <= n else None
    return Percentile(
        percent=percent,
        value=value,
        low=low,
        high=high,
        needed=needed,
        needed_for_interval=frames_for_interval(percent, confidence),
    )


def autocorrelation(values: ArrayLike) -> float | None:
    """Correlation of neighbouring values; None where they are fewer than 3 or all the same."""
    series = np.asarray(values, np.float64)
    if len(series) < 3:
        return None
    centred = series - series.mean()
    variance = float(centred @ centred)
    return float(centred[1:] @ centred[:-1]) / variance if variance > 0 else None


def summarise(values: ArrayLike, *, unserved: int = 0) -> Summary:
    """Describes a series; nothing is cut off or clipped.

    Args:
        values: (n,) in the order of time, finite.
        unserved: how many more samples there would be, each larger than all of `values`.

    Raises:
        DependencyError: SciPy is not installed.
    """
    series = np.asarray(values, np.float64)
    ordered = np.concatenate([np.sort(series), np.full(unserved, np.inf)])
    percentiles = tuple(percentile(ordered, percent) for percent in PERCENTS)
    some = len(ordered) > 0
    p99 = next(p.value for p in percentiles if p.percent == 99.0)
    return Summary(
        count=len(ordered),
        unserved=unserved,
        mean=float(ordered.mean()) if some else None,
        minimum=float(ordered[0]) if some else None,
        maximum=float(ordered[-1]) if some else None,
        percentiles=percentiles,
        jitter=float(np.abs(np.diff(series)).mean()) if len(series) > 1 else None,
        variation_p99=None if p99 is None else p99 - float(ordered[0]),
        autocorrelation=autocorrelation(series),
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
