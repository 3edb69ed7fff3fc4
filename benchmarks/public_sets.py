"""How accurate is AGPNet on MVTec-AD, VisA and MVTec-3D (colour images), beside the paper's mean?

Trains a model per class, or one for all, exports each, evaluates the exported file through
`agp_edge.Detector` and prints one table. The data sets and the weights of the backbone are not
part of this project: give the unpacked folder and a local file.

    python benchmarks/public_sets.py mvtec FOLDER --weights dino_deitsmall16_pretrain.pth
    python benchmarks/public_sets.py visa FOLDER --weights FILE --setup multi-class

--method paper is the paper's as far as it is documented: no whitening, no position scaling, no
fine map, L2 distance, attention-guided noise on features and image, 500 epochs. --method
product is what `agp-edge train` does by default at this size. Runs are kept in --runs: a benchmark
that was cut off goes on with the same command. Writes benchmarks/results/public_LAYOUT_SETUP_METHOD
.json and .md after each class. The figures of test images choose nothing here.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from provenance import write_result

from agp_edge.dataset import Dataset, join_products
from agp_edge.errors import DataError, Error
from agp_edge.evaluate import evaluate
from agp_edge.files import write_aside
from agp_edge.public_layouts import LAYOUTS, open_public
from agp_edge.trainer.config import ModelConfig, TrainConfig, config_to_dict
from agp_edge.trainer.export import onnx_from_checkpoint
from agp_edge.trainer.setups import setup_defaults
from agp_edge.trainer.train import train

SETUPS = ("one-class", "multi-class")
METRICS = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}
TITLES = {"mvtec": "MVTec-AD", "visa": "VisA", "mvtec3d": "MVTec-3D, RGB"}
CLASSES = {"mvtec": 15, "visa": 12, "mvtec3d": 10}  # in the published sets

# Percent, means over all classes, METRICS in order; None: not known.
PAPER: dict[tuple[str, str], tuple[float | None, float | None, float | None]] = {
    ("mvtec", "multi-class"): (98.7, 98.0, 92.9),
    ("mvtec", "one-class"): (99.2, 98.3, None),
    ("visa", "multi-class"): (92.3, 98.4, None),
    ("visa", "one-class"): (92.3, 98.4, None),
    ("mvtec3d", "multi-class"): (84.9, None, None),
    ("mvtec3d", "one-class"): (84.9, None, None),
}
PAPER_SOURCE = (
    "AGPNet, arXiv 2408.07490, as a public review of its second version quotes it; not read in the "
    "paper itself; figures per class are not known"
)
SETUP_UNKNOWN = "of VisA and MVTec-3D the source does not say which setup the figures belong to"
RANDOM_NOTE = "random weights: a test of the path, not a figure"


def configs(arguments: argparse.Namespace) -> tuple[ModelConfig, TrainConfig]:
    """What the method, and the options that overrule it, come to."""
    if arguments.method == "paper":
        model = ModelConfig(
            whiten=False,
            position_scale=False,
            fine_regions=0,
            patch_memory=0,
            decoder="transformer",
            score="max",
            decoder_width=384,  # not documented; that of the paper's backbone, as are the heads
            decoder_heads=6,
        )
        training = TrainConfig(
            setup=arguments.setup,
            epochs=500,
            learning_rate=1e-4,
            image_noise=True,
            # No early stop is documented; a threshold is not part of the table, yet needs an image.
            stop_share=0.0,
            hold_out=0.01,
        )
    else:
        model, training = setup_defaults(arguments.setup)
    given = {"epochs": arguments.epochs, "batch": arguments.batch, "seed": arguments.seed}
    return (
        replace(model, backbone=arguments.backbone, height=arguments.size, width=arguments.size),
        replace(training, **{key: value for key, value in given.items() if value is not None}),
    )


def run_name(arguments: argparse.Namespace) -> str:
    """What tells this table from the others."""
    return f"public_{arguments.layout}_{arguments.setup}_{arguments.method}"


def train_and_export(dataset: Dataset, run: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains into `run`, or goes on there; exports `run`/model.onnx."""
    start = time.perf_counter()
    result = train(
        dataset,
        run,
        *configs(arguments),
        weights=arguments.weights,
        resume=True,
        device=arguments.device,
        cache_dir=arguments.runs / "features",
        progress=sys.stderr.isatty(),
    )
    onnx_from_checkpoint(result.folder, run / "model.onnx", progress=False)
    return {
        "n_train": len(dataset.train),
        "epochs": result.epochs,
        "seconds": time.perf_counter() - start,  # of this call; a run that went on took longer
    }


def figures(model: Path, dataset: Dataset, threads: int) -> dict[str, Any]:
    """The figures of one class; the pixels' are taken at the size of the network's input."""
    evaluation = evaluate(model, dataset, threads=threads, progress=sys.stderr.isatty())
    found = evaluation.to_dict()
    del found["manifest"]
    latency = evaluation.latency()
    return {**found, "execute_ms_p50": latency["execute"][0], "total_ms_p50": latency["total"][0]}


