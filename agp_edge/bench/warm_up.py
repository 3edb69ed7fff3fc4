"""Warm-up: frames that are scored until the latency is steady, by a published rule.

The rule is MSER-5 (White, Cobb, Spratt: A comparison of five steady-state truncation heuristics for
simulation, WSC 2000): over means of five, cut off the beginning that leaves the smallest standard
error of the mean; where the best cut lies in the second half, the series has not settled.

It only says when measuring may begin. In the measurement itself nothing is cut: the same rule would
take a stall for warm-up, and hide what the benchmark is for.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from agp_edge.bench.load import Clock, SteadyClock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["WarmUp", "truncation", "warm_up"]

BATCH = 5
# The last candidates would be judged by a handful of batches, whose spread is small by chance.
KEPT_BATCHES = 5
# The rule is asked when there are this many frames, and each time they have doubled; two answers in
# a row have to be "settled". One is not enough: a beginning that fills more than half of the series
# looks like the steady state.
FIRST_LOOK = 50


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """How the engine was warmed up."""

    frames: int
    """Scored before the measurement."""

    truncated: int
    """Those of them that the rule calls warm-up."""

    seconds: float
    steady: bool
    """False: the limit was reached first, and the measurement began all the same."""

    rule: str
    latency_ns: list[int]
    """Of each frame."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def truncation(values: ArrayLike) -> int | None:
    """How many of the first values belong to the warm-up, by MSER-5; None: not settled yet.

    Args:
        values: (n,), any unit; fewer than 50 are never settled.
    """
    series = np.asarray(values, np.float64)
    batches = len(series) // BATCH
    if batches * BATCH < FIRST_LOOK:
        return None
    means = series[: batches * BATCH].reshape(batches, BATCH).mean(axis=1)
    # sums over what is left after cutting d batches, for each d
    left = np.arange(batches, KEPT_BATCHES - 1, -1)
    centred = means - means.mean()
    sums = np.cumsum(centred[::-1])[::-1][: len(left)]
    squares = np.cumsum(centred[::-1] ** 2)[::-1][: len(left)]
    # where all that is left is the same, rounding must not choose
    spread = np.maximum(squares - sums**2 / left, 1e-12 * squares[0])
    statistic = spread / left.astype(np.float64) ** 2
    best = int(np.argmin(statistic))
    return None if 2 * best >= batches else best * BATCH


def warm_up(
    score: Callable[[NDArray[Any]], object],
    frames: Sequence[NDArray[Any]],
    *,
    least_s: float = 1.0,
    limit_s: float = 30.0,
    clock: Clock | None = None,
) -> WarmUp:
    """Scores frames one after the other until `truncation` finds a steady state.

    The rule cannot know of what has not begun yet: clocks rise only after some load, hence
    `least_s`.

    Args:
        score: scores one frame.
        frames: taken in turn.
        least_s: go on for so many seconds in any case.
        limit_s: begin to measure after so many seconds in any case.
        clock: None: the system's.
    """
    clock = clock or SteadyClock()
    begun = clock.now()
    latencies: list[int] = []
    cut: int | None = None
    before: int | None = None
    spent, look = 0, FIRST_LOOK
    while (cut is None or before is None) and spent < limit_s * 1e9:
        start = clock.now()
        score(frames[len(latencies) % len(frames)])
        end = clock.now()
        latencies.append(end - start)
        spent = end - begun
        if len(latencies) >= look and (len(latencies) == FIRST_LOOK or spent >= least_s * 1e9):
            before, cut = cut, truncation(latencies)
            look = 2 * len(latencies)
    steady = cut is not None and before is not None
    return WarmUp(
        frames=len(latencies),
        truncated=cut if steady and cut is not None else len(latencies),
        seconds=(clock.now() - begun) / 1e9,
        steady=steady,
        rule="MSER-5 (White, Cobb, Spratt 2000)",
        latency_ns=latencies,
    )
