"""Ours and other ways on the same frames, one frame of each in turn, in random order."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from agp_edge.bench.blocks import bootstrap_percentiles
from agp_edge.bench.statistics import Summary, summarise

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from agp_edge.bench.against.way import Way

__all__ = ["AGREEMENT", "Row", "SideBySide", "side_by_side"]

# Relative to our score. Rounding the resized picture to 8 bits, as libraries do, moves a score by
# up to 1 %; another resize moves it by 5 %.
AGREEMENT = 0.02
# An engine with several threads spins for a while after each call, and would slow down the next
# way: it gets this long to come to rest.
REST_S = 0.01
ROUNDS_LEAST = 20
WARM_UP_ROUNDS = 5
RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way in the table."""

    name: str
    summary: Summary
    """Milliseconds."""

    ratio: float | None
    """Median over frames of its time over ours; None for ours."""

    ratio_interval: tuple[float, float] | None
    """95 %, block bootstrap over rounds."""

    score_difference: float | None
    """Largest difference of a score from ours, relative to ours; None: another model."""

    note: str

    @property
    def agrees(self) -> bool | None:
        """Whether it gives our scores: it did the same work. None: another model."""
        return None if self.score_difference is None else self.score_difference <= AGREEMENT


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """The whole table."""

    rows: tuple[Row, ...]
    rounds: int
    samples_ms: dict[str, list[float]]
    left_out: tuple[str, ...] = ()
    trtexec: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "rounds": self.rounds,
            "rows": [
                {
                    "name": row.name,
                    "ms": row.summary.to_dict(),
                    "ratio": row.ratio,
                    "ratio_interval": row.ratio_interval,
                    "score_difference": row.score_difference,
                    "agrees": row.agrees,
                    "note": row.note,
                }
                for row in self.rows
            ],
            "left_out": list(self.left_out),
            "trtexec": self.trtexec,
            "samples_ms": self.samples_ms,
        }


def side_by_side(
    ours: Callable[[NDArray[Any]], float],
    ways: Sequence[Way],
    frames: Sequence[NDArray[Any]],
    *,
    duration_s: float,
    rest: bool,
    seed: int = 0,
    name: str = "agp_edge",
) -> SideBySide:
    """Times every way on every frame.

    In each round all ways score the same frame, in an order drawn anew, so that a busy moment of
    the machine and the warmth of the cache meet all of them alike.

    Args:
        ours: scores a frame through `agp_edge.Detector`.
        ways: the others.
        frames: taken in turn.
        duration_s: no round begins later, but 20 there are in any case.
        rest: wait 10 ms before each call, where engines have several threads.
        seed: of the orders.
        name: what the table calls ours.
    """
    scorers = {name: ours, **{way.name: way.score for way in ways}}
    names = list(scorers)
    rng = np.random.default_rng(seed)
    times: dict[str, list[float]] = {key: [] for key in names}
    differences = dict.fromkeys(names, 0.0)
    begun, rounds = time.perf_counter(), -WARM_UP_ROUNDS
    while rounds < ROUNDS_LEAST or time.perf_counter() - begun < duration_s:
        frame = frames[rounds % len(frames)]
        scores: dict[str, float] = {}
        for index in rng.permutation(len(names)):
            key = names[index]
            if rest:
                time.sleep(REST_S)
            start = time.perf_counter_ns()
            scores[key] = scorers[key](frame)
            took = time.perf_counter_ns() - start
            if rounds >= 0:
                times[key].append(took / 1e6)
        for key, value in scores.items():
            off = abs(value - scores[name]) / max(abs(scores[name]), 1e-12)
            differences[key] = max(differences[key], off)
        rounds += 1
        if rounds == 0:
            begun = time.perf_counter()
    same_graph = {way.name: way.same_graph for way in ways}
    notes = {way.name: way.note for way in ways}
    rows = []
    for key in names:
        ratios = np.array(times[key]) / np.array(times[name])
        row_differs = same_graph.get(key, False)
        rows.append(
            Row(
                name=key,
                summary=summarise(times[key]),
                ratio=None if key == name else float(np.median(ratios)),
                ratio_interval=None if key == name else _interval(ratios, rng),
                score_difference=differences[key] if row_differs else None,
                note=notes.get(key, ""),
            )
        )
    return SideBySide(rows=tuple(rows), rounds=rounds, samples_ms=times)


def _interval(ratios: NDArray[np.float64], rng: np.random.Generator) -> tuple[float, float]:
    draws = bootstrap_percentiles(ratios, (50.0,), resamples=RESAMPLES, rng=rng)[:, 0]
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)
