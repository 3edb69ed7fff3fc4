"""Latencies as numbers ready to be drawn: histogram, timeline and stages, inline SVG in a page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from agp_edge.bench.statistics import Summary

__all__ = ["Chart", "Column", "Part", "latency_histogram", "stage_parts", "timeline"]

WIDTH, HEIGHT = 860.0, 200.0
BINS = 60
# Drawn columns of the timeline; each spans the smallest to the largest latency that fell into it.
COLUMNS = 430


@dataclass(frozen=True)
class Column:
    """One bar of a chart, in its units: x to the right, y down."""

    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class Chart:
    """A drawing of `width` x `height` units; the base line is at `height`."""

    columns: tuple[Column, ...]
    ticks: tuple[tuple[float, str], ...]
    """x and label."""

    levels: tuple[tuple[float, str], ...]
    """y and label."""

    deadline: float | None
    """Where the deadline is: x of a histogram, y of a timeline; None: outside."""

    width: float = WIDTH
    height: float = HEIGHT


@dataclass(frozen=True)
class Part:
    """One stage of the waterfall: where it begins and how long it is, shares of the whole."""

    name: str
    start: float
    length: float
    mean_ms: float


def latency_histogram(latency_ms: NDArray[np.float64], deadline_ms: float) -> Chart:
    """Counts over bins of equal ratio, as a tail of long latencies wants it; square-root height.

    Args:
        latency_ms: (n,), at least one, positive.
        deadline_ms: marked where it lies within the axis.
    """
    low, high = float(latency_ms.min()) * 0.95, float(latency_ms.max()) * 1.05
    edges = np.geomspace(low, high, BINS + 1)
    counts = np.histogram(latency_ms, edges)[0]
    top = int(counts.max())
    bin_width = WIDTH / BINS

    def x_of(value: float) -> float:
        return WIDTH * math.log(value / low) / math.log(high / low)

    def height_of(count: float) -> float:
        return HEIGHT * math.sqrt(count / top)

    columns = tuple(
        Column(
            x=number * bin_width + 0.5,
            y=HEIGHT - height_of(count),
            width=bin_width - 1,
            height=height_of(count),
            title=f"{count} frames, {edges[number]:.3g} to {edges[number + 1]:.3g} ms",
        )
        for number, count in enumerate(counts.tolist())
        if count
    )
    levels = sorted({1, *(max(1, round(top * share)) for share in (0.1, 0.5, 1.0))})
    return Chart(
        columns=columns,
        ticks=tuple((x_of(value), f"{value:g}") for value in _round_values(low, high)),
        levels=tuple((HEIGHT - height_of(count), f"{count}") for count in levels),
        deadline=x_of(deadline_ms) if low <= deadline_ms <= high else None,
    )


def timeline(
    due_s: NDArray[np.float64], latency_ms: NDArray[np.float64], deadline_ms: float
) -> Chart:
    """Latency over the time at which frames were due; every frame lies within its column's span.

    Args:
        due_s: (n,), at least one, ascending.
        latency_ms: (n,), positive.
        deadline_ms: marked where it is no higher than the chart.
    """
    span = max(float(due_s[-1]), 1e-9)
    top = float(latency_ms.max()) * 1.05
    place = np.minimum((due_s / span * COLUMNS).astype(np.intp), COLUMNS - 1)
    column_width = WIDTH / COLUMNS
    columns = []
    for number in np.unique(place):
        values = latency_ms[place == number]
        highest, lowest = HEIGHT * (1 - values.max() / top), HEIGHT * (1 - values.min() / top)
        columns.append(
            Column(
                x=float(number) * column_width,
                y=float(highest),
                width=column_width,
                height=max(2.5, float(lowest - highest)),
                title=f"{number * span / COLUMNS:.2f} s: {values.min():.3g} to "
                f"{values.max():.3g} ms",
            )
        )
    levels = [value for value in _round_values(top / 1000, top) if value >= top / 12]
    return Chart(
        columns=tuple(columns),
        ticks=tuple((WIDTH * share, f"{span * share:.3g} s") for share in (0, 0.25, 0.5, 0.75, 1)),
        levels=tuple((HEIGHT * (1 - value / top), f"{value:g}") for value in levels),
        deadline=HEIGHT * (1 - deadline_ms / top) if deadline_ms <= top else None,
    )


def stage_parts(stages: Mapping[str, Summary | None], names: Mapping[str, str]) -> list[Part]:
    """Mean of each stage behind the one before it: means add up, medians do not.

    Args:
        stages: in the order of the frame's way; None and unserved frames are left out.
        names: what the page calls them.
    """
    means = [
        (names[key], summary.mean)
        for key, summary in stages.items()
        if summary is not None and summary.mean is not None
    ]
    whole = sum(mean for _, mean in means) or 1.0
    parts, start = [], 0.0
    for name, mean in means:
        parts.append(Part(name=name, start=start / whole, length=mean / whole, mean_ms=mean))
        start += mean
    return parts


def _round_values(low: float, high: float) -> Sequence[float]:
    """1, 2 and 5 times powers of ten within [low, high]."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [round(factor * 10.0**power, 12) for power in powers for factor in (1, 2, 5)]
    return [value for value in values if low <= value <= high]
