"""What a detector needs of an 8 GB board's memory, reckoned, not measured: no board was at hand.

A Jetson's CPU and GPU share one DRAM, so everything adds up. Reckoned for FP16 are: the weights on
the GPU (the plan's bytes, an upper bound), activations (the most that is alive at once, by the
graph's order; TensorRT reuses and fuses, so it stays below), our buffers, and the plan's file in
the page cache while it is loaded. Not in it: CUDA's context and TensorRT's libraries, which only
the board can tell.

    python benchmarks/jetson_memory.py
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from plan_size import BACKBONES, TARGET, export
from provenance import write_result

from agp_edge.manifest import read_manifest
from agp_edge.plan.build import plan_from_onnx

HALF, FLOAT = 2, 4
BOARD_MIB = 8192


def peak_activations(model: onnx.ModelProto) -> int:
    """Most elements alive at once when the nodes run in their order."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    sizes = {
        value.name: int(np.prod([dim.dim_value for dim in value.type.tensor_type.shape.dim]))
        for value in [*inferred.value_info, *inferred.input, *inferred.output]
    }
    last_use = {name: index for index, node in enumerate(inferred.node) for name in node.input}
    alive = {value.name for value in inferred.input}
    peak = 0
    for index, node in enumerate(inferred.node):
        alive |= {name for name in node.output if name in sizes}
        peak = max(peak, sum(sizes[name] for name in alive))
        alive = {name for name in alive if last_use.get(name, index) > index}
    return peak


def buffers(manifest: dict[str, Any], frame: tuple[int, int, int]) -> int:
    """Bytes of our own: frame, input, grid, map and mask; each once, in pinned or mapped memory."""
    height, width = manifest["input"]["height"], manifest["input"]["width"]
    grid = manifest["output"]["height"] * manifest["output"]["width"]
    return (
        int(np.prod(frame)) + FLOAT * (3 * height * width + grid + height * width) + height * width
    )


def main() -> int:
    """Reckon, print, write benchmarks/results/jetson_memory.json."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--frame", type=int, nargs=2, default=[1200, 1920], help="height, width")
    args = parser.parse_args()
    rows = []
    for name, weights in BACKBONES.items():
        for size in args.sizes:
            with TemporaryDirectory() as folder:
                path, plan = Path(folder) / "model.onnx", Path(folder) / "model.plan"
                export(name, weights, size, path)
                report = plan_from_onnx(
                    path, plan, precision="fp16", backend="rtx", targets=(TARGET,)
                )
                parts = {
                    "weights": report.plan_bytes,
                    "activations": HALF * peak_activations(onnx.load(path)),
                    "buffers": buffers(read_manifest(plan), (*args.frame, 3)),
                    "plan_in_page_cache": report.plan_bytes,
                }
            mib = {key: round(value / 2**20, 1) for key, value in parts.items()}
            total = round(sum(parts.values()) / 2**20, 1)
            rows.append({"backbone": name, "size": size, "mib": mib, "total_mib": total})
            print(rows[-1], f"{100 * total / BOARD_MIB:.1f} % of {BOARD_MIB} MiB", flush=True)
    write_result("jetson_memory", {"precision": "fp16", "frame": args.frame, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
