"""The page about a benchmark: figures, histogram, timeline and stages of each load."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agp_edge.bench.text import STAGE_NAMES, cell, load_remarks, number, remarks
from agp_edge.report.latency_charts import Chart, Part, latency_histogram, stage_parts, timeline
from agp_edge.report.render import write_page

if TYPE_CHECKING:
    import os

    from agp_edge.bench.benchmark import Benchmark
    from agp_edge.bench.measurement import Measurement
    from agp_edge.bench.statistics import Summary

__all__ = ["write_bench_report"]


@dataclass(frozen=True)
class Load:
    """One measurement, ready to be shown."""

    measurement: Measurement
    whole: Summary
    rows: tuple[tuple[str, Summary | None], ...]
    parts: list[Part]
    histogram: Chart | None
    timeline: Chart | None
    remarks: tuple[str, ...]


def write_bench_report(path: str | os.PathLike[str], benchmark: Benchmark) -> None:
    """Writes the page, aside and renamed; it refers to no other file and to no network.

    Raises:
        DependencyError: Jinja2 or SciPy is not installed.
    """
    record = {"model": benchmark.model, "settings": benchmark.settings, "frames": benchmark.frames}
    write_page(
        path,
        "bench.html.j2",
        benchmark=benchmark,
        loads=[_load(measurement) for measurement in benchmark.measurements],
        remarks=list(remarks(benchmark)),
        number=number,
        cell=cell,
        record=json.dumps(record | benchmark.provenance, indent=2, ensure_ascii=False),
    )


def _load(measurement: Measurement) -> Load:
    whole, stages = measurement.end_to_end(), measurement.stages()
    samples = measurement.samples
    latency = np.asarray(samples.latency, np.float64) / 1e6
    some = len(latency) > 0
    return Load(
        measurement=measurement,
        whole=whole,
        rows=(
            ("end to end", whole),
            *(
                (STAGE_NAMES[key], summary)
                for key, summary in stages.items()
                if not (key == "queue" and summary is None)
            ),
        ),
        parts=stage_parts(stages, STAGE_NAMES),
        histogram=latency_histogram(latency, measurement.deadline_ms) if some else None,
        timeline=timeline(samples.due / 1e9, latency, measurement.deadline_ms) if some else None,
        remarks=tuple(load_remarks(measurement)),
    )
