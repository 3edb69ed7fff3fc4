"""Frames in a camera's format, made of BGR or grey ones, and the way back that OpenCV has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from agp_edge.dependencies import require

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["FORMATS", "bgr_decoder", "in_format"]

MONO_BITS = {"mono8": 8, "mono10": 10, "mono12": 12, "mono16": 16}
# OpenCV names a pattern by the second row's second and third pixel.
BAYER_CODES = {
    "rggb": "COLOR_BayerBG2BGR",
    "grbg": "COLOR_BayerGB2BGR",
    "gbrg": "COLOR_BayerGR2BGR",
    "bggr": "COLOR_BayerRG2BGR",
}
FORMATS = (
    "bgr8", "rgb8", *MONO_BITS,
    *(f"bayer_{pattern}{bits}" for bits in (8, 12) for pattern in BAYER_CODES),
    "nv12",
)  # fmt: skip


def in_format(frame: NDArray[np.uint8], format: str) -> NDArray[Any]:
    """The picture as a camera of that format sends it; integers only, the same on every machine.

    Args:
        frame: uint8 (H, W, 3) BGR or (H, W) grey.
        format: one of `FORMATS`; see docs/frames.md.

    Returns:
        uint8 or uint16 as the format says. "nv12" drops an odd last row and column.
    """
    bgr: NDArray[np.uint8] = frame if frame.ndim == 3 else np.repeat(frame[:, :, None], 3, axis=2)
    if format == "bgr8":
        return np.ascontiguousarray(bgr)
    if format == "rgb8":
        return np.ascontiguousarray(bgr[:, :, ::-1])
    if format == "nv12":
        return _nv12(bgr)
    if format in MONO_BITS:
        grey = frame if frame.ndim == 2 else _weighted(bgr, (29, 150, 77), 128)
        return _with_bits(grey, MONO_BITS[format])
    pattern, bits = format[len("bayer_") :][:4], int(format[len("bayer_rggb") :])
    mosaic = np.empty(bgr.shape[:2], np.uint8)
    for place, letter in enumerate(pattern):
        rows, columns = slice(place // 2, None, 2), slice(place % 2, None, 2)
        mosaic[rows, columns] = bgr[rows, columns, "bgr".index(letter)]
    return _with_bits(mosaic, bits)


def bgr_decoder(format: str) -> Callable[[NDArray[Any]], NDArray[np.uint8]]:
    """What one writes in front of code that takes 8-bit BGR or grey: OpenCV's conversion.

    Args:
        format: one of `FORMATS`.

    Raises:
        DependencyError: OpenCV is not installed.
    """
    if format in ("bgr8", "mono8"):
        return lambda frame: frame
    cv2 = require("cv2", extra="images")
    if format in MONO_BITS:
        lost = MONO_BITS[format] - 8
        return lambda frame: np.asarray((frame >> lost).astype(np.uint8))
    if format == "rgb8":
        code = cv2.COLOR_RGB2BGR
    elif format == "nv12":
        code = cv2.COLOR_YUV2BGR_NV12
    else:
        code = getattr(cv2, BAYER_CODES[format[len("bayer_") :][:4]])
    if format.endswith("12") and format != "nv12":
        return lambda frame: np.asarray(cv2.cvtColor((frame >> 4).astype(np.uint8), code))
    return lambda frame: np.asarray(cv2.cvtColor(frame, code))


def _with_bits(values: NDArray[np.uint8], bits: int) -> NDArray[Any]:
    """0 to 255 -> 0 to 2^bits - 1 in the low bits."""
    if bits == 8:
        return np.ascontiguousarray(values)
    return np.asarray(values.astype(np.uint32) * (2**bits - 1) // 255, np.uint16)


def _weighted(
    bgr: NDArray[Any], weights: tuple[int, int, int], rounding: int, offset: int = 0
) -> NDArray[np.uint8]:
    """Weighted sum of the channels in 256ths."""
    total = sum(weight * bgr[:, :, c].astype(np.int32) for c, weight in enumerate(weights))
    return ((np.asarray(total) + rounding) // 256 + offset).astype(np.uint8)


def _nv12(bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """BT.601, limited range, in 8-bit fixed point; a block's colour is its first pixel's."""
    height, width = bgr.shape[0] // 2 * 2, bgr.shape[1] // 2 * 2
    bgr = bgr[:height, :width]
    frame = np.empty((height * 3 // 2, width), np.uint8)
    frame[:height] = _weighted(bgr, (25, 129, 66), 128, 16)
    corner = bgr[::2, ::2]
    frame[height:, ::2] = _weighted(corner, (112, -74, -38), 128, 128)
    frame[height:, 1::2] = _weighted(corner, (-18, -94, 112), 128, 128)
    return frame
