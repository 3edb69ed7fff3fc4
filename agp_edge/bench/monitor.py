"""Reads the machine once a second while a load runs, and says what it saw."""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from agp_edge.bench.system import Reading, System

__all__ = ["Monitor"]


class Monitor:
    """Context manager around a load: a thread that takes a reading at once, and every second."""

    def __init__(
        self,
        system: System,
        *,
        interval_s: float = 1.0,
        device_memory: Callable[[], int] | None = None,
    ) -> None:
        """Begins with the context.

        Args:
            system: what is read.
            interval_s: between two readings.
            device_memory: bytes of the GPU's memory in use; None: no GPU is at work.
        """
        self._system = system
        self._interval = interval_s
        self._device_memory = device_memory
        self._device_bytes: list[int] = []
        self._readings: list[tuple[float, Reading]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="bench-monitor", daemon=True)

    def __enter__(self) -> Monitor:
        self._take()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._take()

    def to_dict(self, frames: int) -> dict[str, Any]:
        """Ranges of clocks and temperatures, mean power, energy per frame, throttling.

        Args:
            frames: how many were served meanwhile.
        """
        readings = [reading for _, reading in self._readings]
        energy = self._energy()
        seconds = self._readings[-1][0] - self._readings[0][0]
        return {
            "readings": len(readings),
            "cpu_mhz": _range([value for reading in readings for value in reading.cpu_mhz]),
            "gpu_mhz": _range([r.gpu_mhz for r in readings if r.gpu_mhz is not None]),
            "temperatures_c": {
                zone: _range([r.temperatures[zone] for r in readings if zone in r.temperatures])
                for zone in readings[0].temperatures
            },
            "rails_w": {
                rail: statistics.fmean(r.rails_w[rail] for r in readings if rail in r.rails_w)
                for rail in readings[0].rails_w
            },
            "power_w": None if energy is None or seconds <= 0 else energy / seconds,
            "energy_per_frame_j": None if energy is None or frames == 0 else energy / frames,
            "throttled": self._throttled(),
            "peak_device_bytes": max(self._device_bytes, default=None),
            "peak_gpu_dram_bytes": max(
                (r.gpu_memory for r in readings if r.gpu_memory is not None), default=None
            ),
        }

    def _watch(self) -> None:
        while not self._stop.wait(self._interval):
            self._take()

    def _take(self) -> None:
        self._readings.append((time.monotonic(), self._system.read()))
        if self._device_memory is not None:
            self._device_bytes.append(self._device_memory())

    def _energy(self) -> float | None:
        """Joules from the first to the last reading: a counter's, else power by trapezia."""
        first, last = self._readings[0][1], self._readings[-1][1]
        if first.power_w is None:
            if first.energy_j is None or last.energy_j is None or last.energy_j < first.energy_j:
                return None  # none, or the counter wrapped around
            return last.energy_j - first.energy_j
        points = [(at, r.power_w) for at, r in self._readings if r.power_w is not None]
        return sum(
            (later - earlier) * (before + after) / 2
            for (earlier, before), (later, after) in itertools.pairwise(points)
        )

    def _throttled(self) -> list[str]:
        """What slowed the machine down: counters that grew, cooling that was active."""
        found = []
        first = self._readings[0][1].throttling
        for name in first:
            values = [r.throttling[name] for _, r in self._readings if name in r.throttling]
            grew = values[-1] > values[0]
            if grew or (name.startswith("cooling by ") and max(values) > 0):
                found.append(f"{name}: {values[0]} to {max(values)}")
        return found


def _range(values: list[float]) -> list[float] | None:
    """Smallest and largest."""
    return [min(values), max(values)] if values else None