def table(layout: str, setup: str, rows: dict[str, dict[str, Any]]) -> list[str]:
    """The Markdown table, in percent, and what must be known to read it."""
    lines = [
        f"| {TITLES[layout]}, {setup} | {' | '.join(METRICS.values())} |",
        "| --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        lines.append(f"| {name} | {_cells(100 * row[key] for key in METRICS)} |")
    means = [100 * float(np.mean([row[key] for row in rows.values()])) for key in METRICS]
    lines.append(f"| **mean of {len(rows)}** | {_cells(means)} |")
    unknown = "" if layout == "mvtec" else ", setup not stated"
    lines.append(f"| paper, mean of {CLASSES[layout]}{unknown} | {_cells(PAPER[layout, setup])} |")
    lines += ["", f"Paper: {PAPER_SOURCE}."]
    if layout != "mvtec":
        lines.append(f"{SETUP_UNKNOWN[0].upper()}{SETUP_UNKNOWN[1:]}.")
    if len(rows) != CLASSES[layout]:
        lines.append(
            f"{len(rows)} of {CLASSES[layout]} classes: this mean cannot be compared with the "
            "paper's."
        )
    return lines


def _cells(values: Any) -> str:
    return " | ".join("-" if value is None else f"{value:.1f}" for value in values)


class Report:
    """The result files, written anew after each class."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.layout, self.setup = arguments.layout, arguments.setup
        is_random = arguments.weights == "random"
        suffix = "_random" if is_random else ""
        self.name = arguments.output or f"{run_name(arguments)}{suffix}"
        weights = Path(arguments.weights)
        model, training = configs(arguments)
        self.head = {
            "note": RANDOM_NOTE if is_random else "",
            "layout": self.layout,
            "method": arguments.method,
            "weights": weights.name,
            "weights_sha256": _file_hash(weights) if weights.is_file() else None,
            "with_validation": arguments.with_validation,
            "model_config": config_to_dict(model),
            "train_config": config_to_dict(training),
            "paper": dict(zip(METRICS, PAPER[self.layout, self.setup], strict=True)),
            "paper_source": f"{PAPER_SOURCE}; {SETUP_UNKNOWN}",
        }
        self.rows: dict[str, dict[str, Any]] = {}

    def add(self, name: str, row: dict[str, Any]) -> None:
        """Takes the figures of a class and writes the files."""
        self.rows[name] = row
        path = write_result(self.name, {**self.head, "classes": self.rows})
        lines = [f"# {path.stem}", "", *self.lines()]
        with write_aside(path.with_suffix(".md")) as aside:
            aside.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{name}: {_cells(100 * row[key] for key in METRICS)}", flush=True)

    def lines(self) -> list[str]:
        """The table so far, with its notes."""
        note = [self.head["note"], ""] if self.head["note"] else []
        return [*note, *table(self.layout, self.setup, self.rows)]


def _file_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def measure(arguments: argparse.Namespace) -> None:
    """Everything but the command line."""
    datasets = open_public(
        arguments.layout,
        arguments.folder,
        arguments.classes,
        with_validation=arguments.with_validation,
    )
    report = Report(arguments)
    if arguments.setup == "multi-class":
        if len(datasets) < 2:
            raise DataError(f"multi-class needs two classes or more; got {len(datasets)}")
        run = arguments.runs / "all"
        training = train_and_export(join_products(datasets), run, arguments)
        for dataset in datasets:
            row = figures(run / "model.onnx", dataset, arguments.threads)
            report.add(dataset.root.name, {**row, "training_of_all": training})
    else:
        for dataset in datasets:
            run = arguments.runs / dataset.root.name
            training = train_and_export(dataset, run, arguments)
            row = figures(run / "model.onnx", dataset, arguments.threads)
            report.add(dataset.root.name, {**row, "training": training})
    print("\n".join(["", *report.lines()]))


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("layout", choices=LAYOUTS)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the unpacked benchmark")
    parser.add_argument(
        "--weights",
        required=True,
        help="of the backbone, a .pth or .safetensors file; or as for "
        "agp-edge train; random: tests the path",
    )
    parser.add_argument("--backbone", default="vit_small_patch16_224.dino", help="timm's name")
    parser.add_argument("--setup", choices=SETUPS, default="one-class")
    parser.add_argument("--method", choices=("paper", "product"), default="paper")
    parser.add_argument("--size", type=int, default=256, help="pixels, a multiple of the patch")
    parser.add_argument("--epochs", type=int, help="default: the method's")
    parser.add_argument("--batch", type=int, help="default: the method's")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--classes", nargs="+", metavar="CLASS", help="default: all")
    parser.add_argument(
        "--with-validation", action="store_true", help="mvtec3d: train on validation/good too"
    )
    parser.add_argument("--device", default="auto", help="of the training")
    parser.add_argument("--threads", type=int, default=0, help="of the evaluation")
    parser.add_argument("--runs", type=Path, help="default: runs/public_LAYOUT_SETUP_METHOD")
    parser.add_argument("--output", help="name of the result files")
    arguments = parser.parse_args(argv)
    arguments.runs = arguments.runs or Path("runs") / run_name(arguments)
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    try:
        measure(arguments)
    except Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
