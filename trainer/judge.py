"""A cheap judge of settings: good images and synthetic defects -> how well they are told apart.

The judge is AgpNet without its decoder: one Gaussian over the frozen, fused features of good
images, scaled per position (`AgpNet.distance` of the whitened token to the mean). It takes seconds
where a training takes minutes, and ranks input sizes and layers as the trained model does. No image
of a real defect is seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from agp_edge.trainer.data import read_frame
from agp_edge.trainer.synthetic import AT_BORDER, FAMILIES, with_defect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from agp_edge.dataset import Sample
    from agp_edge.trainer.config import ModelConfig
    from agp_edge.trainer.model import AgpNet

__all__ = ["Defect", "defects_of", "fit_judge", "judged"]

# Synthetic defects are sized for an image of 256 px (synthetic.py). They are put into windows from
# this side up to the whole frame, so that a large frame gets small defects too.
_SMALLEST_WINDOW = 256


@dataclass(frozen=True)
class Defect:
    """One synthetic defect in one good image: what replaces a window of its frame."""

    image: int  # index of the good image
    family: str
    top: int  # of the window, frame pixels
    left: int
    pixels: NDArray[np.uint8]  # (h, w) or (h, w, 3)
    mask: NDArray[np.bool_]  # (h, w)

    def apply(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The frame with the defect in it."""
        height, width = self.mask.shape
        changed = frame.copy()
        changed[self.top : self.top + height, self.left : self.left + width] = self.pixels
        return changed

    def full_mask(self, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """The mask in a frame of that shape (H, W, ...)."""
        height, width = self.mask.shape
        mask = np.zeros(shape[:2], np.bool_)
        mask[self.top : self.top + height, self.left : self.left + width] = self.mask
        return mask


def defects_of(samples: Sequence[Sample], each: int, seed: int) -> list[Defect]:
    """`each` synthetic defects in every good image, all families in turn.

    Images where a draw changed nothing that could be seen get fewer.
    """
    random = np.random.default_rng([seed, len(samples)])
    families = list(FAMILIES)
    defects = []
    for index, sample in enumerate(samples):
        frame = read_frame(sample)
        other = read_frame(samples[(index + 1) % len(samples)])
        for number in range(each):
            family = families[(index * each + number) % len(families)]
            defect = _defect(index, frame, other, family, random)
            if defect.mask.any():
                defects.append(defect)
    return defects


@torch.no_grad()
def fit_judge(model: AgpNet, config: ModelConfig, batches: Sequence[Tensor]) -> None:
    """Fits whitening and position scaling of `model` to fused tokens (B, N, C) of good images."""
    if model.whitening is not None:
        model.whitening.fit(batches, config.shrinkage)
    if model.position is not None:
        model.position.fit(_distance(model, tokens) for tokens in batches)


@torch.no_grad()
def judged(model: AgpNet, tokens: Tensor) -> Tensor:
    """Fused tokens (B, N, C) -> distance maps (B, 1, grid height, grid width)."""
    distance = _distance(model, tokens)
    return distance if model.position is None else model.position(distance)


def _distance(model: AgpNet, tokens: Tensor) -> Tensor:
    target = model.whitened(tokens.float())
    return model.distance(target, torch.zeros_like(target)).reshape(-1, 1, *model.grid)


def _defect(
    index: int,
    frame: NDArray[np.uint8],
    other: NDArray[np.uint8],
    family: str,
    random: np.random.Generator,
) -> Defect:
    height, width = frame.shape[:2]
    shorter = min(height, width)
    least = min(_SMALLEST_WINDOW, shorter)
    side = round(float(np.exp(random.uniform(np.log(least), np.log(shorter)))))
    top, left = int(random.integers(height - side + 1)), int(random.integers(width - side + 1))
    window = (slice(top, top + side), slice(left, left + side))
    if family in AT_BORDER:  # a window's own border means nothing
        top, left, window = 0, 0, (slice(0, height), slice(0, width))
    changed, mask = with_defect(
        _float_image(frame[window]),
        _float_image(_fitted(other, height, width)[window]),
        np.ones(frame[window].shape[:2], np.float32),
        family,
        random,
    )
    pixels = np.clip(np.rint(changed), 0, 255).astype(np.uint8)
    return Defect(index, family, top, left, pixels[:, :, 0] if frame.ndim == 2 else pixels, mask)


def _fitted(frame: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The frame, resized where it has another size."""
    if frame.shape[:2] == (height, width):
        return frame
    import cv2  # noqa: PLC0415  (heavy)

    return np.asarray(cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _float_image(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    image = frame if frame.ndim == 3 else np.repeat(frame[:, :, None], 3, axis=2)
    return np.ascontiguousarray(image, np.float32)
