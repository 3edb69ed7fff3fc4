"""The data sets of the accuracy benchmarks, each laid out as `agp_edge.dataset` reads it.

Solar cells come with the package elpv-dataset. Other sets are folders in AGP_EDGE_DATA (default
../shared/data), as their authors give them:

    magnetic_tile    in the MVTec-AD layout with parts.csv
    kolektor         KolektorSDD (Tabernik et al., "Segmentation-based deep-learning approach for
                     surface-defect detection", 2019): kos01/Part0.jpg, kos01/Part0_label.bmp, ...
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["NAMES", "STUDIED", "lay_out"]

NAMES = {
    "tiles": "magnetic tiles",
    "mono": "solar cells, mono",
    "poly": "solar cells, poly",
    "kolektor": "KolektorSDD",
}
STUDIED = ("tiles", "mono", "poly")  # what a table is of unless it is told otherwise
TRAIN_SHARE = 0.6  # of the good solar cells
WINDOWS = 3  # that a commutator's tall image is cut into: about 500 x 420 pixels each
LEAST_DEFECT = 30  # pixels of a crack in a window that counts as defective; fewer: left out


def lay_out(name: str, folder: Path, seed: int) -> Path:
    """The root of a data set in the MVTec-AD layout; what has to be made is made in `folder`.

    Args:
        name: one of NAMES.
        folder: does not exist yet, or is empty.
        seed: of the split, where the data set does not bring one.

    Raises:
        SystemExit: the data set is not there.
    """
    if name == "tiles":
        return _given("magnetic_tile")
    if name == "kolektor":
        return _commutators(_given("kolektor"), folder, seed)
    return _cells(name, folder, seed)


def _given(name: str) -> Path:
    default = Path(__file__).parents[2] / "shared/data"
    root = Path(os.environ.get("AGP_EDGE_DATA", default)) / name
    if not root.is_dir():
        raise SystemExit(f"'{root}' does not exist; set AGP_EDGE_DATA, or give --sets mono poly")
    return root


def _commutators(root: Path, folder: Path, seed: int) -> Path:
    """Windows of commutators; those of odd or of even number are for training, by the seed."""
    parts = ["file,part"]
    for image in sorted(root.glob("kos*/Part*.jpg")):
        item = image.parent.name
        learnt = int(item.removeprefix("kos")) % 2 == seed % 2
        surface = cv2.imread(str(image), cv2.IMREAD_GRAYSCALE)
        mask = cv2.imread(str(image.with_name(f"{image.stem}_label.bmp")), cv2.IMREAD_GRAYSCALE)
        for index in range(WINDOWS):
            rows = slice(*(surface.shape[0] * (index + side) // WINDOWS for side in (0, 1)))
            crack = int((mask[rows] > 0).sum())
            if 0 < crack < LEAST_DEFECT or (crack and learnt):
                continue
            side = "train/good" if learnt else "test/crack" if crack else "test/good"
            stem = f"{item}_{image.stem}_{index}"
            _write(folder / side / f"{stem}.png", surface[rows])
            if crack:
                shown = np.where(mask[rows] > 0, 255, 0).astype(np.uint8)
                _write(folder / "ground_truth/crack" / f"{stem}_mask.png", shown)
            parts.append(f"{side}/{stem}.png,{item}")
    (folder / "parts.csv").write_text("\n".join(parts) + "\n", encoding="utf-8")
    return folder


def _write(path: Path, image: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)


def _cells(kind: str, folder: Path, seed: int) -> Path:
    """Certain cells of a kind; a random share of the good ones is for training."""
    package = Path(importlib.util.find_spec("elpv_dataset").origin).parent / "data"
    rows = [line.split() for line in (package / "labels.csv").read_text().splitlines()]
    certain = [(package / path, float(p)) for path, p, of in rows if of == kind]
    good = [path for path, p in certain if p == 0.0]
    order = np.random.default_rng(seed).permutation(len(good))
    count = int(TRAIN_SHARE * len(good))
    sides = {
        "train/good": [good[index] for index in order[:count]],
        "test/good": [good[index] for index in order[count:]],
        "test/defective": [path for path, p in certain if p == 1.0],
    }
    for side, paths in sides.items():
        (folder / side).mkdir(parents=True)
        for path in paths:
            shutil.copyfile(path, folder / side / path.name)
    return folder
