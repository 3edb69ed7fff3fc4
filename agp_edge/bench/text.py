"""What `agp-edge bench` prints: a table per load, and the sentences that belong to it."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

from agp_edge.bench.statistics import frames_for_percentile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agp_edge.bench.against import SideBySide
    from agp_edge.bench.benchmark import Benchmark
    from agp_edge.bench.compare import LatencyComparison
    from agp_edge.bench.measurement import Measurement
    from agp_edge.bench.statistics import Percentile, Summary

__all__ = [
    "STAGE_NAMES",
    "against_lines",
    "benchmark_lines",
    "cell",
    "comparison_lines",
    "load_remarks",
    "number",
    "remarks",
]

STAGE_NAMES = {
    "queue": "waiting to be handed in",
    "wait": "waiting for its turn",
    "copy": "copy",
    "preprocess": "preprocess",
    "execute": "execute",
    "postprocess": "postprocess",
    "copy_back": "copy back",
    "other": "rest of the detector",
    "python": "Python",
}


def number(value: float | None) -> str:
    """Three digits and no more than two decimals; "-" for none, "never" for infinity."""
    if value is None:
        return "-"
    if math.isinf(value):
        return "never"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def benchmark_lines(benchmark: Benchmark) -> Iterator[str]:
    """Everything that the command prints, line by line."""
    model, frames, settings = benchmark.model, benchmark.frames, benchmark.settings
    machine = benchmark.provenance["machine"]
    precision = (model["precision"] or {}).get("asked", "unknown precision")
    yield (
        f"{model['file']}: {model['name']}, {precision}, input {model['input'][0]}x"
        f"{model['input'][1]}, sha256 {model['sha256'][:12]}"
    )
    threads = settings["threads"] or "its own choice of"
    yield f"{settings['engine']}, {threads} threads; {machine['cpu']}, {machine['cores']} cores"
    sizes = ", ".join(f"{count} of {kind}" for kind, count in frames["sizes"].items())
    kind = "frames of the folder" if frames["source"] == "folder" else "synthetic frames"
    yield f"{kind}: {sizes}"
    yield from remarks(benchmark)
    if benchmark.cold is not None:
        steps = benchmark.cold["steps_ms"]
        parts = ", ".join(
            f"{name.replace('_', ' ')} {statistics.median(values):.0f}"
            for name, values in steps.items()
            if name != "whole"
        )
        yield (
            f"cold start: {statistics.median(steps['whole']):.0f} ms from process start to first "
            f"verdict, median of {benchmark.cold['runs']} ({parts})"
        )
    for measurement in benchmark.measurements:
        yield ""
        yield from _measurement_lines(measurement)


def remarks(benchmark: Benchmark) -> Iterator[str]:
    """What a reader has to know before the figures."""
    machine = benchmark.provenance["machine"]
    for inflight, warmed in benchmark.warm_ups.items():
        of = f"warm-up, {inflight} in flight"
        if warmed.steady:
            yield (
                f"{of}: {warmed.frames} frames, {warmed.seconds:.1f} s; steady after "
                f"{warmed.truncated} by {warmed.rule}"
            )
        else:
            yield (
                f"{of}: no steady state within {warmed.frames} frames, {warmed.seconds:.1f} s "
                f"({warmed.rule}): something else uses this machine, or its clocks still change"
            )
    load = machine["load_average"]
    if load is not None and load > 0.5 * machine["cores"]:
        yield (
            f"the machine was busy when this began: load average {load:.1f} on "
            f"{machine['cores']} cores"
        )
    slow = [name for name in machine["governors"] if name not in ("performance", "userspace")]
    if slow:
        yield f"CPU governor {', '.join(slow)}: clocks follow the load; 'performance' is steadier"
    if machine["nvpmodel"]:
        yield f"nvpmodel mode {machine['nvpmodel']}"
    stats = machine.get("jetson_stats")
    if stats and stats["problem"]:
        yield f"jetson-stats {stats['version']} could not be read: {stats['problem']}"


def _measurement_lines(measurement: Measurement) -> Iterator[str]:
    whole = measurement.end_to_end()
    head = measurement.name
    if measurement.load == "open":
        head += f", {measurement.rate_hz:g} frames/s due"
    throughput = measurement.throughput_hz()
    yield f"{head}: {whole.count} frames, {number(throughput)} frames/s"
    columns = "".join(f"{name:>22}" for name in ("p50", "p90", "p99", "p99.9"))
    yield f"  {'ms':24}{'min':>7}{columns}{'max':>8}{'jitter':>8}"
    yield _row("end to end", whole)
    for stage, summary in measurement.stages().items():
        if summary is None:
            if stage in ("copy", "copy_back"):
                yield f"  {STAGE_NAMES[stage]:24}     n/a"
            continue
        yield _row(STAGE_NAMES[stage], summary)
    yield f"  {_deadline_line(measurement, whole)}"
    for remark in load_remarks(measurement):
        yield f"  {remark}"


def _row(name: str, summary: Summary) -> str:
    cells = "".join(f"{cell(found):>22}" for found in summary.percentiles)
    return (
        f"  {name:24}{number(summary.minimum):>7}{cells}{number(summary.maximum):>8}"
        f"{number(summary.jitter):>8}"
    )


def cell(found: Percentile) -> str:
    """A percentile with its interval, or how many frames it needs."""
    if found.value is None:
        return f"needs {found.needed}"
    limits = ("?" if limit is None else number(limit) for limit in (found.low, found.high))
    return f"{number(found.value)} ({'-'.join(limits)})"


def _deadline_line(measurement: Measurement, whole: Summary) -> str:
    late = measurement.missed()
    return (
        f"later than {measurement.deadline_ms:.4g} ms: {late} of {whole.count} frames "
        f"({late / max(1, whole.count):.2%})"
    )


def load_remarks(measurement: Measurement) -> Iterator[str]:
    """What a reader has to know of one load: overload, too few frames, correlation, throttling."""
    whole = measurement.end_to_end()
    if measurement.is_overloaded():
        yield (
            f"OVERLOADED: frames come faster than {measurement.inflight} in flight can be "
            "served, so latency grows with the length of the run and its percentiles say little"
        )
    if measurement.load == "open" and whole.at(99.9).value is None:
        seconds = frames_for_percentile(99.9) / measurement.rate_hz
        yield f"p99.9 needs {frames_for_percentile(99.9)} frames: --duration {math.ceil(seconds)}"
    if whole.autocorrelation is not None and whole.autocorrelation > 0.1:
        yield (
            f"neighbouring frames correlate ({whole.autocorrelation:.2f}): the intervals, which "
            "take frames as independent, are too narrow"
        )
    share_of_stages = measurement.stages_share()
    if share_of_stages is not None and share_of_stages < 0.95:
        yield f"the stages explain only {share_of_stages:.0%} of the whole"
    machine = measurement.machine
    yield from _memory_lines(measurement)
    if machine["power_w"] is not None:
        yield (
            f"{machine['power_w']:.1f} W, {machine['energy_per_frame_j']:.3g} J per frame "
            "(whole module)"
        )
    for reason in machine["throttled"]:
        yield f"THROTTLED: {reason}"


def _memory_lines(measurement: Measurement) -> Iterator[str]:
    named = (
        ("this process", measurement.peak_rss),
        ("the GPU, of all programs", measurement.machine.get("peak_device_bytes")),
        ("the GPU's part of the DRAM", measurement.machine.get("peak_gpu_dram_bytes")),
    )
    known = [f"{name} {size / 2**20:.0f} MiB" for name, size in named if size is not None]
    if known:
        yield f"most memory: {', '.join(known)}"


def comparison_lines(comparison: LatencyComparison) -> Iterator[str]:
    """What `agp-edge bench --compare` prints, line by line."""
    for note in comparison.notes:
        yield f"note: {note}"
    yield (f"{'':38}{'A ms':>9}{'B ms':>9}{'B / A':>8}   {comparison.confidence:.1%} interval")
    for found in comparison.differences:
        yield (
            f"{found.load:30}{f'p{found.percent:g}':>8}{number(found.first_ms):>9}"
            f"{number(found.second_ms):>9}{found.ratio:>8.3f}   {found.low:.3f} to {found.high:.3f}"
            f"  {found.verdict}"
        )
    yield from comparison.skipped
    margin = comparison.differences[0].margin if comparison.differences else 0.0
    slower = [d for d in comparison.differences if d.verdict == "slower"]
    hidden = [d for d in comparison.differences if d.verdict == "unresolved"]
    if slower:
        yield f"B is slower in {len(slower)} of {len(comparison.differences)} figures"
    else:
        yield f"no figure of B is slower beyond {margin:.0%}"
    if hidden:
        yield f"{len(hidden)} unresolved: the noise is larger than the difference; measure longer"


def against_lines(table: SideBySide) -> Iterator[str]:
    """What `agp-edge bench --against` prints, line by line."""
    yield f"{table.rounds} rounds; in each every way scores the same frame, in random order"
    head = f"{'ms':34}{'p50':>22}{'p99':>22}{'times ours':>11}   95 % interval"
    yield head
    for row in table.rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        interval = row.ratio_interval
        limits = "" if interval is None else f"   {interval[0]:.2f} to {interval[1]:.2f}"
        yield (
            f"{row.name:34}{cell(row.summary.at(50.0)):>22}{cell(row.summary.at(99.0)):>22}"
            f"{ratio:>11}{limits}"
        )
    for row in table.rows:
        if row.agrees is False:
            yield (
                f"{row.name}: scores differ by up to {row.score_difference:.1%} of ours: it does "
                f"not do the same work{f' ({row.note})' if row.note else ''}"
            )
        elif row.score_difference is not None:
            yield f"{row.name}: scores agree with ours within {row.score_difference:.2%}"
    yield from table.left_out
    if table.trtexec is not None:
        latency, compute = table.trtexec["latency_ms"], table.trtexec["compute_ms"]
        yield (
            f"trtexec, network alone on synthetic tensors: host latency p50 {latency[0]:.3f} ms, "
            f"p99 {latency[2]:.3f}; GPU compute p50 {compute[0]:.3f} ms; a run of its own, not "
            "interleaved"
        )
