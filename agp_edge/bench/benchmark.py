"""The whole benchmark of one model: warm-up, then each load, on one set of frames."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from agp_edge.bench.cold_start import cold_start
from agp_edge.bench.jetson_stats import open_jetson_stats
from agp_edge.bench.load import closed_loop, open_loop
from agp_edge.bench.load_in_flight import closed_loop_in_flight, open_loop_in_flight
from agp_edge.bench.measurement import Measurement
from agp_edge.bench.memory import peak_rss, reset_peak_rss
from agp_edge.bench.monitor import Monitor
from agp_edge.bench.provenance import model_record, provenance
from agp_edge.bench.samples import Recorder
from agp_edge.bench.system import System
from agp_edge.bench.warm_up import WarmUp, warm_up
from agp_edge.detector import Detector
from agp_edge.errors import Error
from agp_edge.gpu import device_memory_in_use
from agp_edge.manifest import read_manifest
from agp_edge.site import read_site

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from agp_edge.bench.frames import Frames
    from agp_edge.bench.samples import Samples
    from agp_edge.result import Latency

    # Around each load: its name, how long it lasts, and what is recorded.
    Watch = Callable[[str, float, Recorder], AbstractContextManager[object]]

__all__ = ["Benchmark", "Plan", "decision_threshold", "run_benchmark"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be measured."""

    duration_s: float = 30.0
    """Of each load."""

    rate_hz: float = 60.0
    """Of the line: arrivals of the open loop."""

    deadline_ms: float | None = None
    """After the frame was due; None: the time between two frames."""

    inflight: tuple[int, ...] = (1,)
    loads: tuple[str, ...] = ("closed", "open")
    """In this order for each number in flight."""

    warm_up_least_s: float = 1.0
    warm_up_limit_s: float = 30.0

    def __post_init__(self) -> None:
        for name in ("duration_s", "rate_hz", "warm_up_limit_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise Error(f"{name} is {getattr(self, name)}: expected more than 0")
        if self.deadline_ms is not None and not self.deadline_ms > 0:
            raise Error(f"deadline_ms is {self.deadline_ms}: expected more than 0")
        if not self.inflight or min(self.inflight) < 1:
            raise Error(f"inflight is {self.inflight}: expected numbers of 1 or more")
        if not self.loads or not {*self.loads} <= {"closed", "open"}:
            raise Error(f"loads is {self.loads}: expected 'closed', 'open' or both")

    @property
    def deadline(self) -> float:
        """Milliseconds."""
        return 1e3 / self.rate_hz if self.deadline_ms is None else self.deadline_ms


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Everything that was found out about one model."""

    model: dict[str, Any]
    provenance: dict[str, Any]
    frames: dict[str, Any]
    settings: dict[str, Any]
    warm_ups: dict[int, WarmUp]
    """By the number in flight: each has a detector of its own."""

    peak_rss_at_load: int | None
    """Bytes, of the process, up to the first frame: it holds the benchmark's frames too."""

    measurements: tuple[Measurement, ...]
    cold: dict[str, Any] | None
    against: dict[str, Any] | None = None
    """The table of `agp_edge.bench.against`."""


def run_benchmark(
    model: str | os.PathLike[str],
    frames: Frames,
    plan: Plan,
    *,
    cold_runs: int = 0,
    device: str = "auto",
    engine: str | None = None,
    threads: int = 0,
    system: System | None = None,
    watch: Watch | None = None,
) -> Benchmark:
    """Measures a model on this machine: a closed and an open loop for each number in flight.

    Args:
        model: an ONNX file or a plan.
        frames: what is scored.
        plan: loads and their length.
        cold_runs: new processes to be timed first; 0: none.
        device: as for `agp_edge.Detector`.
        engine: as for `agp_edge.Detector`.
        threads: as for `agp_edge.Detector`.
        system: where clocks and power are read; None: this machine, and jetson-stats where it is
            installed.
        watch: a context around each load, for a display.

    Raises:
        ModelError, DependencyError, DeviceError: as for `agp_edge.Detector`.
        Error: a frame fails, or a cold start does.
    """
    if system is None:
        with open_jetson_stats() as jetson_stats:
            return run_benchmark(
                model,
                frames,
                plan,
                cold_runs=cold_runs,
                device=device,
                engine=engine,
                threads=threads,
                system=System(jetson_stats=jetson_stats),
                watch=watch,
            )
    record = provenance(system)  # before the load: its own is not the machine's
    threshold = decision_threshold(model)
    cold = None
    if cold_runs:
        # the self-test is part of opening a model, and stays on
        cold = cold_start(
            model,
            frames.arrays[0],
            runs=cold_runs,
            device=device,
            engine=engine,
            threads=threads,
            threshold=threshold,
            frame_format=frames.format,
        )
    warm_ups: dict[int, WarmUp] = {}
    measurements: list[Measurement] = []
    at_load: int | None = None
    for inflight in plan.inflight:
        with Detector(
            model,
            device=device,
            engine=engine,
            threads=threads,
            threshold=threshold,
            in_flight=inflight if inflight > 1 else 0,
            device_times=True,
        ) as detector:
            warm_ups[inflight] = warm_up(
                _score(detector, frames.format),
                frames.arrays,
                least_s=plan.warm_up_least_s,
                limit_s=plan.warm_up_limit_s,
            )
            at_load = at_load or peak_rss()
            measurements.extend(
                _measure(
                    detector,
                    frames,
                    plan,
                    load=load,
                    inflight=inflight,
                    system=system,
                    watch=watch,
                )
                for load in plan.loads
            )
            engine_name, manifest = detector.engine_name, detector.manifest
    settings = {
        "engine": engine_name,
        "device": device,
        "threads": threads,
        "outputs": ["map", "mask", "regions"],
        "duration_s": plan.duration_s,
    }
    return Benchmark(
        model=model_record(model, manifest),
        provenance=record,
        frames=frames.to_dict(),
        settings=settings,
        warm_ups=warm_ups,
        peak_rss_at_load=at_load,
        measurements=tuple(measurements),
        cold=cold,
    )


def decision_threshold(model: str | os.PathLike[str]) -> float | None:
    """Nothing where the model or its site file decides; else one that makes no region."""
    site = read_site(model)
    if site is not None and site.threshold is not None:
        return None
    return None if read_manifest(model)["threshold"] is not None else 3e38


def _score(detector: Detector, format: str | None) -> Callable[[NDArray[Any]], Latency]:
    def score(frame: NDArray[Any]) -> Latency:
        return detector.score(frame, format=format).latency

    return score


def _measure(
    detector: Detector,
    frames: Frames,
    plan: Plan,
    *,
    load: str,
    inflight: int,
    system: System,
    watch: Watch | None,
) -> Measurement:
    recorder = Recorder()
    name = f"{load} loop, {inflight} in flight"
    shown = nullcontext() if watch is None else watch(name, plan.duration_s, recorder)
    reset_peak_rss()
    memory = device_memory_in_use if detector.is_on_gpu else None
    with shown, Monitor(system, device_memory=memory) as monitor:
        samples = _samples(detector, frames, plan, load=load, inflight=inflight, recorder=recorder)
    return Measurement(
        load=load,
        inflight=inflight,
        rate_hz=plan.rate_hz,
        deadline_ms=plan.deadline,
        samples=samples,
        machine=monitor.to_dict(len(samples.end)),
        peak_rss=peak_rss(),
    )


def _samples(
    detector: Detector,
    frames: Frames,
    plan: Plan,
    *,
    load: str,
    inflight: int,
    recorder: Recorder,
) -> Samples:
    """One frame at a time through `score`, several through `submit`."""
    common: Any = {"duration_s": plan.duration_s, "recorder": recorder}
    if load == "open":
        common["rate_hz"] = plan.rate_hz
    if inflight == 1:
        generate = open_loop if load == "open" else closed_loop
        return generate(_score(detector, frames.format), frames.arrays, **common)
    generate_many = open_loop_in_flight if load == "open" else closed_loop_in_flight
    submit = partial(detector.submit, format=frames.format)
    return generate_many(submit, frames.arrays, inflight=inflight, **common)
