"""Load generators: frames as fast as they are served, or as a camera sends them.

A closed loop asks for the next frame when one is done, so a stall delays the questions and is
counted once. A camera does not wait: in the open loop frame i is due at i / rate whatever happened
before, and its latency counts from then, so that a stall is felt by every frame behind it. (The
difference is known as coordinated omission: G. Tene, "How NOT to Measure Latency", 2013; open and
closed systems: Schroeder, Wierman, Harchol-Balter, NSDI 2006.)
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

from agp_edge.bench.samples import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from agp_edge.bench.samples import Samples
    from agp_edge.result import Latency

    Score = Callable[[NDArray[Any]], Latency]

__all__ = ["Clock", "SteadyClock", "closed_loop", "open_loop"]

# An open loop that cannot keep up is given up when it has lasted this many times its duration.
PATIENCE = 2.0
# Threads are started and the first frame is fetched before anything is due.
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
    inflight: int = 1,
    clock: Clock | None = None,
    recorder: Recorder | None = None,
) -> Samples:
    """Every worker asks for the next frame as soon as its last one is served.

    Args:
        score: scores one frame; thread-safe where `inflight` is more than 1. What it raises ends
            the load.
        frames: taken in turn, again and again.
        duration_s: no frame is begun later than this.
        inflight: how many frames are under way at a time, one thread each.
        clock: None: the system's.
        recorder: given from outside to be watched while the load runs.
    """
    clock = clock or SteadyClock()
    recorder = recorder or Recorder()
    take = _Counter()
    stop = threading.Event()
    origin = clock.now()
    end_of_load = origin + int(duration_s * 1e9)

    def work() -> None:
        while not stop.is_set():
            begun = clock.now()
            if begun >= end_of_load:
                return
            index = take()
            frame = frames[index % len(frames)]
            start = clock.now()
            latency = score(frame)
            recorder.add(index, start, start, clock.now(), latency)

    _run(work, inflight, stop)
    return recorder.samples(origin)


def open_loop(
    score: Score,
    frames: Sequence[NDArray[Any]],
    *,
    rate_hz: float,
    duration_s: float,
    inflight: int = 1,
    clock: Clock | None = None,
    recorder: Recorder | None = None,
) -> Samples:
    """Frame i is due at i / rate; the first free worker takes it, at that time or later.

    No frame is dropped. Where the load lasts longer than twice `duration_s` it is given up, and the
    frames that are left count as unserved: their latency is more than any that was measured.

    Args:
        score: as for `closed_loop`.
        frames: as for `closed_loop`.
        rate_hz: frames a second.
        duration_s: frames due before this are sent.
        inflight: as for `closed_loop`.
        clock: None: the system's.
        recorder: as for `closed_loop`.
    """
    clock = clock or SteadyClock()
    recorder = recorder or Recorder()
    take = _Counter()
    stop = threading.Event()
    count = max(1, round(rate_hz * duration_s))
    period = 1e9 / rate_hz
    origin = clock.now() + LEAD_NS
    give_up = origin + int(PATIENCE * duration_s * 1e9)

    def work() -> None:
        while not stop.is_set():
            index = take()
            if index >= count:
                return
            due = origin + round(index * period)
            frame = frames[index % len(frames)]
            clock.sleep_until(due)
            start = clock.now()
            if start >= give_up:
                recorder.add_unserved(due)
                continue
            latency = score(frame)
            recorder.add(index, due, start, clock.now(), latency)

    _run(work, inflight, stop)
    return recorder.samples(origin)


class _Counter:
    """0, 1, 2, ... to whoever asks."""

    def __init__(self) -> None:
        self._next = 0
        self._lock = threading.Lock()

    def __call__(self) -> int:
        with self._lock:
            self._next += 1
            return self._next - 1


def _run(work: Callable[[], None], inflight: int, stop: threading.Event) -> None:
    if inflight == 1:
        work()
        return
    with ThreadPoolExecutor(inflight, thread_name_prefix="bench") as pool:
        futures = [pool.submit(work) for _ in range(inflight)]
        try:
            for future in futures:
                future.result()
        finally:
            stop.set()
