"""Load generators: frames as fast as they are served, or as a camera sends them.

A closed loop asks for the next frame when one is done, so a stall delays the questions and is
counted once. A camera does not wait: in the open loop frame i is due at i / rate whatever happened
before, and its latency counts from then, so that a stall is felt by every frame behind it. (The
difference is known as coordinated omission: G. Tene, "How NOT to Measure Latency", 2013; open and
closed systems: Schroeder, Wierman, Harchol-Balter, NSDI 2006.)
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

from agp_edge.bench.samples import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from agp_edge.bench.samples import Samples
    from agp_edge.result import Latency

    Score = Callable[[NDArray[Any]], Latency]

__all__ = ["LEAD_NS", "PATIENCE", "Clock", "SteadyClock", "closed_loop", "open_loop"]

# An open loop that cannot keep up is given up when it has lasted this many times its duration.
PATIENCE = 2.0
# The load is set up before anything is due.
LEAD_NS = 20_000_000


class Clock(Protocol):
    """A steady clock."""

    def now(self) -> int:
        """Nanoseconds from some fixed moment."""

    def sleep_until(self, moment: int) -> None:
        """Returns at `moment` or a little later; at once where it has passed."""


class SteadyClock:
    """The system's: on Linux CLOCK_MONOTONIC, as C++'s steady_clock, which stamps the stages.

    Waiting is sleeping, never spinning: a spinning thread would take the core, and the interpreter,
    from the code that is measured. The kernel wakes a sleeper some 0.05 to 0.1 ms late; that is
    part of "queue", as it is of a real program's latency.
    """

    def now(self) -> int:
        """Nanoseconds."""
        return time.perf_counter_ns()

    def sleep_until(self, moment: int) -> None:
        """Sleeps."""
        while (left := moment - time.perf_counter_ns()) > 0:
            time.sleep(left / 1e9)


def closed_loop(
    score: Score,
    frames: Sequence[NDArray[Any]],
    *,
    duration_s: float,
    clock: Clock | None = None,
    recorder: Recorder | None = None,
) -> Samples:
    """Asks for the next frame as soon as the last one is served.

    Args:
        score: scores one frame; what it raises ends the load.
        frames: taken in turn, again and again.
        duration_s: no frame is begun later than this.
        clock: None: the system's.
        recorder: given from outside to be watched while the load runs.
    """
    clock = clock or SteadyClock()
    recorder = recorder or Recorder()
    origin = clock.now()
    end_of_load = origin + int(duration_s * 1e9)
    index = 0
    while (start := clock.now()) < end_of_load:
        latency = score(frames[index % len(frames)])
        recorder.add(index, start, start, clock.now(), latency)
        index += 1
    return recorder.samples(origin)


def open_loop(
    score: Score,
    frames: Sequence[NDArray[Any]],
    *,
    rate_hz: float,
    duration_s: float,
    clock: Clock | None = None,
    recorder: Recorder | None = None,
) -> Samples:
    """Frame i is due at i / rate, and is begun at that time or as soon as the one before is done.

    No frame is dropped. Where the load lasts longer than twice `duration_s` it is given up, and the
    frames that are left count as unserved: their latency is more than any that was measured.

    Args:
        score: as for `closed_loop`.
        frames: as for `closed_loop`.
        rate_hz: frames a second.
        duration_s: frames due before this are sent.
        clock: None: the system's.
        recorder: as for `closed_loop`.
    """
    clock = clock or SteadyClock()
    recorder = recorder or Recorder()
    count = max(1, round(rate_hz * duration_s))
    period = 1e9 / rate_hz
    origin = clock.now() + LEAD_NS
    give_up = origin + int(PATIENCE * duration_s * 1e9)
    for index in range(count):
        due = origin + round(index * period)
        clock.sleep_until(due)
        start = clock.now()
        if start >= give_up:
            recorder.add_unserved(due)
            continue
        latency = score(frames[index % len(frames)])
        recorder.add(index, due, start, clock.now(), latency)
    return recorder.samples(origin)
