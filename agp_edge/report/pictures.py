"""Pictures for a page that is one file: shrunk, compressed, as data URIs."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import numpy as np

from agp_edge.dependencies import require
from agp_edge.errors import Error

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["data_uri"]


def data_uri(image: NDArray[np.uint8], *, longest: int = 320, quality: int = 82) -> str:
    """A picture as the value of an <img>'s src.

    Args:
        image: uint8 (H, W, 3) BGR or (H, W) grey.
        longest: pixels of the longer side at most; larger pictures are shrunk to it.
        quality: of the JPEG, 1 to 100; at 82 a 320 x 320 frame takes about 15 kB.

    Raises:
        DependencyError: OpenCV is not installed.
        Error: OpenCV cannot encode the picture.
    """
    cv2 = require("cv2")
    height, width = image.shape[:2]
    scale = min(1.0, longest / max(height, width))
    if scale < 1.0:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    done, encoded = cv2.imencode(".jpg", np.ascontiguousarray(image), options)
    if not done:
        raise Error(f"a picture of {width}x{height} pixels cannot be encoded as JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")
