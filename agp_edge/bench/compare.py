"""Two benchmarks side by side: what became slower, what became faster, what noise hides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from agp_edge.bench.blocks import bootstrap_percentiles
from agp_edge.bench.statistics import PERCENTS, frames_for_interval
from agp_edge.errors import Error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from agp_edge.bench.benchmark import Benchmark
    from agp_edge.bench.measurement import Measurement

__all__ = ["MARGIN", "Difference", "LatencyComparison", "compare_benchmarks"]

# Two runs of one program on one machine differ by a few per cent through what no sample inside a
# run shows: where memory lies, which core, how warm (Mytkowicz et al., ASPLOS 2009).
MARGIN = 0.05
ERROR = 0.05
RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One percentile of one load in both benchmarks."""

    load: str
    percent: float
    first_ms: float
    second_ms: float
    low: float
    """Lower limit of second / first."""

    high: float
    """Upper limit of second / first."""

    margin: float

    @property
    def ratio(self) -> float:
        """How many times longer B takes; 1 where both are infinite."""
        return _ratio(self.first_ms, self.second_ms)

    @property
    def verdict(self) -> str:
        """One of "slower", "faster", "same" (within the margin) and "unresolved"."""
        if self.low > 1 + self.margin:
            return "slower"
        if self.high < 1 / (1 + self.margin):
            return "faster"
        if self.low >= 1 / (1 + self.margin) and self.high <= 1 + self.margin:
            return "same"
        return "unresolved"


@dataclass(frozen=True, kw_only=True)
class LatencyComparison:
    """Everything that both benchmarks measured."""

    differences: tuple[Difference, ...]
    skipped: tuple[str, ...]
    """Percentiles that one of them has too few frames for, in words."""

    notes: tuple[str, ...]
    """What else is not the same: model, engine, machine."""

    confidence: float
    """Of each interval; the probability that all hold together is 95 %."""

    @property
    def is_slower(self) -> bool:
        """Whether any percentile is."""
        return any(difference.verdict == "slower" for difference in self.differences)


def compare_benchmarks(
    first: Benchmark,
    second: Benchmark,
    *,
    margin: float = MARGIN,
    different_frames: bool = False,
    resamples: int = RESAMPLES,
) -> LatencyComparison:
    """Ratios of the percentiles of end-to-end latency, second over first, with intervals.

    Each interval is the percentile interval of a circular block bootstrap, since neighbouring
    frames are alike, at a confidence that leaves 5 % of error for all of them together
    (Bonferroni). The same files give the same digits.

    Args:
        first: the reference.
        second: what is compared with it.
        margin: a ratio between 1 / (1 + margin) and 1 + margin is no difference.
        different_frames: compare even where frames, rate or deadline are not the same.
        resamples: of the bootstrap.

    Raises:
        Error: the margin is negative; no load stands in both; or the frames, the rate or the
            deadline differ and `different_frames` was not given.
    """
    if not 0 <= margin < 1:
        raise Error(f"margin is {margin}: expected 0 or more and less than 1")
    pairs = list(_pairs(first, second))
    if not pairs:
        raise Error(
            "the two benchmarks have no load in common: measure both with the same --inflight"
        )
    unlike = list(_unlike(first, second, pairs))
    if unlike and not different_frames:
        raise Error(
            f"the two benchmarks did not do the same work: {'; '.join(unlike)}; measure them "
            "alike, or say --different-frames"
        )
    wanted, skipped = [], []
    for one, other in pairs:
        for percent in PERCENTS:
            needed = frames_for_interval(percent)
            fewest = min(_count(one), _count(other))
            if fewest >= needed:
                wanted.append((one, other, percent))
            else:
                skipped.append(
                    f"{one.name}: p{percent:g} needs {needed} frames, there are {fewest}"
                )
    error = ERROR / max(1, len(wanted))
    differences: list[Difference] = []
    for one, other in pairs:
        percents = tuple(p for first_one, _, p in wanted if first_one is one)
        if percents:
            differences.extend(
                _differences(one, other, percents, margin=margin, error=error, resamples=resamples)
            )
    return LatencyComparison(
        differences=tuple(differences),
        skipped=tuple(skipped),
        notes=(*unlike, *_notes(first, second)),
        confidence=1 - error,
    )


def _differences(
    one: Measurement,
    other: Measurement,
    percents: tuple[float, ...],
    *,
    margin: float,
    error: float,
    resamples: int,
) -> Iterator[Difference]:
    series = (_latency(one), _latency(other))
    # two streams: a file compared with itself must not be resampled in step
    draws = [
        bootstrap_percentiles(
            values, percents, resamples=resamples, rng=np.random.default_rng([7, side])
        )
        for side, values in enumerate(series)
    ]
    with np.errstate(invalid="ignore"):
        ratios = draws[1] / draws[0]
    ratios = np.where(np.isnan(ratios), 1.0, ratios)  # infinite in both
    for column, percent in enumerate(percents):
        ordered = np.sort(ratios[:, column])
        rank = int(error / 2 * resamples)
        values = [
            np.sort(part)[int(np.ceil(round(len(part) * percent / 100, 9))) - 1] for part in series
        ]
        yield Difference(
            load=one.name,
            percent=percent,
            first_ms=float(values[0]),
            second_ms=float(values[1]),
            low=float(ordered[rank]),
            high=float(ordered[-1 - rank]),
            margin=margin,
        )


def _latency(measurement: Measurement) -> NDArray[np.float64]:
    served = np.asarray(measurement.samples.latency, np.float64) / 1e6
    return np.concatenate([served, np.full(len(measurement.samples.unserved), np.inf)])


def _count(measurement: Measurement) -> int:
    return len(measurement.samples.end) + len(measurement.samples.unserved)


def _ratio(first: float, second: float) -> float:
    return 1.0 if np.isinf(first) and np.isinf(second) else second / first


def _pairs(first: Benchmark, second: Benchmark) -> Iterator[tuple[Measurement, Measurement]]:
    others = {(m.load, m.inflight): m for m in second.measurements}
    for measurement in first.measurements:
        other = others.get((measurement.load, measurement.inflight))
        if other is not None:
            yield measurement, other


def _unlike(
    first: Benchmark, second: Benchmark, pairs: list[tuple[Measurement, Measurement]]
) -> Iterator[str]:
    if first.frames["sha256"] != second.frames["sha256"]:
        yield f"frames are {_frames(first.frames)} in A and {_frames(second.frames)} in B"
    for one, other in pairs:
        if one.load == "open" and one.rate_hz != other.rate_hz:
            yield f"{one.name} ran at {one.rate_hz:g} frames/s in A and {other.rate_hz:g} in B"


def _frames(frames: dict[str, Any]) -> str:
    sizes = ", ".join(f"{count} of {kind}" for kind, count in frames["sizes"].items())
    return f"{sizes} ({frames['source']}, sha256 {frames['sha256'][:8]})"


def _notes(first: Benchmark, second: Benchmark) -> Iterator[str]:
    def parts(found: Benchmark) -> dict[str, Any]:
        machine = found.provenance["machine"]
        return {
            "the model file": found.model["sha256"][:12],
            "the engine": found.settings["engine"],
            "the number of threads": found.settings["threads"],
            "the processor": machine["cpu"],
            "the number of cores": machine["cores"],
            "the governor": ", ".join(machine["governors"]) or None,
            "the nvpmodel mode": machine["nvpmodel"],
            "agp-edge": found.provenance["versions"].get("agp-edge"),
        }

    others = parts(second)
    for name, value in parts(first).items():
        if value != others[name]:
            yield f"{name} differs: {value} and {others[name]}"
