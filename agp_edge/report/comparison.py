"""The page about two models: figures, verdicts that differ, and the worst frames with both maps.

Reads a comparison and the two models; writes one HTML file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agp_edge.comparing.side import open_side
from agp_edge.dependencies import require
from agp_edge.images import read_image
from agp_edge.report.pictures import data_uri
from agp_edge.report.render import write_page

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    from agp_edge.comparing.comparison import ComparedFrame, Comparison

__all__ = ["write_comparison"]


@dataclass(frozen=True)
class Card:
    """One frame: its picture, the map of each model on one scale, and their difference."""

    name: str
    frame: ComparedFrame
    share: float
    """Largest difference of the maps, of the range of the first model's maps."""

    pictures: tuple[str, str, str, str]
    """Data URIs: frame, first map, second map, difference."""


def write_comparison(
    path: str | os.PathLike[str], comparison: Comparison, *, max_cards: int = 12
) -> None:
    """Writes the page, aside and renamed.

    Shown are frames whose verdicts differ, then those whose maps differ most; they are scored once
    more for their maps.

    Args:
        path: the HTML file.
        comparison: what `agp_edge.comparing.compare.compare` returned.
        max_cards: how many frames are shown.

    Raises:
        DataError: an image has become unreadable.
        DependencyError: Jinja2 or OpenCV is not installed.
    """
    worst = sorted(comparison.frames, key=lambda frame: (not frame.flips, -frame.map_maximum))
    write_page(
        path,
        "comparison.html.j2",
        comparison=comparison,
        cards=_cards(comparison, worst[:max_cards]),
    )


def _cards(comparison: Comparison, frames: list[ComparedFrame]) -> list[Card]:
    thresholds = comparison.thresholds or (0.0, 0.0)
    maps: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
    with (
        open_side(comparison.models[0], thresholds[0]) as first,
        open_side(comparison.models[1], thresholds[1]) as second,
    ):
        images = [read_image(frame.sample.path) for frame in frames]
        for image in images:
            # copies: the first answer must outlive the second
            maps.append(
                (
                    np.array(first.score(image).anomaly_map),
                    np.array(second.score(image).anomaly_map),
                )
            )
    largest = max(frame.map_maximum for frame in comparison.frames)
    # the range of the first model's maps, as the comparison measured it
    span = largest / comparison.map_share_maximum if comparison.map_share_maximum > 0 else 1.0
    lowest = min(float(pair[0].min()) for pair in maps)
    cards = []
    for frame, image, (one, other) in zip(frames, images, maps, strict=True):
        difference = np.abs(one - other) / max(largest, 1e-12)
        cards.append(
            Card(
                name=comparison.name_of(frame),
                frame=frame,
                share=frame.map_maximum / span,
                pictures=(
                    data_uri(image),
                    data_uri(_coloured((one - lowest) / span)),
                    data_uri(_coloured((other - lowest) / span)),
                    data_uri(_coloured(difference)),
                ),
            )
        )
    return cards


def _coloured(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Values 0 to 1 as colours: uint8 (H, W, 3) BGR."""
    cv2 = require("cv2")
    grey = (np.clip(np.nan_to_num(values, nan=1.0), 0, 1) * 255).astype(np.uint8)
    coloured: NDArray[np.uint8] = cv2.applyColorMap(grey, cv2.COLORMAP_TURBO)
    return coloured
