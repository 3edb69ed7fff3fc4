"""The score histogram as numbers ready to be drawn: an inline SVG in the page's template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Bar", "Histogram", "score_histogram"]

BINS = 36


@dataclass(frozen=True)
class Bar:
    """One bar, in units of the drawing: x to the right, y down, the base line at `height`."""

    x: float
    y: float
    width: float
    height: float
    defective: bool
    title: str


@dataclass(frozen=True)
class Histogram:
    """A drawing of `width` x `height` units."""

    width: float
    height: float
    bars: tuple[Bar, ...]
    threshold_x: float | None
    ticks: tuple[tuple[float, str], ...]  # x, label of the score axis
    levels: tuple[tuple[float, str], ...]  # y, label of the count axis


def score_histogram(
    good: Sequence[float],
    defective: Sequence[float],
    threshold: float | None,
    *,
    width: float = 860.0,
    height: float = 220.0,
) -> Histogram:
    """Counts of both classes over common bins, side by side in each bin.

    The axis is linear and spans all scores and the threshold. Raw scores have no unit.

    Args:
        good: scores of good frames, finite.
        defective: scores of defective frames, finite.
        threshold: decision threshold, None where the model has none.
        width: of the drawing.
        height: of the drawing.
    """
    values = [*good, *defective, *([] if threshold is None else [threshold])]
    low, high = min(values), max(values)
    if high <= low:  # one value only: give it a bin of its own in the middle
        margin = abs(low) * 0.5 or 0.5
        low, high = low - margin, high + margin
    margin = (high - low) * 0.02
    low, high = low - margin, high + margin
    edges = np.linspace(low, high, BINS + 1)
    counts = [np.histogram(scores, edges)[0] for scores in (good, defective)]
    top = max(1, int(max(row.max() for row in counts)))
    bin_width = width / BINS
    bars = [
        Bar(
            x=number * bin_width + (0.08 + 0.42 * side) * bin_width,
            y=height * (1 - count / top),
            width=0.42 * bin_width,
            height=height * count / top,
            defective=bool(side),
            title=f"{count} {'defective' if side else 'good'}, score {edges[number]:.4g} to "
            f"{edges[number + 1]:.4g}",
        )
        for side, row in enumerate(counts)
        for number, count in enumerate(row.tolist())
        if count
    ]
    ticks = [((step - low) / (high - low) * width, step) for step in _round_steps(low, high)]
    levels = [(height * (1 - step / top), step) for step in _round_steps(0, top) if step % 1 == 0]
    return Histogram(
        width=width,
        height=height,
        bars=tuple(bars),
        threshold_x=None if threshold is None else (threshold - low) / (high - low) * width,
        ticks=tuple((x, f"{step:.6g}") for x, step in ticks),
        levels=tuple((y, f"{step:.6g}") for y, step in levels),
    )


def _round_steps(low: float, high: float, wanted: int = 6) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within [low, high], about `wanted` of them."""
    raw = (high - low) / wanted
    power = 10.0 ** np.floor(np.log10(raw))
    step = next(float(power * factor) for factor in (1, 2, 5, 10) if power * factor >= raw)
    first, last = int(np.ceil(low / step)), int(np.floor(high / step))
    return [round(number * step, 12) for number in range(first, last + 1)]
