"""The page about suspects among the good images. Reads the images, writes one HTML file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agp_edge.dependencies import require
from agp_edge.images import read_image
from agp_edge.report.pictures import data_uri
from agp_edge.report.render import write_page

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["SuspectCard", "write_suspects_page"]


@dataclass(frozen=True)
class SuspectCard:
    """One suspect."""

    name: str
    path: Path
    deviations: float  # of its log score from the median
    heat: NDArray[np.float32]  # (grid height, grid width), 0: usual, 1: largest of good images


def write_suspects_page(
    path: str | os.PathLike[str],
    cards: Sequence[SuspectCard],
    *,
    found: int,
    images: int,
    mode: str,
) -> None:
    """Writes the page, aside and renamed.

    Args:
        path: the HTML file.
        cards: suspects that are shown, the worst first.
        found: how many there are.
        images: how many images were looked at.
        mode: what is done with them: "report", "exclude" or "weight".

    Raises:
        DataError: an image has become unreadable.
        DependencyError: Jinja2 or OpenCV is not installed.
    """
    shown = []
    for card in cards:
        image = read_image(card.path)
        shown.append((card, data_uri(image), data_uri(_with_heat(image, card.heat))))
    write_page(path, "suspects.html.j2", shown=shown, found=found, images=images, mode=mode)


def _with_heat(image: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    cv2 = require("cv2")
    colour = image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    size = (image.shape[1], image.shape[0])
    large = cv2.resize(np.clip(heat, 0, 1).astype(np.float32), size)
    tint = cv2.applyColorMap((255 * large).astype(np.uint8), cv2.COLORMAP_TURBO)
    return np.asarray(cv2.addWeighted(colour, 0.55, tint, 0.45, 0), np.uint8)
