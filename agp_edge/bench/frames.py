"""Frames that a benchmark scores: a folder of real ones, or seeded synthetic ones of one size."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from agp_edge.bench.formats import FORMATS, in_format
from agp_edge.errors import DataError, Error
from agp_edge.images import list_images, read_image
from agp_edge.self_test import synthetic_frame

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

__all__ = ["Frames", "read_frames", "synthetic_frames"]

# A camera's frames come from memory: one frame scored again and again would come from the cache.
RING_BYTES = 96 << 20
MOST_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Frames:
    """Decoded frames in memory, and what can be said about them."""

    arrays: tuple[NDArray[Any], ...]
    """uint8 (H, W, 3) BGR or (H, W), or as `format` says."""

    source: str
    """"folder" or "synthetic"."""

    seed: int | None
    """Of synthetic ones."""

    format: str | None = None
    """As for `Detector.score`; None: BGR and mono, by the shape."""

    left_out: int = 0
    """Images of the folder that did not fit into `MOST_BYTES`."""

    def to_dict(self) -> dict[str, Any]:
        """Source, number, sizes, formats and a hash of all pixels; no path."""
        sizes: dict[str, int] = {}
        digest = hashlib.sha256()
        for array in self.arrays:
            format = self.format or ("bgr8" if array.ndim == 3 else "mono8")
            height = array.shape[0] * 2 // 3 if format == "nv12" else array.shape[0]
            kind = f"{array.shape[1]}x{height} {format}"
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


def read_frames(folder: str | os.PathLike[str], *, format: str | None = None) -> Frames:
    """Decodes the images that lie directly in `folder`, up to 1 GiB of pixels.

    Args:
        folder: of image files.
        format: one of `FORMATS`: the pictures as a camera of that format would send them; None: as
            they are stored, BGR or grey.

    Raises:
        DataError: no image there, or one that cannot be read; the first alone is too large.
        DependencyError: OpenCV is not installed.
        Error: an unknown format.
    """
    _check_format(format)
    paths = list_images(folder)
    arrays: list[NDArray[Any]] = []
    size = 0
    for path in paths:
        frame: NDArray[Any] = read_image(path)
        if format is not None:
            frame = in_format(frame, format)
        if size + frame.nbytes > MOST_BYTES:
            break
        size += frame.nbytes
        arrays.append(frame)
    if not arrays:
        raise DataError(f"image '{paths[0]}' has more than {MOST_BYTES} bytes of pixels")
    return Frames(
        arrays=tuple(arrays),
        source="folder",
        seed=None,
        format=format,
        left_out=len(paths) - len(arrays),
    )


def synthetic_frames(width: int, height: int, *, format: str = "bgr8", seed: int = 0) -> Frames:
    """Structured noise as in the self-test, the same bytes on every machine; no photographs.

    There are as many different frames as a last-level cache does not hold (96 MB, at most 16).

    Args:
        width: pixels.
        height: pixels.
        format: one of `FORMATS`.
        seed: of the first frame; the others follow.

    Raises:
        Error: a side of less than 1 (of less than 2 but for colour and mono), or another format.
    """
    _check_format(format)
    least = 2 if format.startswith(("bayer", "nv12")) else 1
    if min(width, height) < least:
        raise Error(f"the frame's size is {width}x{height}: expected {least}x{least} or more")
    # One is generated, which takes a second at full HD, and the others are it shifted cyclically:
    # different pixels in different memory, the same statistics.
    picture = synthetic_frame(seed, height, width)
    first = in_format(picture, format)
    count = min(16, max(2, -(-RING_BYTES // first.nbytes)))
    step = max(1, height // count)
    shifted = (np.roll(picture, number * step, axis=0) for number in range(1, count))
    return Frames(
        arrays=(first, *(in_format(each, format) for each in shifted)),
        source="synthetic",
        seed=seed,
        format=format,
    )


def _check_format(format: str | None) -> None:
    if format is not None and format not in FORMATS:
        raise Error(f"unknown format '{format}' of frames: expected one of {', '.join(FORMATS)}")
