"""Reads every image once: hash, size, exposure, sharpness, pattern; and every mask."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agp_edge.data_check.pattern import SIDE, pattern_of
from agp_edge.dependencies import require
from agp_edge.errors import DataError
from agp_edge.images import read_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from agp_edge.dataset import Sample

__all__ = ["Facts", "scan"]

# Sharpness is measured at about this size, so that it compares between sizes.
_LONGEST = 512
_THREADS = 2  # decoding releases the GIL; more are for servers
_AHEAD = 64  # images that wait at most: memory stays bounded


@dataclass(frozen=True)
class Facts:
    """What was measured of one image; None where it is unreadable."""

    sample: Sample
    error: str | None = None  # why the image is unreadable
    digest: str = ""  # SHA-256 of the file, hex
    height: int = 0  # pixels
    width: int = 0
    channels: int = 0  # 1 or 3
    brightness: float = 0.0  # mean grey level, 0 to 255
    clipped: float = 0.0  # share of pixels at 0 or 255
    sharpness: float = 0.0  # log2 of the Laplacian's deviation over that of the grey levels
    mask_error: str | None = None  # why the mask does not fit
    mask_share: float | None = None  # of the image, that is defective


def scan(
    samples: Sequence[Sample],
    *,
    progress: Callable[[Iterable[Sample]], Iterable[Sample]] = iter,
) -> tuple[list[Facts], NDArray[np.int8]]:
    """Reads all images; an unreadable one is noted and no error.

    Args:
        samples: the images, with their masks.
        progress: wraps the samples, such as a progress bar.

    Returns:
        Facts in the order of the samples, and patterns int8 (n, 64, 64), zero where unreadable.

    Raises:
        DependencyError: OpenCV is not installed.
    """
    require("cv2")
    facts: list[Facts] = []
    patterns = np.zeros((len(samples), SIDE, SIDE), np.int8)
    waiting = iter(progress(samples))
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(samples), _AHEAD):
            block = [sample for _, sample in zip(range(_AHEAD), waiting, strict=False)]
            for index, (fact, pattern) in enumerate(pool.map(_look, block)):
                facts.append(fact)
                if pattern is not None:
                    patterns[start + index] = pattern
    return facts, patterns


def _look(sample: Sample) -> tuple[Facts, NDArray[np.int8] | None]:
    try:
        image = read_image(sample.path)
        digest = hashlib.sha256(sample.path.read_bytes()).hexdigest()
    except (DataError, OSError) as error:
        return Facts(sample, error=str(error)), None
    cv2 = require("cv2")
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    scale = min(1.0, _LONGEST / max(grey.shape))
    small = grey
    if scale < 1.0:
        size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
        small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    fine = float(cv2.Laplacian(small, cv2.CV_32F).std())
    mask_error, mask_share = (None, None)
    if sample.mask_path is not None:
        mask_error, mask_share = _look_at_mask(sample.mask_path, image.shape)
    return (
        Facts(
            sample,
            digest=digest,
            height=image.shape[0],
            width=image.shape[1],
            channels=1 if image.ndim == 2 else 3,
            brightness=float(grey.mean()),
            clipped=float(((grey == 0) | (grey == 255)).mean()),
            # over the contrast: a dark photo is not a blurred one
            sharpness=float(np.log2((fine + 0.1) / (float(small.std()) + 0.1))),
            mask_error=mask_error,
            mask_share=mask_share,
        ),
        pattern_of(image),
    )


def _look_at_mask(path: Path, shape: tuple[int, ...]) -> tuple[str | None, float | None]:
    try:
        mask = read_image(path)
    except DataError as error:
        return str(error), None
    if mask.shape[:2] != shape[:2]:
        return (
            f"is {mask.shape[1]}x{mask.shape[0]} pixels, its image {shape[1]}x{shape[0]}",
            None,
        )
    if mask.ndim == 3:
        mask = mask.max(axis=2)
    if 0 < mask.max() <= 127:
        return f"holds no value above {mask.max()}; 255 marks the defect", None
    return None, float((mask > 127).mean())
