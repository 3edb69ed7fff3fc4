"""ONNX Runtime's quantiser, as `agp-edge quantize` uses it, beside NVIDIA Model Optimizer's.

Both get the same FP32 model and the same calibration images, and quantise all they would; the rest
stays FP32. The test images judge both, with Q/DQ pairs computed as they stand, and TensorRT for RTX
compiles both. Model Optimizer pins versions of onnx and ONNX Runtime that this project does not
use, so that it runs in an environment of its own:

    python -m venv MO && MO/bin/pip install "nvidia-modelopt[onnx]"
    python benchmarks/model_optimizer.py MODEL.onnx DATA --python MO/bin/python
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from provenance import write_result

from agp_edge.calibration.graph.model_file import load_fp32, set_manifest
from agp_edge.calibration.int8.accuracy import Judge, labelled_frames
from agp_edge.calibration.int8.quantize import HELD_OUT, quantise_onnx
from agp_edge.calibration.int8.work import Work
from agp_edge.dataset import open_dataset, split_by_part
from agp_edge.files import write_aside
from agp_edge.plan.build import plan_from_onnx

COUNT = 64  # calibration images
THEIRS = """
import sys
import numpy as np
import modelopt
from modelopt.onnx.quantization import quantize

source, inputs, output, method = sys.argv[1:]
quantize(source, quantize_mode="int8", calibration_data=np.load(inputs), calibration_method=method,
         calibration_eps=["cpu"], high_precision_dtype="fp32", output_path=output,
         log_level="ERROR")
print(modelopt.__version__)
"""


def theirs(python: str, model: Path, inputs: Path, output: Path, method: str) -> tuple[float, str]:
    """CPU seconds, and Model Optimizer's version."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [python, "-c", THEIRS, str(model), str(inputs), str(output), method]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, done.stdout.split()[-1]


def row_of(path: Path, seconds: float, judge: Judge, folder: Path) -> dict[str, Any]:
    graph = onnx.load(path)
    quantised = sum(node.op_type == "QuantizeLinear" for node in graph.graph.node)
    accuracy = judge.judge(graph)
    try:
        plan_from_onnx(path, folder / "x.plan", backend="rtx", targets=(86,))
        compiled: Any = (folder / "x.plan").stat().st_size
    except Exception as error:  # which one, and why, is the result
        compiled = f"{type(error).__name__}: {error}".splitlines()[0]
    return {
        "cpu_seconds": seconds,
        "quantize_nodes": quantised,
        "test": accuracy.to_dict(),
        "plan": compiled,
    }


def summary_lines(rows: dict[str, Any]) -> list[str]:
    lines = [
        "| quantiser | CPU s | QuantizeLinear | image AUROC, fp32 -> INT8 | verdict flips | scores "
        "| map difference | plan bytes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        a = row["test"]
        cells = [
            name,
            f"{row['cpu_seconds']:.0f}",
            f"{row['quantize_nodes']}",
            f"{a['auroc']['before']:.4f} -> {a['auroc']['after']:.4f}",
            f"{100 * (a['flips'] + a['borderline_flips']):.1f} %",
            f"{100 * a['score_shift']:+.1f} %",
            f"{a['map_difference']:.4f}",
            f"{row['plan']}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--python", required=True, help="interpreter that has nvidia-modelopt")
    parser.add_argument("--methods", nargs="+", default=["entropy", "max"])
    parser.add_argument("--note", default="", help="about the model; goes into the results")
    arguments = parser.parse_args()
    dataset = open_dataset(arguments.data)
    work = Work(str(arguments.model), False, True)
    judge = Judge(
        load_fp32(str(arguments.model), work.manifest),
        work.manifest,
        labelled_frames(dataset.test, work.shape),
        labelled=True,
    )
    pool, held_out = split_by_part(dataset.train, HELD_OUT, seed=0)
    chosen = work.choose(pool, held_out, COUNT).calibrated
    rows: dict[str, Any] = {}
    version = ""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        inputs = folder / "inputs.npy"
        np.save(inputs, np.concatenate([work.input_of(sample.path) for sample in chosen]))
        started = time.process_time()
        ours = folder / "ours.onnx"
        quantise_onnx(arguments.model, arguments.data, ours, count=COUNT, precision="fp32")
        seconds = time.process_time() - started
        rows["agp-edge quantize, mse"] = row_of(ours, seconds, judge, folder)
        for method in arguments.methods:
            path = folder / f"{method}.onnx"
            seconds, version = theirs(arguments.python, arguments.model, inputs, path, method)
            graph = onnx.load(path)
            manifest = {**work.manifest, "self_test": None}
            manifest["precision"] = {"asked": "int8", "built": None}
            set_manifest(graph, manifest)
            onnx.save(graph, path)
            rows[f"Model Optimizer, {method}"] = row_of(path, seconds, judge, folder)
    payload = {"note": arguments.note, "modelopt": version, "count": COUNT, "rows": rows}
    path = write_result("model_optimizer", payload)
    head = [f"# {path.stem}", "", f"NVIDIA Model Optimizer {version}. {arguments.note}", ""]
    lines = [*head, *summary_lines(rows)]
    with write_aside(path.with_suffix(".md")) as aside:
        aside.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
