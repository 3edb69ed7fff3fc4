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
from bare_engines import engines_here
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
    "lite0 and DINOv2's ViT-S/14": ModelConfig(second_backbone="vit_small_patch14_dinov2"),
}
BF16 = "openvino-bf16"  # its accuracy is one of its own


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
    kept = path.with_suffix(".bf16.json" if engine == BF16 else ".accuracy.json")
    if not kept.exists():
        found = evaluate(path, root, engine=engine, threads=1).overall
        record = {"image_auroc": found.image_auroc, "interval": found.image_auroc_interval}
        with write_aside(kept) as aside:
            aside.write_text(json.dumps(record), encoding="utf-8")
    record = json.loads(kept.read_text(encoding="utf-8"))
    assert isinstance(record, dict)
    return record


def times(models: dict[str, Path], engines: dict[str, str], seconds: float) -> dict[str, Any]:
    """Every preset on each engine, one frame of each in turn."""
    detectors = {
        f"{name} | {engine}": agp_edge.Detector(path, engine=engine, threads=1)
        for name, path in models.items()
        for engine in engines
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


def table(
    results: dict[str, dict[str, Any]], timing: dict[str, Any], engines: dict[str, str]
) -> list[str]:
    rows = {row["name"]: row for row in timing["rows"]}
    first = next(iter(engines))
    head = ["preset", "image AUROC (95 % interval)"]
    for engine, title in engines.items():
        head += ["image AUROC in bfloat16"] * (engine == BF16)
        head += [f"{title}, ms p50", "p99"]
        head += [f"times the default ({title})"] * (engine == first)
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for name, record in results.items():
        low, high = record["interval"]
        cells = [name, f"{record['image_auroc']:.3f} ({low:.3f} to {high:.3f})"]
        for engine in engines:
            row = rows[f"{name} | {engine}"]
            if engine == BF16:
                cells.append(f"{record['bf16']['image_auroc']:.3f}")
            for key in ("p50", "p99"):
                value = row["ms"]["percentiles"][key]["value"]
                cells.append("too few frames" if value is None else f"{value:.1f}")
            if engine == first:
                cells.append("1" if row["ratio"] is None else f"{row['ratio']:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
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
    engines: dict[str, str] = {}  # of this CPU, and what they are called
    with tempfile.TemporaryDirectory() as scratch:
        root = lay_out("mono", Path(scratch) / "mono", 0)
        for name in arguments.presets:
            models[name] = model_of(name, PRESETS[name], root, arguments.folder)
            results[name] = accuracy(models[name], root, "onnxruntime")
            engines = engines or engines_here(models[name])
            if BF16 in engines:
                results[name]["bf16"] = accuracy(models[name], root, BF16)
            print(name, results[name], flush=True)
    if arguments.train_only:
        return 0
    load = os.getloadavg()[0]
    timing = times(models, engines, arguments.seconds)
    lines = [
        "Solar cells, mono, one seed; their defects guided choices of the method, so that the "
        "accuracy is not that of unseen data. Times: one thread, from a 1920 x 1080 frame to the "
        f"verdict, {timing['rounds']} rounds, presets in turn on each frame; load average "
        f"{load:.1f} on {os.cpu_count()} cores when they began.",
        "",
        *table(results, timing, engines),
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
