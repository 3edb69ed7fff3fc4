"""A fixed affine map of the distance map that makes every grid position equally strict.

Good images differ more at some positions than at others: borders, edges, busy texture. Where the
image score is the map's maximum, the restless positions decide alone. This map gives each position
the same mean and spread over good images. It has no source in arXiv 2408.07490; it is ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from agp_edge.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["PositionScale"]

# Weight, in images, of the grid's common mean and variance in those of a position: with few images
# a position's own variance is an accident.
_COMMON_IMAGES = 4.0
# Least spread of a position in units of the grid's; keeps a position that hardly changes over the
# good images from amplifying rounding.
_LEAST_SPREAD = 0.1


class PositionScale(nn.Module):
    """`d' = m + s (d - m(y, x)) / s(y, x)`, the position's mean and spread over good images.

    `m` and `s` are the grid's averages of `m(y, x)` and `s(y, x)`: the distance keeps its unit.
    Until `fit` the map is the identity.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, grid: tuple[int, int]) -> None:
        """Reserves the map for a grid of that height and width."""
        super().__init__()
        self.grid = grid
        self.register_buffer("mean", torch.zeros(grid))
        self.register_buffer("spread", torch.ones(grid))

    def forward(self, distance: Tensor) -> Tensor:
        """Distance maps (B, 1, grid height, grid width) -> the same shape."""
        gain = self.spread.mean() / self.spread
        return self.mean.mean() + (distance - self.mean) * gain

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor], *, copies: float = 1.0) -> None:
        """Sets the map from distance maps (B, 1, grid height, grid width) of good images.

        Args:
            batches: the maps.
            copies: of each image, a little changed, are among them. Of how a position differs from
                image to image they tell no more than the image alone.

        Raises:
            ModelError: there is no map, or one is not finite.
        """
        total = torch.zeros(self.grid, dtype=torch.float64)
        square = torch.zeros(self.grid, dtype=torch.float64)
        count = 0
        for batch in batches:
            maps = batch.reshape(-1, *self.grid).cpu().double()
            total += maps.sum(dim=0)
            square += maps.square().sum(dim=0)
            count += maps.shape[0]
        if count == 0:
            raise ModelError("position scaling got no distance maps; give at least one image")
        if not (torch.isfinite(total).all() and torch.isfinite(square).all()):
            raise ModelError("the distance maps of the good images are not finite; train again")
        own = total / count
        variance = (square / count - own.square()).clamp(min=0.0)
        images = count / copies
        weight = images / (images + _COMMON_IMAGES)
        mean = weight * own + (1.0 - weight) * own.mean()
        spread = (weight * variance + (1.0 - weight) * variance.mean()).sqrt()
        if spread.max() <= 1e-9:  # all images are equal, or there is one: nothing to learn from
            spread = torch.ones_like(spread)
        self.mean.copy_(mean)
        self.spread.copy_(spread.clamp(min=_LEAST_SPREAD * float(spread.mean())))
