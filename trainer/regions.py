"""Reconstruction by region: a token is rebuilt as the mean of the good tokens of its part.

How far it is from there is measured by their covariance. PaDiM (arXiv 2011.08785) keeps mean and
covariance of a hundred channels at each position; here neighbouring positions share them and all
channels stay, which some hundred images are enough for. With fewer, each covariance is drawn
towards that of the whole image, which whitening made the unit matrix. Good tokens fill few of their
directions at any one place, and a geometry that is the same everywhere cannot know which.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from agp_edge.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Gaussians"]

# Weight, in images, of the whole image's covariance in a region's.
_COMMON_IMAGES = 50.0
# Numbers that all covariances together may have; wide backbones get fewer regions.
_MOST = 16_000_000
_EPSILON = 1e-8


class Gaussians(nn.Module):
    """Means `m_r` and inverse covariances `L_r L_r^T` of the good tokens of each region r.

    Until `fit` the means are zero and the covariances the unit matrix.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, channels: int, grid: tuple[int, int], regions: int) -> None:
        """Reserves the Gaussians.

        Args:
            channels: of a whitened token.
            grid: height and width of the token grid.
            regions: most of them along a side of the image; fewer where the grid is smaller, or
                where there are so many channels that their covariances would not fit.

        Raises:
            ModelError: there is no region.
        """
        super().__init__()
        if regions < 1:
            raise ModelError(f"{regions} regions along a side were asked for; expected at least 1")
        self.grid = grid
        regions = min(regions, max(math.isqrt(_MOST) // channels, 1))
        self.cell = (-(-grid[0] // regions), -(-grid[1] // regions))  # tokens of a region
        self.regions = (-(-grid[0] // self.cell[0]), -(-grid[1] // self.cell[1]))
        count = self.regions[0] * self.regions[1]
        self.register_buffer("mean", torch.zeros(count, 1, channels))
        self.register_buffer("matrix", torch.eye(channels).repeat(count, 1, 1))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, C) -> the means of their regions, (B, N, C)."""
        rows = self._by_region(tokens)
        return self._in_place(self.mean.expand_as(rows))

    def distance(self, tokens: Tensor) -> Tensor:
        """Distance `|(t - m_r) L_r| / sqrt(C)`, (B, N), of whitened tokens t (B, N, C)."""
        white = (self._by_region(tokens) - self.mean) @ self.matrix
        square = self._in_place(white.square().mean(dim=2, keepdim=True))
        return (square.squeeze(2) + _EPSILON).sqrt()

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Sets means and covariances from whitened tokens (B, N, C) of good images.

        Raises:
            ModelError: there is no image.
        """
        count, channels, _ = self.matrix.shape
        total = torch.zeros(count, channels, dtype=torch.float64)
        product = torch.zeros(count, channels, channels, dtype=torch.float64)
        images = 0
        for tokens in batches:
            rows = self._by_region(tokens)  # the padding is zero: it adds to neither sum
            total += rows.sum(dim=1).cpu()
            product += (rows.transpose(1, 2) @ rows).cpu()
            images += len(tokens)
        if images == 0:
            raise ModelError("the regions got no tokens; give at least one image")
        inside = self._by_region(torch.ones(1, self.grid[0] * self.grid[1], 1)).sum(dim=(1, 2))
        seen = images * inside.double()  # tokens of each region
        mean = total / seen[:, None]
        own = product / seen[:, None, None] - mean[:, :, None] * mean[:, None, :]
        common = own.diagonal(dim1=1, dim2=2).mean().clamp(min=_EPSILON)
        weight = images / (images + _COMMON_IMAGES)
        unit = torch.eye(channels, dtype=torch.float64)
        covariance = weight * own + (1.0 - weight) * common * unit
        for index in range(count):  # one by one: all inverses at once would take twice the memory
            self.matrix[index].copy_(torch.linalg.cholesky(torch.linalg.inv(covariance[index])))
        self.mean.copy_(mean[:, None])

    def _by_region(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, C) -> (regions, B * tokens of a region, C), zero beyond the grid."""
        (rows, columns), (height, width) = self.regions, self.cell
        channels = tokens.shape[2]
        placed = tokens.reshape(-1, *self.grid, channels)
        below, right = rows * height - self.grid[0], columns * width - self.grid[1]
        if below or right:
            placed = functional.pad(placed, (0, 0, 0, right, 0, below))
        placed = placed.reshape(-1, rows, height, columns, width, channels)
        return placed.permute(1, 3, 0, 2, 4, 5).reshape(rows * columns, -1, channels)

    def _in_place(self, rows: Tensor) -> Tensor:
        """What `_by_region` gave, (regions, B * tokens of a region, C), as (B, N, C) again."""
        (lines, columns), (height, width) = self.regions, self.cell
        channels = rows.shape[2]
        placed = rows.reshape(lines, columns, -1, height, width, channels)
        placed = placed.permute(2, 0, 3, 1, 4, 5)
        placed = placed.reshape(-1, lines * height, columns * width, channels)
        inside = placed[:, : self.grid[0], : self.grid[1]]
        return inside.reshape(-1, self.grid[0] * self.grid[1], channels)
