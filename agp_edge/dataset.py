"""A data set on disk: which images are good, which are defective, and which show the same part.

Two layouts are understood. A plain folder holds good images. The layout of MVTec-AD is

    train/good/*                            good images
    test/good/*, test/<defect type>/*       images to be judged
    ground_truth/<defect type>/<stem>_mask.png or <stem>.png
    parts.csv                               optional; columns file,part; paths from the root

`parts.csv` says which photos show the same physical part. Photos of one part must stay on one side
of every split: a detector that remembers a part looks brilliant on another photo of it.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agp_edge.errors import DataError
from agp_edge.images import list_images, read_image

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

__all__ = [
    "GOOD",
    "Dataset",
    "Sample",
    "join_products",
    "open_dataset",
    "open_products",
    "part_folds",
    "part_of",
    "read_mask",
    "samples_with_parts",
    "split_by_part",
]

GOOD = "good"


@dataclass(frozen=True)
class Sample:
    """One image of a data set."""

    path: Path
    label: str  # "good", or the name of the defect type
    mask_path: Path | None = None  # where the defect is; None: good, or not annotated
    part: str | None = None  # the physical part it shows; None: the data set has no parts.csv
    product: str | None = None  # None: the data set is of one product
    mask_above: int = 127  # a pixel of the mask with a larger value is defective

    @property
    def is_defective(self) -> bool:
        """Whether the label is a defect type."""
        return self.label != GOOD


@dataclass(frozen=True)
class Dataset:
    """The samples of a folder, each tuple sorted by path."""

    root: Path
    train: tuple[Sample, ...]  # good images
    test: tuple[Sample, ...]  # empty for a plain folder of good images
    has_parts: bool
    products: tuple[str, ...] = ()  # names of several products; (): one


def open_dataset(folder: str | os.PathLike[str]) -> Dataset:
    """Finds the images of a data set; reads none of them.

    Raises:
        DataError: the folder is missing or empty, a folder of the layout is, a defective image
            lacks the mask that its neighbours have, or parts.csv is unreadable or incomplete.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(
            f"data set '{root}' {'is a file' if root.exists() else 'does not exist'}; give a "
            "folder of good images or one in the MVTec-AD layout (train/good, test/*)"
        )
    if (root / "train").is_dir() or (root / "test").is_dir():
        train = _train_samples(root)
        test = _test_samples(root)
    else:
        train = [Sample(path, GOOD) for path in list_images(root)]
        test = []
    parts = _read_parts(root)
    return Dataset(
        root,
        tuple(_with_part(sample, parts, root) for sample in train),
        tuple(_with_part(sample, parts, root) for sample in test),
        parts is not None,
    )


def open_products(folders: Sequence[str | os.PathLike[str]]) -> Dataset:
    """The images of several products as one data set; each sample names its product.

    Args:
        folders: a data set per product, each as `open_dataset` takes it, its name the product's;
            or one folder that holds nothing but such data sets in the MVTec-AD layout.

    Returns:
        Its root is the folder that all have in common. Parts are told apart by product.

    Raises:
        DataError: a data set is unusable, there are fewer than two, or two have one name.
    """
    roots = [Path(folder).absolute() for folder in folders]
    if len(roots) == 1 and roots[0].is_dir() and not (roots[0] / "train").is_dir():
        roots = sorted(path.parent for path in roots[0].glob("[!.]*/train") if path.is_dir())
    names = [root.name for root in roots]
    if len(roots) < 2:
        raise DataError(
            f"several products are expected, '{folders[0]}' is one; give a data set per product, "
            "or a folder that holds their data sets (PRODUCT/train/good)"
        )
    for name in names:
        if names.count(name) > 1:
            raise DataError(
                f"two of the data sets are called '{name}'; the folder's name is the product's: "
                "rename one"
            )
    return join_products([open_dataset(root) for root in roots])


def join_products(datasets: Sequence[Dataset]) -> Dataset:
    """Several products' data sets as one; the name of each one's root becomes its product's.

    Raises:
        DataError: they lie on different drives.
    """
    try:
        common = Path(os.path.commonpath([dataset.root.parent for dataset in datasets]))
    except ValueError as error:
        raise DataError(f"the data sets lie on different drives ({error}); move them") from error
    return Dataset(
        common,
        tuple(_of_product(s, d.root.name) for d in datasets for s in d.train),
        tuple(_of_product(s, d.root.name) for d in datasets for s in d.test),
        any(dataset.has_parts for dataset in datasets),
        tuple(dataset.root.name for dataset in datasets),
    )


def samples_with_parts(samples: Iterable[Sample], root: Path) -> list[Sample]:
    """The samples with the parts that `root`/parts.csv names; as they are where there is none.

    Args:
        samples: their paths start with `root`.
        root: the folder of parts.csv.

    Raises:
        DataError: parts.csv is unreadable, or does not list one of them.
    """
    parts = _read_parts(root)
    return [_with_part(sample, parts, root) for sample in samples]


