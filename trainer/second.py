"""A second frozen backbone beside the first, and the map of what it sees.

A CNN's early layers see fine structure, a ViT's blocks what belongs together; each misses what the
other finds. Both see the same input: the second one's is brought to its own size and normalisation
inside the network, so that whoever prepares frames need not know of it. It has no source in
arXiv 2408.07490; it is ours.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from agp_edge.trainer.fine import FineMap
from agp_edge.trainer.fusion import Fusion, Whitening
from agp_edge.trainer.regions import Gaussians

if TYPE_CHECKING:
    from agp_edge.trainer.backbone import Backbone
    from agp_edge.trainer.weights import Pretrained

__all__ = ["SECOND_DEPTHS", "Pair", "Second", "second_shape"]

SECOND_DEPTHS = (0.5, 0.75)  # of a ViT's blocks
_CNN_STEP = 32  # pixels; the largest stride


class Pair(nn.Module):
    """Two backbones: the layers of the first, then those of the second, of the same image."""

    scale: Tensor
    shift: Tensor

    def __init__(self, first: Backbone, second: Backbone, shape: tuple[int, int]) -> None:
        """Takes over both.

        Args:
            first: whose tokens the decoder rebuilds.
            second: what `Second` sees.
            shape: height and width of the second one's input, in pixels.
        """
        super().__init__()
        self.first = first
        self.second = second
        self.shape = shape
        # from the first one's normalisation to the second one's, by channel
        self.register_buffer("scale", torch.ones(1, 3, 1, 1))
        self.register_buffer("shift", torch.zeros(1, 3, 1, 1))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Feature maps of all layers of images (B, 3, H, W), normalised for the first backbone."""
        own = functional.interpolate(image, self.shape, mode="bilinear", align_corners=False)
        return [*self.first(image), *self.second(own * self.scale + self.shift)]

    def normalise_as(self, first: Pretrained, second: Pretrained) -> None:
        """Sets how images normalised for the first are normalised for the second."""
        pixels = [torch.tensor([each.mean, each.std]) for each in (first, second)]
        (mean, std), (own_mean, own_std) = pixels
        self.scale.copy_((std / own_std).reshape(1, 3, 1, 1))
        self.shift.copy_(((mean - own_mean) / own_std).reshape(1, 3, 1, 1))

    @property
    def channels(self) -> tuple[int, ...]:
        """Of each of the first backbone's layers."""
        return self.first.channels

    @property
    def strides(self) -> tuple[int, ...]:
        """Of each of the first backbone's layers."""
        return self.first.strides

    @property
    def layers(self) -> tuple[int, ...]:
        """The first backbone's."""
        return self.first.layers


class Second(FineMap):
    """Whitened tokens of the second backbone's layers, by the good ones of their region."""

    def __init__(
        self,
        pair: Pair,
        *,
        normalise: str,
        regions: int,
        region_images: float,
        weight: float,
        position: bool,
    ) -> None:
        """Builds the branch.

        Args:
            pair: the backbones.
            normalise: as `Fusion` takes it.
            regions: along a side, as `Gaussians` takes them.
            region_images: as `Gaussians` takes them.
            weight: see `FineMap`.
            position: whether each position is brought to the same mean and spread.
        """
        second = pair.second
        stride = max(second.strides)
        grid = (pair.shape[0] // stride, pair.shape[1] // stride)
        fusion = Fusion(second.channels, grid, pool=1, normalise=normalise)
        super().__init__(
            grid,
            layers=len(second.channels),
            fusion=fusion,
            geometry=Whitening(fusion.channels),
            known=Gaussians(fusion.channels, grid, regions, images=region_images),
            weight=weight,
            position=position,
            centred=False,
        )

    def tokens(self, features: list[Tensor]) -> Tensor:
        """Feature maps of all layers, the second backbone's last -> fused tokens (B, N, C)."""
        fused: Tensor = self.fusion(features[-self.layers :])
        return fused


def second_shape(name: str, side: int, height: int, width: int) -> tuple[int, int]:
    """What the second backbone's input is, (height, width) in pixels.

    Args:
        name: timm's name of it.
        side: pixels of the shorter side; the longer one keeps the ratio. Both are brought to
            multiples of the patch (ViT) or of 32 (CNN).
        height: of the network's input.
        width: of the network's input.
    """
    patch = re.search(r"patch(\d+)", name)  # timm names ViTs by it
    step = int(patch[1]) if patch else _CNN_STEP
    scale = side / min(height, width) / step
    return step * max(round(scale * height), 1), step * max(round(scale * width), 1)
