"""Does `--size auto` choose what a product needs, without having seen a real defect?

- Solar cells (mono, poly): photographs of 300 px, which no larger input may enlarge.
- Modules: nine such photographs side by side, 900 px, one of the cells defective: real defects that
  are small in the frame.
- Boards: generated, 1024 px, with defects of 3 px, which 256 px cannot show.
- Commutators (KolektorSDD, both folds): photographs of about 500 x 420 px with thin cracks.
- Magnetic tiles: photographs of many shapes. Their test folder is opened if 256 px are not chosen.

The choice is made on good training images. Where it is not the default input, both are trained,
exported and judged on the test images through `agp_edge.Detector`.

    python benchmarks/input_size.py [cells] [modules] [boards] [commutators] [tiles]

Writes results/input_size.*; where the last two lie, data_sets.py says.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from data_sets import lay_out
from numpy.typing import NDArray
from provenance import RESULTS, write_result

import agp_edge
from agp_edge.dataset import Dataset, Sample, open_dataset, read_mask
from agp_edge.demo_data import DATA_NOTE, lay_out_cells
from agp_edge.files import write_aside
from agp_edge.metrics import PixelScores, aupro, image_auroc
from agp_edge.trainer.config import ModelConfig
from agp_edge.trainer.data import read_frame
from agp_edge.trainer.export import onnx_from_checkpoint
from agp_edge.trainer.network import new_model
from agp_edge.trainer.size import choose_size
from agp_edge.trainer.train import train

SIDE = 1024  # pixels of a generated board
SPECK = 3  # pixels of a defect's side
COUNTS = {"train/good": 40, "test/good": 40, "test/speck": 40}
CELLS = 3  # of a module's side
MODULES = 60  # good ones, and as many defective ones, to test on
PARTS = {
    "cells": ("cells_mono", "cells_poly"),
    "modules": ("modules_mono", "modules_poly"),
    "boards": ("boards",),
    "commutators": ("commutators_fold 0", "commutators_fold 1"),
    "tiles": ("tiles",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", choices=(*PARTS, []))
    parts = parser.parse_args().parts or list(PARTS)
    torch.set_num_threads(1)
    path = RESULTS / "input_size.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    results: dict[str, Any] = before.get("results", {})
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for name in (name for part in parts for name in PARTS[part]):
            dataset = open_dataset(written(name, root / name))
            results[name] = measured(dataset, root / f"runs_{name}")
            write_result("input_size", {"note": DATA_NOTE, "results": results})
            with write_aside(RESULTS / "input_size.md") as aside:
                aside.write_text(summary(results), encoding="utf-8")
    print(summary(results))


def measured(dataset: Dataset, scratch: Path) -> dict[str, Any]:
    """The choice, what it cost, and the figures of the choice and of the default."""
    start = time.process_time()
    choice = choose_size(
        dataset.train,
        ModelConfig(),
        lambda config: new_model(config, "wheel", 0),
        seed=0,
        progress=False,
    )
    seconds = time.process_time() - start
    print(f"{seconds:.0f} CPU s", *choice.lines(), sep="\n", flush=True)
    row: dict[str, Any] = {
        "cpu_seconds": seconds,
        "reason": choice.reason,
        "candidates": [asdict(candidate) for candidate in choice.candidates],
    }
    if choice.config != ModelConfig():  # else it is the same network
        for name, config in (("default", ModelConfig()), ("chosen", choice.config)):
            row[name] = figures(dataset, config, scratch / name)
            print(name, row[name], flush=True)
    return row


def figures(dataset: Dataset, config: ModelConfig, scratch: Path) -> dict[str, Any]:
    """Image AUROC, and AUPRO where there are masks, of a trained model on the test images."""
    start = time.process_time()
    run = train(
        dataset,
        scratch / "run",
        config,
        weights="wheel",
        device="cpu",
        cache_dir=scratch / "features",
        progress=False,
    )
    seconds = time.process_time() - start
    onnx_from_checkpoint(run.folder, scratch / "model.onnx", progress=False)
    detector = agp_edge.Detector(scratch / "model.onnx", threshold=0.0, threads=1)
    scores, maps, masks, milliseconds = [], [], [], []
    masked = all(sample.mask_path for sample in dataset.test if sample.is_defective)
    for sample in dataset.test:
        frame = read_frame(sample)
        begin = time.perf_counter()
        result = detector.score(frame)
        milliseconds.append(1e3 * (time.perf_counter() - begin))
        scores.append(result.score)
        if masked:
            # at the frames' size, where a defect of 3 px is still there; every second pixel keeps
            # each defect and a quarter of the numbers
            height, width = frame.shape[:2]
            assert result.anomaly_map is not None
            maps.append(cv2.resize(result.anomaly_map, (width, height))[1::2, 1::2])
            masks.append(read_mask(sample, (height, width))[1::2, 1::2])
    row: dict[str, Any] = {
        "size": [config.height, config.width],
        "image_auroc": image_auroc([sample.is_defective for sample in dataset.test], scores),
        "training_cpu_seconds": seconds,
        "milliseconds": float(np.median(milliseconds)),
    }
    if masked:
        row["aupro"] = aupro(PixelScores.collect(maps, masks))
    return row


def summary(results: dict[str, Any]) -> str:
    """The Markdown table."""
    lines = [
        "# input_size",
        "",
        "Written by benchmarks/input_size.py. The choice sees good training images and synthetic "
        "defects; the figures are of real defects that it never saw, of drawn ones for the boards. "
        "ms: a frame to its score by ONNX Runtime on one thread, other work beside it.",
        "",
        "| product | choice | its CPU s | image AUROC, AUPRO, ms at 256 | at the choice |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, row in results.items():
        default, chosen = (cell(row[key]) if key in row else "-" for key in ("default", "chosen"))
        lines.append(
            f"| {name.replace('_', ', ')} | {row['reason']} | {row['cpu_seconds']:.0f} "
            f"| {default} | {chosen} |"
        )
    return "\n".join([*lines, "", "A dash: the choice is the default, hence the same network.", ""])


def cell(row: dict[str, Any]) -> str:
    """One model's figures."""
    pro = f"{row['aupro']:.3f}" if "aupro" in row else "-"
    return f"{row['image_auroc']:.3f}, {pro}, {row['milliseconds']:.0f}"


