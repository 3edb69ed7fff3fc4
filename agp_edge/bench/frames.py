"""Frames that a benchmark scores: a folder of real ones, or seeded synthetic ones of one size."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from agp_edge.errors import DataError, Error
from agp_edge.images import list_images, read_image
from agp_edge.self_test import synthetic_frame

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Frames", "read_frames", "synthetic_frames"]

# A camera's frames come from memory: one frame scored again and again would come from the cache.
RING_BYTES = 96 << 20
MOST_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Frames:
    """Decoded frames in memory, and what can be said about them."""

    arrays: tuple[NDArray[np.uint8], ...]
    """uint8 (H, W, 3) BGR or (H, W)."""

    source: str
    """"folder" or "synthetic"."""

    seed: int | None
    """Of synthetic ones."""

    left_out: int = 0
    """Images of the folder that did not fit into `MOST_BYTES`."""

    def to_dict(self) -> dict[str, Any]:
        """Source, number, sizes, formats and a hash of all pixels; no path."""
        sizes: dict[str, int] = {}
        digest = hashlib.sha256()
        for array in self.arrays:
            kind = f"{array.shape[1]}x{array.shape[0]} {'bgr8' if array.ndim == 3 else 'mono8'}"
            sizes[kind] = sizes.get(kind, 0) + 1
            digest.update(repr(array.shape).encode())
            digest.update(array.data)
        return {
            "source": self.source,
            "seed": self.seed,
            "count": len(self.arrays),
            "left_out": self.left_out,
            "sizes": sizes,
            "sha256": digest.hexdigest(),
        }


def read_frames(folder: str | os.PathLike[str]) -> Frames:
    """Decodes the images that lie directly in `folder`, up to 1 GiB of pixels.

    Raises:
        DataError: no image there, or one that cannot be read; the first alone is too large.
        DependencyError: OpenCV is not installed.
    """
    paths = list_images(folder)
    arrays: list[NDArray[np.uint8]] = []
    size = 0
    for path in paths:
        frame = read_image(path)
        if size + frame.nbytes > MOST_BYTES:
            break
        size += frame.nbytes
        arrays.append(frame)
    if not arrays:
        raise DataError(f"image '{paths[0]}' has more than {MOST_BYTES} bytes of pixels")
    return Frames(
        arrays=tuple(arrays), source="folder", seed=None, left_out=len(paths) - len(arrays)
    )


def synthetic_frames(width: int, height: int, *, format: str = "bgr8", seed: int = 0) -> Frames:
    """Structured noise as in the self-test, the same bytes on every machine; no photographs.

    There are as many different frames as a last-level cache does not hold (96 MB, at most 16).

    Args:
        width: pixels.
        height: pixels.
        format: "bgr8" or "mono8".
        seed: of the first frame; the others follow.

    Raises:
        Error: a side of less than 1, or another format.
    """
    if min(width, height) < 1:
        raise Error(f"the frame's size is {width}x{height}: expected 1x1 or more")
    if format not in ("bgr8", "mono8"):
        raise Error(f"unknown format '{format}' of synthetic frames: expected bgr8 or mono8")
    channels = 3 if format == "bgr8" else 1
    count = min(16, max(2, -(-RING_BYTES // (width * height * channels))))
    # One is generated, which takes a second at full HD, and the others are it shifted cyclically:
    # different pixels in different memory, the same statistics.
    first = synthetic_frame(seed, height, width)
    if channels == 1:
        first = first[:, :, 0].copy()
    return Frames(arrays=tuple(_shifted(first, count)), source="synthetic", seed=seed)


def _shifted(frame: NDArray[np.uint8], count: int) -> Sequence[NDArray[np.uint8]]:
    step = max(1, frame.shape[0] // count)
    return [np.roll(frame, number * step, axis=0) for number in range(count)]
