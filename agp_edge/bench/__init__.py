"""How long a frame takes, measured so that a line can rely on it: `agp-edge bench`."""

from agp_edge.bench.benchmark import Benchmark, Plan, run_benchmark
from agp_edge.bench.document import read_benchmark, write_csv, write_json

__all__ = ["Benchmark", "Plan", "read_benchmark", "run_benchmark", "write_csv", "write_json"]