def read_mask(
    sample: Sample, shape: tuple[int, int], *, image_shape: tuple[int, ...] | None = None
) -> NDArray[np.bool_]:
    """Where the defect is, as bool of `shape` (height, width); nothing is set for a good image.

    The mask is resized to nearest neighbours first and then compared with the sample's
    `mask_above`, half of 255 where nothing else is known: thresholding at > 0 after interpolation
    widens every defect and flatters pixel metrics. A mask may be empty, as three of the magnetic
    tiles' are: the image then counts as defective, and its pixels as defect-free.

    Args:
        sample: its mask is read.
        shape: height and width wanted.
        image_shape: of the image, (height, width, ...); the mask must have it. None: not compared.

    Raises:
        DataError: the mask is unreadable, holds small values only (0 and 1), or has another size
            than the image.
    """
    if sample.mask_path is None:
        return np.zeros(shape, np.bool_)
    mask = read_image(sample.mask_path)
    if image_shape is not None and mask.shape[:2] != image_shape[:2]:
        raise DataError(
            f"mask '{sample.mask_path}' is {mask.shape[1]}x{mask.shape[0]} pixels, its image "
            f"'{sample.path}' {image_shape[1]}x{image_shape[0]}; expected the same size: draw the "
            "mask on the image as stored"
        )
    if mask.ndim == 3:
        mask = mask.max(axis=2)
    if 0 < mask.max() <= sample.mask_above:
        raise DataError(
            f"mask '{sample.mask_path}' holds no value above {mask.max()}; expected 255 where the "
            "defect is and 0 elsewhere"
        )
    # centre of each wanted pixel, in pixels of the mask
    rows = ((np.arange(shape[0]) + 0.5) * mask.shape[0] / shape[0]).astype(np.intp)
    columns = ((np.arange(shape[1]) + 0.5) * mask.shape[1] / shape[1]).astype(np.intp)
    resized: NDArray[np.uint8] = mask[rows[:, None], columns[None, :]]
    return resized > sample.mask_above


def split_by_part(
    samples: Sequence[Sample], share: float, seed: int
) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Holds a share of the parts out; all photos of one part stay on one side.

    Where a sample names no part, it is a part of its own. At least one part lands on each side.

    Args:
        samples: what to split; the order is kept on both sides.
        share: of the parts, in (0, 1).
        seed: the same seed and the same parts give the same split.

    Returns:
        The samples kept and those held out.

    Raises:
        DataError: there are fewer than two parts.
        ValueError: `share` is not in (0, 1).
    """
    if not 0.0 < share < 1.0:
        raise ValueError(f"share must lie in (0, 1), got {share}")
    parts = sorted({part_of(sample) for sample in samples})
    if len(parts) < 2:
        raise DataError(
            f"cannot hold parts out: {len(samples)} images show {len(parts)} part; give images of "
            "at least two parts"
        )
    count = min(max(round(share * len(parts)), 1), len(parts) - 1)
    chosen = np.random.default_rng(seed).permutation(len(parts))[:count]
    held = {parts[index] for index in chosen}
    return (
        tuple(sample for sample in samples if part_of(sample) not in held),
        tuple(sample for sample in samples if part_of(sample) in held),
    )


def part_folds(parts: Sequence[str], count: int, seed: int) -> NDArray[np.intp]:
    """The fold of each photo, (n,), 0 to `count` - 1; all photos of one part are in one fold.

    Args:
        parts: which part each photo shows.
        count: of folds; with fewer parts there are as many as parts.
        seed: the same seed and the same parts give the same folds.
    """
    names = sorted(set(parts))
    place = np.random.default_rng(seed).permutation(len(names)) % min(count, max(len(names), 1))
    fold_of = dict(zip(names, place.tolist(), strict=True))
    return np.array([fold_of[part] for part in parts], np.intp)


def part_of(sample: Sample) -> str:
    """The name of the part that a sample shows; its own path where no part is known."""
    return sample.part if sample.part is not None else sample.path.as_posix()


def _of_product(sample: Sample, product: str) -> Sample:
    part = None if sample.part is None else f"{product}/{sample.part}"
    return replace(sample, product=product, part=part)


def _train_samples(root: Path) -> list[Sample]:
    if not (root / "train").is_dir():
        return []  # only to be judged; training says so by itself
    return [Sample(path, GOOD) for path in list_images(root / "train" / GOOD)]


def _test_samples(root: Path) -> list[Sample]:
    test = root / "test"
    if not test.is_dir():
        return []
    folders = sorted(
        path for path in test.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
    if not folders:
        raise DataError(f"folder '{test}' is empty; expected folders good and one per defect type")
    samples = []
    for folder in folders:
        masks = root / "ground_truth" / folder.name
        for path in list_images(folder):
            mask = None
            if folder.name != GOOD and masks.is_dir():
                mask = _mask_of(path, masks)
            samples.append(Sample(path, folder.name, mask))
    return samples


def _mask_of(image: Path, masks: Path) -> Path:
    for name in (f"{image.stem}_mask.png", f"{image.stem}.png"):
        if (masks / name).is_file():
            return masks / name
    raise DataError(
        f"image '{image}' has no mask; expected '{masks / (image.stem + '_mask.png')}' or "
        f"'{image.stem}.png' beside it, since '{masks}' exists"
    )


def _read_parts(root: Path) -> dict[str, str] | None:
    path = root / "parts.csv"
    if not path.exists():
        return None
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames is None or not {"file", "part"} <= set(reader.fieldnames):
                raise DataError(
                    f"'{path}' has the columns {reader.fieldnames}; expected a first line file,part"
                )
            return _parts_from_rows(reader, path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read '{path}': {error}; expected a CSV file,part") from error


def _parts_from_rows(rows: Iterable[dict[str, str | None]], path: Path) -> dict[str, str]:
    parts: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        file, part = row["file"], row["part"]
        if not file or not part:
            raise DataError(f"'{path}', line {number}: file or part is missing")
        if parts.setdefault(file, part) != part:
            raise DataError(f"'{path}', line {number}: '{file}' is listed with two parts")
    return parts


def _with_part(sample: Sample, parts: dict[str, str] | None, root: Path) -> Sample:
    if parts is None:
        return sample
    name = sample.path.relative_to(root).as_posix()
    if name not in parts:
        raise DataError(
            f"'{root / 'parts.csv'}' does not list '{name}'; add a line for it, since an unlisted "
            "photo may show a part of the other side"
        )
    return replace(sample, part=parts[name])
