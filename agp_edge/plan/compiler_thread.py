"""TensorRT's builder in a thread of its own: progress, and Ctrl-C."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["serialized_network"]


def serialized_network(
    trt: Any, builder: Any, network: Any, config: Any, progress: Callable[[float], None] | None
) -> Any:
    """The serialized plan, or None; Ctrl-C stops the compiler at its next step.

    It runs in a thread of its own, because an exception must not cross TensorRT's C++ frames and
    Python delivers KeyboardInterrupt to the main thread, where callbacks would run otherwise.
    """
    monitor = _make_monitor(trt, progress)
    config.progress_monitor = monitor
    outcome: Future[Any] = Future()

    def work() -> None:
        try:
            outcome.set_result(builder.build_serialized_network(network, config))
        except Exception as error:
            outcome.set_exception(error)

    threading.Thread(target=work).start()
    try:
        return outcome.result()
    except KeyboardInterrupt:
        monitor.cancelled = True
        # The interpreter must not end under a running compiler, however often Ctrl-C comes. (A
        # thread's join() would not do: once interrupted, it takes the thread for finished.)
        while not outcome.done():
            with suppress(KeyboardInterrupt):
                outcome.exception()
        raise


def _make_monitor(trt: Any, progress: Callable[[float], None] | None) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # its base exists only with TensorRT
        """Nested phases, each of so many steps, as one share."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.cancelled = False
            self._phases: dict[str, list[int]] = {}  # in the order of nesting: done, steps

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self._phases[phase] = [0, max(1, steps)]

        def phase_finish(self, phase: str) -> None:
            self._phases.pop(phase, None)

        def step_complete(self, phase: str, step: int) -> bool:
            if phase in self._phases:
                self._phases[phase][0] = step + 1
            if progress is not None:
                share = 0.0
                for done, steps in reversed(self._phases.values()):
                    share = min(1.0, (done + share) / steps)
                progress(share)
            return not self.cancelled

    return Monitor()
