"""The demo's photographs: reads the package elpv-dataset, writes a folder in the MVTec-AD layout.

elpv-dataset holds 300 x 300 pixel electroluminescence photos of solar cells, each with the
probability that the cell is defective (Buerhop-Lutz et al., 2018; Deitsch et al., 2019; CC
BY-NC-SA 4.0). Two properties of it would flatter any detector and are taken out here.

- Some cells come from modules that are nearly all defective and look unlike the others. A detector
  would tell modules apart and get the credit for defects: one trained without those modules told
  even their good cells from the other good ones (image AUROC 0.93), and all monocrystalline
  defects together stood at 0.94, of which 0.80 was left inside the remaining modules. Modules that
  are mostly defective are left out.
- Neighbouring cells are often cut from one crystal or printed in one pass and look alike up to the
  last stain. Such look-alikes are found by correlation, named in parts.csv as one part, and kept
  on one side of the split.
"""

from __future__ import annotations

import csv
import importlib.util
import shutil
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agp_edge.dataset import GOOD, Sample, split_by_part
from agp_edge.dependencies import require
from agp_edge.errors import DataError, DependencyError
from agp_edge.files import write_aside
from agp_edge.images import read_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

__all__ = [
    "DATA_NOTE",
    "DEFECTIVE",
    "Cell",
    "DemoData",
    "lay_out_cells",
    "look_alikes",
    "read_cells",
]

DATA_NOTE = (
    "Photographs: elpv-dataset (PyPI), electroluminescence images of solar cells, "
    "CC BY-NC-SA 4.0: not for commercial use without asking its authors "
    "(Buerhop-Lutz et al. 2018, Deitsch et al. 2019)."
)
DEFECTIVE = "defective"

# Cells of a module in the data set's numbering, which does not say where modules begin.
MODULE = 60
# Correlation above which two cells count as look-alikes. Of the monocrystalline pairs above it,
# 94 % lie within 20 cells of each other in the numbering, and 1 of 499 more than 100 apart.
LOOK_ALIKE = 0.5
# Leading principal components: what all cells of a module design share, above all its busbars.
SHARED_COMPONENTS = 20


@dataclass(frozen=True)
class Cell:
    """One photograph of elpv-dataset."""

    path: Path
    number: int  # in the data set, from 1; neighbours are neighbours in a module
    defective: bool


@dataclass(frozen=True)
class DemoData:
    """What was laid out, in photos, and what was left out."""

    root: Path
    train_good: int
    test_good: int
    test_defective: int
    other_modules: int  # cells of modules where defective ones prevail
    look_alikes: int  # good look-alikes of defective cells: they belong to neither side


