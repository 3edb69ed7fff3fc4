"""Image files: found, read as the camera's pixels, and refused when they are not whole."""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agp_edge.errors import DataError, DependencyError

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

__all__ = ["IMAGE_SUFFIXES", "list_images", "read_image", "read_raw_frame"]

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_END = 0xD9
_JPEG_SCAN = 0xDA
# In entropy-coded data a marker is 0xff and a byte that is neither 0 (stuffing), a restart
# (d0-d7) nor a fill byte (ff); ITU-T T.81, B.1.1.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """The image files that lie directly in `folder`, sorted by name; hidden files are left out.

    Raises:
        DataError: the folder is missing, is a file, or holds no image file.
    """
    root = Path(folder)
    if not root.exists():
        raise DataError(f"folder '{root}' does not exist; give a folder of images")
    if not root.is_dir():
        raise DataError(f"'{root}' is a file; give a folder of images")
    found = sorted(
        path
        for path in root.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not path.name.startswith(".")
        and path.is_file()
    )
    if not found:
        suffixes = " ".join(IMAGE_SUFFIXES)
        raise DataError(f"folder '{root}' holds no image; expected files ending in {suffixes}")
    return found


def read_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """The pixels as stored: uint8 (height, width, 3) BGR, or (height, width) if stored grey.

    An alpha channel that is opaque everywhere is dropped. An orientation tag is ignored: a camera
    frame has none, and masks are drawn on the pixels as stored.

    Raises:
        DataError: the file is missing, unreadable, truncated, not an image, not of 8 bits a
            channel, or partly transparent.
        DependencyError: OpenCV is not installed.
    """
    return _as_frame(_decoded(path), path)


def read_raw_frame(path: str | os.PathLike[str]) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """A camera's raw frame that was saved as a grey image: uint8 or uint16 (height, width).

    Raises:
        DataError: as `read_image`, or a colour image: its pixels are not raw any more.
        DependencyError: OpenCV is not installed.
    """
    pixels = _decoded(path)
    if pixels.ndim != 2:
        raise DataError(
            f"image '{path}' has shape {pixels.shape}; a raw frame is saved as one channel, "
            "(height, width): leave the format away for a colour image"
        )
    if pixels.dtype == np.uint16:
        return pixels.astype(np.uint16, copy=False)
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint8, copy=False)
    raise DataError(f"image '{path}' holds {pixels.dtype} values; expected 8 or 16 bits a pixel")


def _decoded(path: str | os.PathLike[str]) -> NDArray[np.generic]:
    try:
        import cv2  # noqa: PLC0415  (heavy; `import agp_edge` must not load it)
    except ImportError as error:
        raise DependencyError(
            "reading image files needs OpenCV: pip install 'agp-edge[images]'"
        ) from error

    try:
        data = Path(path).read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"cannot read image '{path}': {reason}") from error
    if not data:
        raise DataError(f"image '{path}' is empty (0 bytes); remove it or copy it again")
    if not _is_whole(data):
        raise DataError(
            f"image '{path}' is truncated or corrupt: its {len(data)} bytes end before the "
            "picture does; remove it or copy it again"
        )
    try:
        # imdecode, not imread: imread cannot open every path that Python can
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise DataError(f"image '{path}' cannot be decoded: {error.err}") from error
    if image is None:
        raise DataError(f"image '{path}' cannot be decoded: not an image, truncated or corrupt")
    return np.asarray(image)


def _as_frame(image: NDArray[np.generic], path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    if image.dtype != np.uint8:
        raise DataError(
            f"image '{path}' holds {image.dtype} values; expected 8 bits a channel: convert it "
            "with the scaling that your camera's output will have"
        )
    pixels = image.astype(np.uint8, copy=False)
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        if pixels[:, :, 3].min() != 255:
            raise DataError(
                f"image '{path}' is partly transparent; expected grey or colour pixels without "
                "an alpha channel"
            )
        pixels = np.ascontiguousarray(pixels[:, :, :3])
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise DataError(
            f"image '{path}' has shape {pixels.shape}; expected (height, width) or "
            "(height, width, 3)"
        )
    return pixels


def _is_whole(data: bytes) -> bool:
    """False when a JPEG or PNG ends early or a PNG's checksum is wrong.

    Decoders fill the rest of a truncated file with grey or with the last row and call it read
    (libjpeg does; OpenCV up to 4.x passes it on), which would train on half pictures. Other
    formats are left to the decoder: it refuses them when they are cut.
    """
    if data.startswith(b"\xff\xd8"):
        return _jpeg_is_whole(data)
    if data.startswith(_PNG_SIGNATURE):
        return _png_is_whole(data)
    return True


def _jpeg_is_whole(data: bytes) -> bool:
    """Walks the segments to the end marker; a thumbnail's end marker inside one does not count."""
    position = 2
    while True:
        marker = _JPEG_MARKER.search(data, position)
        if marker is None:
            return False
        kind = data[marker.start() + 1]
        if kind == _JPEG_END:
            return True
        length = int.from_bytes(data[marker.end() : marker.end() + 2], "big")
        if length < 2:
            return False
        position = marker.end() + length
        if kind != _JPEG_SCAN and data[position : position + 1] != b"\xff":
            return False


def _png_is_whole(data: bytes) -> bool:
    """Walks the chunks to IEND and compares each checksum."""
    position = len(_PNG_SIGNATURE)
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        end = position + 8 + length
        if end + 4 > len(data):
            return False
        if zlib.crc32(data[position + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return False
        if data[position + 4 : position + 8] == b"IEND":
            return True
        position = end + 4
    return False
