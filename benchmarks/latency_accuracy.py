"""Latency beside accuracy: what a larger input, another backbone or decoder costs and brings.

Trains a model per preset on the good solar cells (PyPI's elpv-dataset), judges it on the others and
times `Detector.score` from 1920 x 1080 frames on one thread, all presets in turn on each frame.
Finished models are kept in the folder and reused, so that the times can be repeated in minutes:

    python benchmarks/latency_accuracy.py MODELS [--presets NAME ...] [--seconds 60]

Writes benchmarks/results/latency_accuracy.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data_sets import lay_out
from numpy.typing import NDArray
from provenance import write_result

import agp_edge
from agp_edge.bench.against import side_by_side
from agp_edge.bench.against.way import Way
from agp_edge.bench.frames import synthetic_frames
from agp_edge.dataset import open_dataset
from agp_edge.demo_data import DATA_NOTE
from agp_edge.evaluate import evaluate
from agp_edge.files import write_aside
from agp_edge.trainer.config import ModelConfig, TrainConfig
from agp_edge.trainer.export import onnx_from_checkpoint
from agp_edge.trainer.train import train

PRESETS = {
    "default: lite0, 256, regions": ModelConfig(),
    "192": ModelConfig(height=192, width=192),
    "320": ModelConfig(height=320, width=320),
    "no fine maps": ModelConfig(fine_regions=0, patch_memory=0),
    "decoder memory": ModelConfig(decoder="memory"),
    "decoder transformer": ModelConfig(decoder="transformer"),
    "lite2": ModelConfig(backbone="tf_efficientnet_lite2"),
}
# The last one computes in bfloat16, so that its accuracy is one of its own.
ENGINES = ("onnxruntime", "openvino", "openvino-bf16")


def model_of(name: str, config: ModelConfig, root: Path, folder: Path) -> Path:
    """The preset's model file; trained where `folder` does not hold it."""
    stem = "".join(c if c.isalnum() else "-" for c in name).strip("-")
    path = folder / f"{stem}.onnx"
    if not path.exists():
        run = train(
            open_dataset(root),
            folder / stem,
            model_config=config,
            config=TrainConfig(seed=0),
            weights="wheel",
            device="cpu",
            cache_dir=folder / "features",
            resume=True,
            progress=False,
        )
        onnx_from_checkpoint(run.folder, path, progress=False)
    return path


def accuracy(path: Path, root: Path, engine: str) -> dict[str, Any]:
    """Image AUROC on the test cells; kept beside the model."""
    kept = path.with_suffix(".bf16.json" if engine == "openvino-bf16" else ".accuracy.json")
    if not kept.exists():
        found = evaluate(path, root, engine=engine, threads=1).overall
        record = {"image_auroc": found.image_auroc, "interval": found.image_auroc_interval}
        with write_aside(kept) as aside:
            aside.write_text(json.dumps(record), encoding="utf-8")
    record = json.loads(kept.read_text(encoding="utf-8"))
    assert isinstance(record, dict)
    return record


def times(models: dict[str, Path], seconds: float) -> dict[str, Any]:
    """Every preset on each engine, one frame of each in turn."""
    detectors = {
        f"{name} | {engine}": agp_edge.Detector(path, engine=engine, threads=1)
        for name, path in models.items()
        for engine in ENGINES
    }

    def scorer(detector: agp_edge.Detector) -> Any:
        def score(frame: NDArray[np.uint8]) -> float:
            return detector.score(frame).score

        return score

    first, *others = detectors
    return side_by_side(
        scorer(detectors[first]),
        [Way(name=key, score=scorer(detectors[key]), same_graph=False) for key in others],
        synthetic_frames(1920, 1080).arrays,
        duration_s=seconds,
        rest=False,
        name=first,
    ).to_dict()


def table(results: dict[str, dict[str, Any]], timing: dict[str, Any]) -> list[str]:
    rows = {row["name"]: row for row in timing["rows"]}
    lines = [
        "| preset | image AUROC (95 % interval) | ONNX Runtime, ms p50 | p99 | OpenVINO, ms p50 "
        "| p99 | times the default (ONNX Runtime) | image AUROC in bfloat16 | OpenVINO in "
        "bfloat16, ms p50 | p99 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, record in results.items():
        low, high = record["interval"]
        cells = []
        for engine in ENGINES:
            percentiles = rows[f"{name} | {engine}"]["ms"]["percentiles"]
            for key in ("p50", "p99"):
                value = percentiles[key]["value"]
                cells.append("too few frames" if value is None else f"{value:.1f}")
        ratio = rows[f"{name} | {ENGINES[0]}"]["ratio"]
        shown = "1" if ratio is None else f"{ratio:.2f}"
        lines.append(
            f"| {name} | {record['image_auroc']:.3f} ({low:.3f} to {high:.3f}) | "
            f"{' | '.join(cells[:4])} | {shown} | {record['bf16']['image_auroc']:.3f} | "
            f"{' | '.join(cells[4:])} |"
        )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where models are kept")
    parser.add_argument("--presets", nargs="+", choices=list(PRESETS), default=list(PRESETS))
    parser.add_argument("--seconds", type=float, default=60.0, help="of the timing")
    parser.add_argument("--train-only", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    models, results = {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        root = lay_out("mono", Path(scratch) / "mono", 0)
        for name in arguments.presets:
            models[name] = model_of(name, PRESETS[name], root, arguments.folder)
            results[name] = accuracy(models[name], root, "onnxruntime")
            results[name]["bf16"] = accuracy(models[name], root, "openvino-bf16")
            print(name, results[name], flush=True)
    if arguments.train_only:
        return 0
    load = os.getloadavg()[0]
    timing = times(models, arguments.seconds)
    lines = [
        "Solar cells, mono, one seed; their defects guided choices of the method, so that the "
        "accuracy is not that of unseen data. Times: one thread, from a 1920 x 1080 frame to the "
        f"verdict, {timing['rounds']} rounds, presets in turn on each frame; load average "
        f"{load:.1f} on {os.cpu_count()} cores when they began.",
        "",
        *table(results, timing),
    ]
    print("\n".join(lines))
    samples = timing.pop("samples_ms")
    path = write_result(
        "latency_accuracy",
        {
            "data": DATA_NOTE,
            "load_average": load,
            "accuracy": results,
            "timing": timing,
            "samples_ms": {key: [round(v, 4) for v in values] for key, values in samples.items()},
        },
    )
    with write_aside(path.with_suffix(".md")) as aside:
        aside.write_text("# latency_accuracy\n\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
