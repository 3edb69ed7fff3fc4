"""How accurate is AGPNet on magnetic tiles and solar cells, and how does a memory bank do there?

Trains with the defaults on good images only, exports, and evaluates the exported file through
`agp_edge.Detector`; beside it, in the same run, detectors on the same frozen features that learn
nothing. Where the images come from: data_sets.py. Writes benchmarks/results/magnetic_tile.json and
.md.

    python benchmarks/magnetic_tile.py [--seeds 3] [--sets tiles mono poly]

Tiles: the split of the folder, which keeps photos of one tile on one side; the seed changes the
held-out parts, the start and the order. Cells: certain ones (probability 0 or 1); a random 60 % of
the good ones are for training, by the seed. Neighbouring cells can look alike and stand on both
sides there: the split is kept because earlier figures used it; `agp-edge demo` has a stricter one.
KolektorSDD: windows of commutators' surfaces; the seed says whether those of even or of odd number
are learnt.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from baselines import Scores, baseline_scores
from data_sets import NAMES, STUDIED, lay_out
from numpy.typing import NDArray
from provenance import write_result
from sklearn.metrics import roc_auc_score

from agp_edge.dataset import GOOD, Dataset, Sample, open_dataset, part_of, read_mask
from agp_edge.demo_data import DATA_NOTE
from agp_edge.evaluate import Evaluation, evaluate
from agp_edge.files import write_aside
from agp_edge.metrics import (
    PixelScores,
    aupro,
    average_precision,
    f1_max,
    image_auroc,
    image_auroc_interval,
    pixel_auroc,
)
from agp_edge.trainer.config import ModelConfig, TrainConfig, config_to_dict
from agp_edge.trainer.export import onnx_from_checkpoint
from agp_edge.trainer.train import train

BANK = 12_000  # tokens; as in the figures that this benchmark is measured against
RESAMPLES = 1000  # of the paired bootstrap


def figures(samples: Sequence[Sample], scores: Scores) -> dict[str, Any]:
    """The metrics of `agp_edge.evaluate` for a detector that is not a model file."""
    types = sorted({sample.label for sample in samples} - {GOOD})
    pixels: dict[str, PixelScores] = {}
    for label in (GOOD, *types):
        chosen = [index for index, sample in enumerate(samples) if sample.label == label]
        if label == GOOD or all(samples[index].mask_path is not None for index in chosen):
            maps = [scores.maps[index] for index in chosen]
            pixels[label] = PixelScores.collect(
                maps, [read_mask(samples[i], m.shape) for i, m in zip(chosen, maps, strict=True)]
            )

    def row(labels: Sequence[str]) -> dict[str, Any]:
        chosen = [i for i, sample in enumerate(samples) if sample.label in (GOOD, *labels)]
        defective = [samples[index].is_defective for index in chosen]
        values = scores.values[chosen]
        parts = [part_of(samples[index]) for index in chosen]
        joined = None
        if all(label in pixels for label in labels):
            joined = PixelScores.join([pixels[GOOD], *(pixels[label] for label in labels)])
        return {
            "image_auroc": image_auroc(defective, values),
            "image_auroc_interval": image_auroc_interval(defective, values, parts=parts),
            "image_ap": average_precision(defective, values),
            "image_f1_max": f1_max(defective, values),
            "pixel_auroc": None if joined is None else pixel_auroc(joined),
            "aupro": None if joined is None else aupro(joined),
        }

    return {**row(types), "types": {label: row([label]) for label in types}}


def paired_difference(
    samples: Sequence[Sample], first: NDArray[np.float64], second: NDArray[np.float64]
) -> dict[str, Any]:
    """AUROC of `first` minus that of `second`, and its 95 % interval by bootstrap over parts.

    Both are judged on the same resampled parts, so that parts hard for both cancel.
    """
    defective = np.array([sample.is_defective for sample in samples])
    parts, index = np.unique([part_of(sample) for sample in samples], return_inverse=True)
    bad = np.bincount(index, weights=defective, minlength=len(parts))
    every = np.bincount(index, minlength=len(parts))
    strata = [np.flatnonzero(s) for s in (bad == 0, bad == every, (bad > 0) & (bad < every))]
    generator = np.random.default_rng(0)
    differences = []
    for _ in range(RESAMPLES):
        drawn = np.zeros(len(parts))
        for members in strata:
            if len(members):
                picks = generator.integers(0, len(members), len(members))
                drawn[members] = np.bincount(picks, minlength=len(members))
        weight = drawn[index]
        differences.append(
            roc_auc_score(defective, first, sample_weight=weight)
            - roc_auc_score(defective, second, sample_weight=weight)
        )
    return {
        "difference": roc_auc_score(defective, first) - roc_auc_score(defective, second),
        "interval": [float(value) for value in np.quantile(differences, [0.025, 0.975])],
    }


def run_once(
    name: str, seed: int, scratch: Path, network: ModelConfig, *, with_baselines: bool
) -> dict[str, Any]:
    """Trains, exports, evaluates; gives everything that is reported about it."""
    root = lay_out(name, scratch / "data", seed)
    dataset = open_dataset(root)
    start, cpu_start = time.perf_counter(), time.process_time()
    result = train(
        dataset,
        scratch / name,
        network,
        TrainConfig(seed=seed),
        weights="wheel",
        device="cpu",
        cache_dir=scratch / "features",
        progress=sys.stderr.isatty(),
    )
    training = {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu_start,
        "epochs": result.epochs,
        "best_epoch": result.best_epoch,
    }
    model = scratch / f"{name}.onnx"
    onnx_from_checkpoint(result.folder, model, progress=False)
    evaluation = evaluate(model, root, threads=1, progress=sys.stderr.isatty())
    entry = {"seed": seed, "training": training, **report(evaluation, model)}
    if with_baselines:
        entry["baselines"] = baselines(dataset, result.folder, evaluation, seed)
    return entry


def report(evaluation: Evaluation, model: Path) -> dict[str, Any]:
    """The figures of one model."""
    found = evaluation.to_dict()
    manifest = found.pop("manifest")
    return {
        "agpnet": found,
        "latency_ms": {
            stage: dict(zip(("p50", "p90", "p99"), values, strict=True))
            for stage, values in evaluation.latency().items()
        },
        "engine": evaluation.engine,
        "model_bytes": model.stat().st_size,
        "threshold": manifest["threshold"],
        "at_threshold": {
            "good_rejected": evaluation.count(defective=False, anomalous=True),
            "good_parts_rejected": evaluation.good_parts(),
            "defective_found": evaluation.count(defective=True, anomalous=True),
        },
    }


def baselines(
    dataset: Dataset, checkpoint: Path, evaluation: Evaluation, seed: int
) -> dict[str, Any]:
    """The baselines' figures and AGPNet's paired difference from each."""
    samples = [frame.sample for frame in evaluation.frames]
    own = np.array([frame.score for frame in evaluation.frames])
    train_paths = [sample.path for sample in dataset.train]
    found = baseline_scores(
        checkpoint, train_paths, [sample.path for sample in samples], bank=BANK, seed=seed
    )
    return {
        way: {
            **figures(samples, scores),
            "agpnet_minus_this": paired_difference(samples, own, scores.values),
        }
        for way, scores in found.items()
    }


def summary_lines(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The Markdown table of the results."""
    lines = [
        "| data | detector | image AUROC (95 % interval, first seed) | AP | F1-max | pixel AUROC "
        "| AUPRO | AGPNet is better by (paired 95 %) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, entries in results.items():
        own = [entry["agpnet"] for entry in entries]
        lines.append(_row(NAMES[name], f"AGPNet, {len(own)} seeds", own, ""))
        for way in entries[0].get("baselines", {}):
            others = [e["baselines"][way] for e in entries if "baselines" in e]
            difference = others[0]["agpnet_minus_this"]
            low, high = difference["interval"]
            better = f"{difference['difference']:+.3f} ({low:+.3f} to {high:+.3f})"
            lines.append(_row(NAMES[name], way, others, better))
    lines += ["", "| data | type | AGPNet image AUROC | AUPRO | nearest neighbours image AUROC |"]
    lines += ["| --- | --- | --- | --- | --- |"]
    for name, entries in results.items():
        for kind in entries[0]["agpnet"]["types"]:
            own = [entry["agpnet"]["types"][kind] for entry in entries]
            others = [
                entry["baselines"]["nearest neighbours"]["types"][kind]
                for entry in entries
                if "baselines" in entry
            ]
            lines.append(
                f"| {NAMES[name]} | {kind} | {_mean(own, 'image_auroc')} | {_mean(own, 'aupro')} "
                f"| {_mean(others, 'image_auroc')} |"
            )
    lines += ["", "| data | training s (CPU s) | epochs | ms per frame: network | in all, p50 |"]
    lines += ["| --- | --- | --- | --- | --- |"]
    for name, entries in results.items():
        times = [entry["training"] for entry in entries]
        latencies = [entry["latency_ms"] for entry in entries]
        execute = np.median([latency["execute"]["p50"] for latency in latencies])
        total = np.median([latency["total"]["p50"] for latency in latencies])
        lines.append(
            f"| {NAMES[name]} | {np.median([t['seconds'] for t in times]):.0f} "
            f"({np.median([t['cpu_seconds'] for t in times]):.0f}) "
            f"| {', '.join(str(t['epochs']) for t in times)} | {execute:.1f} | {total:.1f} |"
        )
    return lines


def _row(name: str, way: str, rows: Sequence[dict[str, Any]], better: str) -> str:
    low, high = rows[0]["image_auroc_interval"]
    cells = [_mean(rows, key) for key in ("image_ap", "image_f1_max", "pixel_auroc", "aupro")]
    return (
        f"| {name} | {way} | {_mean(rows, 'image_auroc')} ({low:.3f} to {high:.3f}) | "
        + " | ".join(cells)
        + f" | {better} |"
    )


def _mean(rows: Sequence[dict[str, Any]], key: str) -> str:
    """Mean over seeds and, from two seeds on, the standard deviation."""
    values = [row[key] for row in rows]
    if not values or any(value is None for value in values):
        return "-"
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: 3)")
    parser.add_argument("--sets", nargs="+", choices=list(NAMES), default=list(STUDIED))
    parser.add_argument("--no-baselines", action="store_true", help="AGPNet alone: half the time")
    parser.add_argument("--backbone", default=ModelConfig.backbone)
    parser.add_argument("--second-backbone", default=ModelConfig.second_backbone)
    parser.add_argument("--size", type=int, default=ModelConfig.height, help="pixels a side")
    parser.add_argument("--layers", nargs="+", type=int, default=[], help="of the backbone")
    parser.add_argument("--note", default="", help="how choices were made; goes into the results")
    parser.add_argument("--output", default="magnetic_tile", help="name of the result files")
    arguments = parser.parse_args()
    network = ModelConfig(
        backbone=arguments.backbone,
        second_backbone=arguments.second_backbone,
        height=arguments.size,
        width=arguments.size,
        layers=tuple(arguments.layers),
    )
    results: dict[str, list[dict[str, Any]]] = {}
    for name in arguments.sets:
        for seed in range(arguments.seeds):
            with tempfile.TemporaryDirectory() as scratch:
                # the baselines hardly depend on the seed, and the bank takes long
                asked = seed == 0 and not arguments.no_baselines
                entry = run_once(name, seed, Path(scratch), network, with_baselines=asked)
            results.setdefault(name, []).append(entry)
            print(f"{NAMES[name]}, seed {seed}: {entry['agpnet']['image_auroc']:.4f}", flush=True)
            path = write_result(
                arguments.output,
                {
                    "note": arguments.note,
                    "data": {"solar cells": DATA_NOTE},
                    "model_config": config_to_dict(network),
                    "train_config": config_to_dict(TrainConfig()),
                    "bank": BANK,
                    "results": results,
                },
            )
    lines = summary_lines(results)
    print("\n".join(lines))
    with write_aside(path.with_suffix(".md")) as aside:
        head = [f"# {path.stem}", "", *([arguments.note, ""] * bool(arguments.note))]
        aside.write_text("\n".join([*head, *lines]) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