def written(name: str, root: Path) -> Path:
    """Lays a product out as in MVTec-AD, in `root` where it does not lie elsewhere."""
    what, _, kind = name.partition("_")
    if what == "tiles":
        return lay_out("tiles", root, 0)
    if what == "commutators":
        return lay_out("kolektor", root, int(kind.removeprefix("fold ")))
    if what == "boards":
        write_boards(root)
        return root
    cells = root if what == "cells" else root.with_name(root.name + "_cells")
    lay_out_cells(kind, cells)
    if what == "modules":
        write_modules(open_dataset(cells), root)
    return root


def write_modules(cells: Dataset, root: Path) -> None:
    """Modules of nine cells each: no cell is in two training images; test images share them."""
    random = np.random.default_rng(0)
    count = CELLS * CELLS

    def drawn(samples: Sequence[Sample], number: int) -> list[Sample]:
        return [samples[index] for index in random.permutation(len(samples))[:number]]

    good = [sample for sample in cells.test if not sample.is_defective]
    bad = [sample for sample in cells.test if sample.is_defective]
    train_cells = drawn(cells.train, len(cells.train))
    modules = {
        "train/good": [
            train_cells[first : first + count]
            for first in range(0, len(train_cells) - count + 1, count)
        ],
        "test/good": [drawn(good, count) for _ in range(MODULES)],
        "test/defective": [
            [defect, *drawn(good, count - 1)] for defect in drawn(bad, min(MODULES, len(bad)))
        ],
    }
    for folder, groups in modules.items():
        (root / folder).mkdir(parents=True)
        for index, group in enumerate(groups):
            frames = [read_frame(group[place]) for place in random.permutation(count)]
            rows = [np.hstack(frames[row * CELLS : (row + 1) * CELLS]) for row in range(CELLS)]
            cv2.imwrite(str(root / folder / f"{index:03}.png"), np.vstack(rows))


def write_boards(root: Path) -> None:
    """A product in the MVTec-AD layout: tracks and pads at fixed places, specks as defects."""
    seed = 0
    for folder, count in COUNTS.items():
        (root / folder).mkdir(parents=True)
        for index in range(count):
            seed += 1
            random = np.random.default_rng(seed)
            image, mask = board(random), np.zeros((SIDE, SIDE), np.uint8)
            for _ in range(3 if folder == "test/speck" else 0):
                y, x = random.integers(40, SIDE - 40, 2)
                place = (slice(y, y + SPECK), slice(x, x + SPECK))
                image[place] += random.choice([-70.0, 70.0])
                mask[place] = 255
            pixels = np.clip(image, 0, 255).astype(np.uint8)
            cv2.imwrite(str(root / folder / f"{index:03}.png"), pixels)
            if mask.any():
                (root / "ground_truth/speck").mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(root / f"ground_truth/speck/{index:03}_mask.png"), mask)


def board(random: np.random.Generator) -> NDArray[np.float32]:
    """One good board: a little moved, differently lit, with noise."""
    image = np.full((SIDE, SIDE), 95, np.float32)
    layout = np.random.default_rng(7)  # the same for all boards
    for _ in range(60):
        at, first, last = (int(value) for value in layout.integers(20, SIDE - 20, 3))
        cv2.line(image, (at, first), (at, last), 150, 3)
        at, first, last = (int(value) for value in layout.integers(20, SIDE - 20, 3))
        cv2.line(image, (first, at), (last, at), 150, 3)
    for _ in range(80):
        centre = tuple(int(value) for value in layout.integers(20, SIDE - 20, 2))
        cv2.circle(image, centre, 8, 190, -1)
        cv2.circle(image, centre, 3, 40, -1)
    move = np.array([[1, 0, random.uniform(-4, 4)], [0, 1, random.uniform(-4, 4)]])
    image = cv2.warpAffine(image, move, (SIDE, SIDE), borderMode=cv2.BORDER_REFLECT_101)
    image = cv2.GaussianBlur(image, (0, 0), 0.8) * random.uniform(0.95, 1.05)
    light = cv2.resize(random.normal(0, 3, (32, 32)).astype(np.float32), (SIDE, SIDE))
    return np.asarray(image + light + random.normal(0, 4, image.shape), np.float32)


if __name__ == "__main__":
    main()
