"""Public benchmarks on disk, class by class: MVTec-AD, VisA, MVTec-3D (its colour images).

Reads folders as their publishers ship them; none of the images is decoded here.

    mvtec    CLASS/{train/good, test/good, test/TYPE, ground_truth/TYPE}
    visa     split_csv/1cls.csv (object,split,label,image,mask; paths from the folder),
             CLASS/Data/Images/{Normal,Anomaly}, CLASS/Data/Masks/Anomaly (index images: > 0 is
             defective)
    mvtec3d  CLASS/{train,validation}/good/rgb, CLASS/test/TYPE/{rgb,gt}; xyz is not read
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from agp_edge.dataset import GOOD, Dataset, Sample, open_dataset
from agp_edge.errors import DataError
from agp_edge.images import list_images

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

__all__ = ["LAYOUTS", "open_public"]

LAYOUTS = ("mvtec", "visa", "mvtec3d")

_VISA_CSV = "split_csv/1cls.csv"
_VISA_COLUMNS = ("object", "split", "label", "image", "mask")
_VISA_LABELS = {"normal": GOOD, "anomaly": "anomaly"}


def open_public(
    layout: str,
    folder: str | os.PathLike[str],
    classes: Sequence[str] | None = None,
    *,
    with_validation: bool = False,
) -> list[Dataset]:
    """The data sets of a public benchmark, one per class, by name.

    Each has the published split, and masks for all of its defective images. The test samples are
    sorted by label, then by path.

    Args:
        layout: one of LAYOUTS.
        folder: holds a folder per class.
        classes: names of those wanted; None: all that are there.
        with_validation: mvtec3d: count the validation images as training images; they are left out
            otherwise.

    Raises:
        DataError: the layout is unknown, or the folder, its CSV, a class, an image or a mask is
            missing; names it and what was expected.
    """
    if layout not in LAYOUTS:
        raise DataError(f"layout '{layout}' is unknown; expected {', '.join(LAYOUTS)}")
    root = Path(folder)
    if not root.is_dir():
        raise DataError(
            f"folder '{root}' {'is a file' if root.exists() else 'does not exist'}; expected the "
            f"unpacked benchmark '{layout}', a folder per class"
        )
    if layout == "visa":
        return _open_visa(root, classes)
    names = sorted(path.name for path in root.iterdir() if (path / "train" / GOOD).is_dir())
    if not names:
        raise DataError(f"folder '{root}' holds no class; expected CLASS/train/good in it")
    if layout == "mvtec":
        return [_open_mvtec(root / name) for name in _wanted(classes, names, root)]
    return [_open_mvtec3d(root / name, with_validation) for name in _wanted(classes, names, root)]


def _wanted(classes: Sequence[str] | None, names: Sequence[str], source: Path) -> list[str]:
    missing = [name for name in classes or () if name not in names]
    if missing:
        raise DataError(
            f"'{source}' has no class '{missing[0]}'; expected one of {', '.join(names)}"
        )
    return list(names) if not classes else sorted(set(classes))


def _open_mvtec(root: Path) -> Dataset:
    dataset = open_dataset(root)
    for sample in dataset.test:
        if sample.is_defective and sample.mask_path is None:
            raise DataError(
                f"image '{sample.path}' has no mask; expected folder "
                f"'{root / 'ground_truth' / sample.label}'"
            )
    return _checked(dataset)


def _open_mvtec3d(root: Path, with_validation: bool) -> Dataset:
    train = _colour_images(root / "train" / GOOD)
    if with_validation:
        train += _colour_images(root / "validation" / GOOD)
    test = root / "test"
    if not test.is_dir():
        raise DataError(f"folder '{test}' does not exist; expected test/good/rgb and test/TYPE/rgb")
    samples = []
    for folder in sorted(path for path in test.iterdir() if path.is_dir()):
        for path in _colour_images(folder):
            if folder.name == GOOD:  # its gt is black
                samples.append(Sample(path, GOOD))
            else:
                mask = folder / "gt" / f"{path.stem}.png"
                samples.append(Sample(path, folder.name, _existing(mask, f"mask of '{path}'")))
    return _checked(
        Dataset(root, tuple(Sample(path, GOOD) for path in train), tuple(samples), has_parts=False)
    )


def _colour_images(folder: Path) -> list[Path]:
    if not (folder / "rgb").is_dir():
        raise DataError(
            f"folder '{folder / 'rgb'}' does not exist; expected the colour images of "
            "MVTec-3D there"
        )
    return list_images(folder / "rgb")


def _open_visa(root: Path, classes: Sequence[str] | None) -> list[Dataset]:
    path = root / _VISA_CSV
    expected = f"expected a CSV with the columns {','.join(_VISA_COLUMNS)}"
    if not path.is_file():
        raise DataError(
            f"'{path}' does not exist; {expected}, as it is published beside the images of VisA"
        )
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if not set(_VISA_COLUMNS) <= set(reader.fieldnames or ()):
                raise DataError(f"'{path}' has the columns {reader.fieldnames}; {expected}")
            rows = list(enumerate(reader, start=2))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read '{path}': {error}; {expected}") from error
    names = sorted({row["object"] or "" for _, row in rows})
    if not names:
        raise DataError(f"'{path}' lists no image; expected a line for each")
    chosen = _wanted(classes, names, path)
    sides: dict[str, dict[str, list[Sample]]] = {name: {"train": [], "test": []} for name in chosen}
    seen: dict[Path, int] = {}
    for number, row in rows:
        name = row["object"] or ""
        if name in sides:
            sample = _visa_sample(row, root, f"'{path}', line {number}")
            first = seen.setdefault(sample.path, number)
            if first != number:
                raise DataError(
                    f"'{path}', line {number}: image '{row['image']}' is listed in line {first} "
                    "too; expected each once, on one side"
                )
            sides[name][row["split"] or ""].append(sample)
    return [
        _checked(
            Dataset(
                root / name,
                tuple(sorted(found["train"], key=_order)),
                tuple(sorted(found["test"], key=_order)),
                has_parts=False,
            )
        )
        for name, found in sides.items()
    ]


def _visa_sample(row: dict[str, str | None], root: Path, where: str) -> Sample:
    split, label = row["split"], row["label"]
    if not row["object"] or not row["image"]:
        raise DataError(f"{where}: object or image is missing")
    if split not in ("train", "test"):
        raise DataError(f"{where}: split is '{split}'; expected train or test")
    if label not in _VISA_LABELS:
        raise DataError(f"{where}: label is '{label}'; expected normal or anomaly")
    if split == "train" and label != "normal":
        raise DataError(f"{where}: an anomaly is a training image; expected normal ones only")
    image = root / row["image"]
    if not image.is_relative_to(root / row["object"]) or ".." in Path(row["image"]).parts:
        raise DataError(f"{where}: image '{row['image']}' lies outside '{row['object']}'")
    _existing(image, f"image of {where}")
    if label == "normal":
        return Sample(image, GOOD)
    if not row["mask"]:
        raise DataError(f"{where}: the anomaly has no mask; expected a path in the column mask")
    mask = _existing(root / row["mask"], f"mask of {where}")
    return Sample(image, _VISA_LABELS[label], mask, mask_above=0)


def _existing(path: Path, what: str) -> Path:
    if not path.is_file():
        raise DataError(f"{what} is missing; expected the file '{path}'")
    return path


def _order(sample: Sample) -> tuple[str, str]:
    return sample.label, sample.path.as_posix()


def _checked(dataset: Dataset) -> Dataset:
    """Refuses a class that cannot be trained on or whose AUROC does not exist."""
    defective = sum(sample.is_defective for sample in dataset.test)
    good = len(dataset.test) - defective
    if not dataset.train or not good or not defective:
        raise DataError(
            f"class '{dataset.root.name}' has {len(dataset.train)} training images, {good} good "
            f"and {defective} defective test images; expected some of each"
        )
    return dataset
