"""The two loads of load.py with several frames under way, through `Detector.submit`."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from agp_edge.bench.load import LEAD_NS, PATIENCE, Clock, SteadyClock
from agp_edge.bench.samples import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from agp_edge.bench.samples import Samples
    from agp_edge.result import Result

    Submit = Callable[[NDArray[Any]], Future[Result]]

__all__ = ["closed_loop_in_flight", "open_loop_in_flight"]


def closed_loop_in_flight(
    submit: Submit,
    frames: Sequence[NDArray[Any]],
    *,
    inflight: int,
    duration_s: float,
    clock: Clock | None = None,
    recorder: Recorder | None = None,
) -> Samples:
    """A new frame is handed in whenever one of `inflight` is done.

    Args:
        submit: hands in one frame; its future calls back when the result is there.
        frames: taken in turn.
        inflight: frames under way at a time.
        duration_s: no frame is handed in later than this.
        clock: None: the system's.
        recorder: given from outside to be watched while the load runs.
    """
    clock = clock or SteadyClock()
    recorder = recorder or Recorder()
    flight = _Flight(submit, inflight, clock, recorder)
    origin = clock.now()
    end_of_load = origin + int(duration_s * 1e9)
    index = 0
    while flight.wait_for_room():
        start = clock.now()
        if start >= end_of_load:
            flight.leave()
            break
        flight.begin(index, start, start, frames[index % len(frames)])
        index += 1
    flight.land()
    return recorder.samples(origin)


def open_loop_in_flight(
    submit: Submit,
    frames: Sequence[NDArray[Any]],
    *,
    inflight: int,
    rate_hz: float,
    duration_s: float,
    clock: Clock | None = None,
    recorder: Recorder | None = None,
) -> Samples:
    """Frame i is due at i / rate and handed in then, or as soon as there is room.

    Args:
        submit: as for `closed_loop_in_flight`.
        frames: as for `closed_loop_in_flight`.
        inflight: as for `closed_loop_in_flight`.
        rate_hz: frames a second.
        duration_s: frames due before this are sent; given up at twice this, as `open_loop`.
        clock: None: the system's.
        recorder: as for `closed_loop_in_flight`.
    """
    clock = clock or SteadyClock()
    recorder = recorder or Recorder()
    flight = _Flight(submit, inflight, clock, recorder)
    count = max(1, round(rate_hz * duration_s))
    period = 1e9 / rate_hz
    origin = clock.now() + LEAD_NS
    give_up = origin + int(PATIENCE * duration_s * 1e9)
    for index in range(count):
        due = origin + round(index * period)
        clock.sleep_until(due)
        if not flight.wait_for_room():
            break
        start = clock.now()
        if start >= give_up:
            recorder.add_unserved(due)
            flight.leave()
        else:
            flight.begin(index, due, start, frames[index % len(frames)])
    flight.land()
    return recorder.samples(origin)


class _Flight:
    """At most `inflight` frames under way; remembers the first error and stops there."""

    def __init__(self, submit: Submit, inflight: int, clock: Clock, recorder: Recorder) -> None:
        self._submit = submit
        self._inflight = inflight
        self._clock = clock
        self._recorder = recorder
        self._room = threading.Semaphore(inflight)
        self._error: BaseException | None = None

    def wait_for_room(self) -> bool:
        """Takes a place; after an error takes none and returns False."""
        self._room.acquire()
        if self._error is not None:
            self._room.release()
            return False
        return True

    def leave(self) -> None:
        """Gives a place back."""
        self._room.release()

    def begin(self, index: int, due: int, start: int, frame: NDArray[Any]) -> None:
        """Hands a frame in; its row is written when it is done."""

        def done(future: Future[Result]) -> None:
            end = self._clock.now()
            error = future.exception()
            if error is None:
                self._recorder.add(index, due, start, end, future.result().latency)
            elif self._error is None:
                self._error = error
            self._room.release()

        try:
            future = self._submit(frame)
        except BaseException:
            self._room.release()
            raise
        future.add_done_callback(done)

    def land(self) -> None:
        """Waits for all frames; raises the first error."""
        for _ in range(self._inflight):
            self._room.acquire()
        if self._error is not None:
            raise self._error
