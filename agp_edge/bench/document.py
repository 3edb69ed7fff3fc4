"""The benchmark's file: JSON with every sample, and a CSV of the figures."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agp_edge.bench.benchmark import Benchmark
from agp_edge.bench.measurement import Measurement
from agp_edge.bench.warm_up import WarmUp
from agp_edge.errors import DataError
from agp_edge.files import write_aside

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from agp_edge.bench.statistics import Summary

__all__ = ["read_benchmark", "write_csv", "write_json"]

KIND = "agp-edge bench"
# Raised when a reader of the older version would misunderstand a file.
VERSION = 1

CSV_COLUMNS = (
    "load", "inflight", "stage", "count", "min_ms", "mean_ms",
    "p50_ms", "p50_low", "p50_high", "p90_ms", "p90_low", "p90_high",
    "p99_ms", "p99_low", "p99_high", "p99.9_ms", "p99.9_low", "p99.9_high",
    "max_ms", "jitter_ms", "throughput_hz", "missed_deadlines",
)  # fmt: skip


def write_json(path: str | os.PathLike[str], benchmark: Benchmark) -> None:
    """Writes everything, one long line per list of samples, aside and renamed."""
    document = {
        "kind": KIND,
        "version": VERSION,
        "model": benchmark.model,
        "provenance": benchmark.provenance,
        "frames": benchmark.frames,
        "settings": benchmark.settings,
        "warm_ups": {str(n): warmed.to_dict() for n, warmed in benchmark.warm_ups.items()},
        "peak_rss_at_load_bytes": benchmark.peak_rss_at_load,
        "cold": benchmark.cold,
        "against": benchmark.against,
        "measurements": [measurement.to_dict() for measurement in benchmark.measurements],
    }
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    with write_aside(path) as aside:
        aside.write_text(text + "\n", encoding="utf-8")


def read_benchmark(path: str | os.PathLike[str]) -> Benchmark:
    """Reads what `write_json` wrote; figures are made again from the samples.

    Raises:
        DataError: the file is missing, no benchmark, of a newer version, or lacks a part.
    """
    try:
        document: Any = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read benchmark '{path}': {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(
            f"'{path}' is no JSON file ({error}); expected one of bench --json"
        ) from error
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise DataError(f"'{path}' is no benchmark; expected a file written by bench --json")
    if document["version"] > VERSION:
        raise DataError(
            f"'{path}' has version {document['version']}, and this agp-edge reads up to {VERSION}: "
            "update it"
        )
    try:
        return Benchmark(
            model=document["model"],
            provenance=document["provenance"],
            frames=document["frames"],
            settings=document["settings"],
            warm_ups={int(n): WarmUp(**part) for n, part in document["warm_ups"].items()},
            peak_rss_at_load=document["peak_rss_at_load_bytes"],
            measurements=tuple(Measurement.from_dict(part) for part in document["measurements"]),
            cold=document["cold"],
            against=document["against"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"benchmark '{path}' is damaged ({error!r}): measure again") from error


def write_csv(path: str | os.PathLike[str], benchmark: Benchmark) -> None:
    """Writes one row per load and stage, aside and renamed; empty where there is no figure."""
    with write_aside(path) as aside, aside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, CSV_COLUMNS, lineterminator="\n", restval="")
        writer.writeheader()
        for measurement in benchmark.measurements:
            writer.writerows(_rows(measurement))


def _rows(measurement: Measurement) -> Iterator[dict[str, Any]]:
    named = {"end to end": measurement.end_to_end(), **measurement.stages()}
    for stage, summary in named.items():
        row: dict[str, Any] = {
            "load": measurement.load,
            "inflight": measurement.inflight,
            "stage": stage,
        }
        if summary is not None:
            row |= _figures(summary)
        if stage == "end to end":
            row["throughput_hz"] = measurement.throughput_hz()
            row["missed_deadlines"] = measurement.missed()
        yield {key: "" if value is None else value for key, value in row.items()}


def _figures(summary: Summary) -> dict[str, Any]:
    row: dict[str, Any] = {
        "count": summary.count,
        "min_ms": summary.minimum,
        "mean_ms": summary.mean,
        "max_ms": summary.maximum,
        "jitter_ms": summary.jitter,
    }
    for found in summary.percentiles:
        name = f"p{found.percent:g}"
        row |= {f"{name}_ms": found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    return row
