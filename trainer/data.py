"""Training images: reads image files, gives network inputs (B, 3, H, W); splits and hashes them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from agp_edge.dataset import part_of, split_by_part
from agp_edge.errors import DataError
from agp_edge.images import list_images, read_image
from agp_edge.trainer.augment import ChangedSample, changed_copies

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from agp_edge.dataset import Dataset, Sample
    from agp_edge.trainer.config import TrainConfig

__all__ = [
    "ImageReader",
    "TrainingData",
    "added_images",
    "changed_images",
    "check_unchanged",
    "epoch_order",
    "image_key",
    "read_frame",
    "training_data",
]

# Early stop takes parts of its own only where that leaves enough to learn from.
_LEAST_PARTS = 10


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Good images on three sides; no part is on two of them, except in few-shot training."""

    root: Path
    products: tuple[str, ...]  # names; (): one product
    train: tuple[Sample, ...]  # the loss sees these
    stop: tuple[Sample, ...]  # early stop sees these; (): the training ends with its schedule
    held_out: tuple[Sample, ...]  # the threshold sees these, and nothing in training does
    hashes: dict[Path, str]  # SHA-256 of each file, hex
    states: dict[Path, tuple[int, int]]  # of each file when it was hashed: bytes, mtime in ns
    digest: str  # "sha256:<hex>" over all files' names and bytes


def training_data(dataset: Dataset, config: TrainConfig, *, progress: bool = True) -> TrainingData:
    """Splits the good training images by part and takes the hash of each file.

    One-class and multi-class: each product's parts are split, `hold_out` of them for the threshold,
    `stop_share` of the others for early stop where there are at least ten. Files with the same
    bytes count as one part. Few-shot: all sides are changed copies of the same images.

    Args:
        dataset: `dataset.train` is used.
        config: setup, shares, copies and seed are used; `augment` must be decided.
        progress: whether to show a bar.

    Raises:
        DataError: there is no training image, a file is unreadable, a product shows one part only,
            or the setup does not fit the number of products.
    """
    if not dataset.train:
        raise DataError(
            f"data set '{dataset.root}' has no good images to train on; expected "
            f"'{dataset.root / 'train' / 'good'}'"
        )
    if (config.setup == "multi-class") != bool(dataset.products):
        raise DataError(
            f"setup '{config.setup}' does not fit {len(dataset.products) or 1} products; give "
            "several data sets with multi-class, and one with one-class or few-shot"
        )
    hashes: dict[Path, str] = {}
    states: dict[Path, tuple[int, int]] = {}
    whole = hashlib.sha256()
    for sample in tqdm(dataset.train, desc="hash", unit="image", disable=not progress, leave=False):
        hashes[sample.path], states[sample.path] = _file_hash(sample.path)
        name = sample.path.relative_to(dataset.root).as_posix()
        whole.update(f"{name}\0{hashes[sample.path]}\n".encode())
    train: tuple[Sample, ...] = ()
    stop: tuple[Sample, ...] = ()
    held_out: tuple[Sample, ...] = ()
    if config.setup == "few-shot":
        train = changed_copies(dataset.train, config.copies, config.augment, config.seed, "train")
        held_out = changed_copies(
            dataset.train, config.threshold_copies, config.augment, config.seed, "threshold"
        )
    else:
        samples = _twins_joined(dataset.train, hashes)
        for product in dataset.products or (None,):
            own = tuple(sample for sample in samples if sample.product == product)
            sides = _three_sides(own, config, product or str(dataset.root))
            train, stop, held_out = train + sides[0], stop + sides[1], held_out + sides[2]
        # the loop will not read these: a broken one should be known now, not after the training
        for sample in tqdm(held_out, desc="check", unit="image", disable=not progress, leave=False):
            read_image(sample.path)
    return TrainingData(
        root=dataset.root,
        products=dataset.products,
        train=train,
        stop=stop,
        held_out=held_out,
        hashes=hashes,
        states=states,
        digest=f"sha256:{whole.hexdigest()}",
    )


