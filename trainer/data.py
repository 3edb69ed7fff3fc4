"""Training images: reads image files, gives network inputs (B, 3, H, W); splits and hashes them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from agp_edge.dataset import split_by_part
from agp_edge.errors import DataError
from agp_edge.images import read_image

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from agp_edge.dataset import Dataset, Sample

__all__ = ["ImageReader", "TrainingData", "training_data"]


@dataclass(frozen=True)
class TrainingData:
    """Good images on two sides that share no part."""

    root: Path
    train: tuple[Sample, ...]  # the loss sees these
    held_out: tuple[Sample, ...]  # early stop and threshold see these
    has_parts: bool
    hashes: dict[Path, str]  # SHA-256 of each file, hex
    digest: str  # "sha256:<hex>" over all files' names and bytes


def training_data(
    dataset: Dataset, hold_out: float, seed: int, *, progress: bool = True
) -> TrainingData:
    """Splits the good training images by part and takes the hash of each file.

    Args:
        dataset: `dataset.train` is used.
        hold_out: share of the parts on the second side, in (0, 1).
        seed: of the split.
        progress: whether to show a bar.

    Raises:
        DataError: there is no training image, an image is unreadable, or all show one part.
    """
    if not dataset.train:
        raise DataError(
            f"data set '{dataset.root}' has no good images to train on; expected "
            f"'{dataset.root / 'train' / 'good'}'"
        )
    train, held_out = split_by_part(dataset.train, hold_out, seed)
    hashes = {}
    whole = hashlib.sha256()
    for sample in tqdm(dataset.train, desc="hash", unit="image", disable=not progress, leave=False):
        hashes[sample.path] = _file_hash(sample.path)
        name = sample.path.relative_to(dataset.root).as_posix()
        whole.update(f"{name}\0{hashes[sample.path]}\n".encode())
    return TrainingData(
        dataset.root, train, held_out, dataset.has_parts, hashes, f"sha256:{whole.hexdigest()}"
    )


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

    def read(self, paths: Sequence[Path]) -> Tensor:
        """Images as float32 (B, 3, height, width).

        Raises:
            DataError: an image is unreadable; names it.
        """
        batch = np.empty((len(paths), 3, self.height, self.width), np.float32)
        for index, path in enumerate(paths):
            self._preprocessor.run(read_image(path), out=batch[index])
        return torch.from_numpy(batch)

    def batches(
        self, paths: Sequence[Path], size: int, *, desc: str, progress: bool = True
    ) -> Iterator[tuple[slice, Tensor]]:
        """All images in order: which of them, and float32 (<= size, 3, height, width)."""
        with tqdm(total=len(paths), desc=desc, unit="image", disable=not progress) as bar:
            for start in range(0, len(paths), size):
                part = slice(start, min(start + size, len(paths)))
                yield part, self.read(paths[part])
                bar.update(part.stop - part.start)


def _file_hash(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"cannot read image '{path}': {error.strerror or error}") from error