def read_cells(kind: str) -> tuple[list[Cell], int]:
    """The certain cells of one type (probability 0 or 1), and how many were left out by module.

    Unbroken runs of one type are cut into blocks of 60 cells, about a module each; a block with
    more defective than good cells is left out.

    Args:
        kind: "mono" or "poly".

    Raises:
        DependencyError: elpv-dataset is not installed.
        DataError: it is not laid out as expected.
    """
    folder = _package_folder() / "data"
    try:
        lines = (folder / "labels.csv").read_text(encoding="utf-8").splitlines()
        rows = [(folder / name, float(p), t) for name, p, t in (line.split() for line in lines)]
    except (OSError, ValueError) as error:
        raise DataError(
            f"'{folder / 'labels.csv'}' cannot be read ({error}); expected lines of path, "
            "probability and type: reinstall elpv-dataset"
        ) from error
    kept: list[Cell] = []
    left_out = 0
    for run_kind, items in groupby(enumerate(rows, start=1), key=lambda item: item[1][2]):
        if run_kind != kind:
            continue
        run = list(items)
        first = run[0][0]
        # 0 and 1 are what the experts were sure of; in between they were not
        cells = [Cell(path, number, p == 1.0) for number, (path, p, _) in run if p in (0.0, 1.0)]
        for _, block in groupby(cells, key=lambda cell: (cell.number - first) // MODULE):
            module = list(block)
            if 2 * sum(cell.defective for cell in module) > len(module):
                left_out += len(module)
            else:
                kept += module
    if not kept:
        raise DataError(f"elpv-dataset holds no cells of type '{kind}'; expected mono or poly")
    return kept, left_out


def look_alikes(images: Iterable[NDArray[np.uint8]]) -> NDArray[np.int64]:
    """Groups photos that show the same pattern.

    Each photo is high-passed, shrunk to 64 x 64 and freed of the components that the whole set
    shares; photos whose remainders correlate above `LOOK_ALIKE`, directly or by way of others,
    form a group.

    Args:
        images: uint8 (H, W) each, H and W at least 64.

    Returns:
        int64 (n,): the group of each photo, counted from 0 in the order of appearance.
    """
    cv2 = require("cv2")
    rows = []
    for image in images:
        pixels = image.astype(np.float32)
        pixels -= cv2.GaussianBlur(pixels, (0, 0), 10.0)
        # the rim is cut off: frame and neighbouring cells are the same everywhere
        small = cv2.resize(pixels, (64, 64), interpolation=cv2.INTER_AREA)[4:-4, 4:-4].ravel()
        small = small - small.mean()
        rows.append(small / max(float(np.linalg.norm(small)), 1e-6))
    patterns = np.array(rows)
    patterns -= patterns.mean(axis=0)
    _, directions = np.linalg.eigh(patterns @ patterns.T)  # ascending
    shared = directions[:, len(rows) - min(SHARED_COMPONENTS, len(rows) // 10) :]
    patterns -= shared @ (shared.T @ patterns)
    patterns /= np.maximum(np.linalg.norm(patterns, axis=1, keepdims=True), 1e-6)
    _, groups = require("scipy.sparse.csgraph").connected_components(
        patterns @ patterns.T > LOOK_ALIKE, directed=False
    )
    return np.asarray(groups, np.int64)


def lay_out_cells(
    kind: str,
    folder: Path,
    *,
    limit: int | None = None,
    progress: Callable[[Iterable[Cell]], Iterable[Cell]] = iter,
) -> DemoData:
    """Writes train/good, test/good, test/defective, parts.csv and the licence note.

    The split is the same on every machine. About a quarter of the good parts and all defective
    cells are for the test.

    Args:
        kind: "mono" or "poly".
        folder: the data set's root; images that are there already are kept.
        limit: at most so many training photos, and a third as many of each kind in the test;
            None: all.
        progress: wraps the cells while they are read, such as a progress bar.

    Raises:
        DependencyError: elpv-dataset, OpenCV or SciPy is not installed.
        DataError: elpv-dataset is not laid out as expected.
    """
    cells, other_modules = read_cells(kind)
    groups = look_alikes(read_image(cell.path) for cell in progress(cells))
    tainted = {group for cell, group in zip(cells, groups, strict=True) if cell.defective}
    samples = {
        defective: [
            Sample(cell.path, GOOD if not defective else DEFECTIVE, part=f"pattern{group:04d}")
            for cell, group in zip(cells, groups, strict=True)
            if cell.defective == defective and (defective or group not in tainted)
        ]
        for defective in (False, True)
    }
    train, test_good = split_by_part(samples[False], 0.25, seed=0)
    sides: dict[str, Sequence[Sample]] = {
        f"train/{GOOD}": _thinned(train, limit),
        f"test/{GOOD}": _thinned(test_good, limit and limit // 3),
        f"test/{DEFECTIVE}": _thinned(samples[True], limit and limit // 3),
    }
    for name, chosen in sides.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for sample in chosen:
            target = folder / name / sample.path.name
            if not target.exists():
                with write_aside(target) as aside:
                    shutil.copyfile(sample.path, aside)
    with write_aside(folder / "parts.csv") as aside, aside.open("w", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "part"])
        for name, chosen in sides.items():
            writer.writerows((f"{name}/{sample.path.name}", sample.part) for sample in chosen)
    with write_aside(folder / "LICENSE.txt") as aside:
        aside.write_text(
            f"{DATA_NOTE}\nhttps://creativecommons.org/licenses/by-nc-sa/4.0/\n", encoding="utf-8"
        )
    return DemoData(
        root=folder,
        train_good=len(sides[f"train/{GOOD}"]),
        test_good=len(sides[f"test/{GOOD}"]),
        test_defective=len(sides[f"test/{DEFECTIVE}"]),
        other_modules=other_modules,
        look_alikes=sum(not cell.defective for cell in cells) - len(samples[False]),
    )


def _package_folder() -> Path:
    # found, not imported: its __init__ needs Pillow, and only its files are wanted
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise DependencyError(
            "the demo's photographs come in the Python package elpv-dataset, which is not "
            "installed: install it with `pip install 'agp-edge[demo]'`"
        )
    return Path(spec.origin).parent


def _thinned(samples: Sequence[Sample], limit: int | None) -> Sequence[Sample]:
    """At most `limit` of them, spread evenly."""
    if limit is None or len(samples) <= limit:
        return samples
    return [samples[index * len(samples) // limit] for index in range(limit)]