def epoch_order(samples: Sequence[Sample], seed: int, epoch: int) -> NDArray[np.intp]:
    """The order of an epoch: every image once, or every product equally often.

    Of several products each fills an equal share of the epoch's images: a product with few is
    repeated, one with many shows a part of them, another part in the next epoch.

    Returns:
        Indices (n,), n as many as there are samples, up to one less per product.
    """
    random = np.random.default_rng([seed, epoch])
    products = np.array([sample.product or "" for sample in samples])
    names = np.unique(products)
    if len(names) < 2:
        return random.permutation(len(samples))
    quota = max(len(samples) // len(names), 1)
    drawn = []
    for name in names:
        own = np.flatnonzero(products == name)
        rounds = [random.permutation(own) for _ in range(-(-quota // len(own)))]
        drawn.append(np.concatenate(rounds)[:quota])
    return random.permutation(np.concatenate(drawn))


def changed_images(data: TrainingData) -> list[Path]:
    """The files that are gone or were written to since they were hashed."""
    return [path for path, state in data.states.items() if _state(path) != state]


def check_unchanged(data: TrainingData, kept: str) -> None:
    """Refuses to go on with files that are not those that were hashed.

    Raises:
        DataError: names the first of them; says what is kept.
    """
    changed = changed_images(data)
    if changed:
        more = f", and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise DataError(
            f"image '{changed[0]}' was changed or removed while the training ran{more}; train on a "
            f"folder that nothing writes to; {kept}"
        )


def image_key(data: TrainingData, sample: Sample) -> str:
    """What tells one image from another: the hash of the file, and how it was changed."""
    change = f" {sample.change}" if isinstance(sample, ChangedSample) else ""
    return data.hashes[sample.path] + change


def added_images(data: TrainingData) -> list[Path]:
    """Image files beside the known ones that were not there when the training began."""
    folders = sorted({path.parent for path in data.states})
    return [
        path
        for folder in folders
        if folder.is_dir()
        for path in list_images(folder)
        if path not in data.states
    ]


def read_frame(sample: Path | Sample) -> NDArray[np.uint8]:
    """The pixels of an image, changed where the sample says so.

    Raises:
        DataError: the image is unreadable; names it.
    """
    if isinstance(sample, Path):
        return read_image(sample)
    frame = read_image(sample.path)
    return sample.change.apply(frame) if isinstance(sample, ChangedSample) else frame


class ImageReader:
    """Image files -> network inputs, through the C++ preprocessing that serves the line.

    Not for several threads at once.
    """

    def __init__(
        self,
        height: int,
        width: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        """Fixes the input: pixels of its sides; mean and std in 8-bit units, RGB."""
        from agp_edge import _core  # noqa: PLC0415  (the compiled part; its absence has its error)

        self.height, self.width = height, width
        self._preprocessor = _core.Preprocessor(height=height, width=width, mean=mean, std=std)

    def read(self, samples: Sequence[Path | Sample]) -> Tensor:
        """Images as float32 (B, 3, height, width).

        Raises:
            DataError: an image is unreadable; names it.
        """
        return self.tensor([read_frame(sample) for sample in samples])

    def tensor(self, frames: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Frames, uint8 (H, W) or (H, W, 3), as float32 (B, 3, height, width)."""
        batch = np.empty((len(frames), 3, self.height, self.width), np.float32)
        for index, frame in enumerate(frames):
            self._preprocessor.run(frame, out=batch[index])
        return torch.from_numpy(batch)

    def batches(
        self, samples: Sequence[Path | Sample], size: int, *, desc: str, progress: bool = True
    ) -> Iterator[tuple[slice, Tensor]]:
        """All images in order: which of them, and float32 (<= size, 3, height, width)."""
        with tqdm(total=len(samples), desc=desc, unit="image", disable=not progress) as bar:
            for start in range(0, len(samples), size):
                part = slice(start, min(start + size, len(samples)))
                yield part, self.read(samples[part])
                bar.update(part.stop - part.start)


def _three_sides(
    samples: tuple[Sample, ...], config: TrainConfig, name: str
) -> tuple[tuple[Sample, ...], tuple[Sample, ...], tuple[Sample, ...]]:
    parts = {part_of(sample) for sample in samples}
    if len(parts) < 2:
        raise DataError(
            f"cannot hold parts of '{name}' out: its {len(samples)} images show {len(parts)} part; "
            "give images of at least two parts that are not copies of one file, or train with "
            "--setup few-shot"
        )
    rest, held_out = split_by_part(samples, config.hold_out, config.seed)
    if config.stop_share == 0.0 or len({part_of(sample) for sample in rest}) < _LEAST_PARTS:
        return rest, (), held_out
    train, stop = split_by_part(rest, config.stop_share, config.seed)
    return train, stop, held_out


def _twins_joined(samples: Sequence[Sample], hashes: dict[Path, str]) -> tuple[Sample, ...]:
    """Samples whose files have the same bytes get one part: no split may tear them apart."""
    first: dict[str, Sample] = {}
    renamed: dict[str, str] = {}  # a part -> the part that it is the same as
    for sample in samples:
        known = first.setdefault(hashes[sample.path], sample)
        if known is not sample:
            renamed[_root(renamed, part_of(sample))] = _root(renamed, part_of(known))
    if not renamed:
        return tuple(samples)
    twins = set(renamed) | set(renamed.values())
    return tuple(
        replace(sample, part=_root(renamed, part_of(sample)))
        if part_of(sample) in twins
        else sample
        for sample in samples
    )


def _root(renamed: dict[str, str], part: str) -> str:
    while renamed.get(part, part) != part:
        part = renamed[part]
    return part


def _file_hash(path: Path) -> tuple[str, tuple[int, int]]:
    try:
        state = _state(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"cannot read image '{path}': {error.strerror or error}") from error
    if state is None:
        raise DataError(f"cannot read image '{path}': it is gone")
    return digest, state


def _state(path: Path) -> tuple[int, int] | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns
