"""Reconstruction by region: a token is rebuilt as the mean of the good tokens of its part.

How far it is from there is measured by their covariance. PaDiM (arXiv 2011.08785) keeps mean and
covariance of a hundred channels at each position; here neighbouring positions share them and all
channels stay, which some hundred images are enough for. Each covariance is drawn towards that of
the whole image, by as much as makes good images of other parts likeliest (shrinkage.py). Good
tokens fill few of their directions at any one place, and a geometry that is the same everywhere
cannot know which.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from agp_edge.errors import ModelError
from agp_edge.trainer.shrinkage import Moments, likeliest_weight

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

__all__ = ["Gaussians"]

# Where too few parts are known to leave some out: weight, in images, of the unit matrix, which is
# what whitening made of the whole image's covariance.
_UNIT_IMAGES = 50.0
# Of the mean variance, added to all: directions that good images hardly fill, and a camera's noise
# may.
_FLOOR = 0.03
# Numbers that all covariances together may have; wide backbones get fewer regions.
_MOST = 16_000_000
_EPSILON = 1e-8


class Gaussians(nn.Module):
    """Means `m_r` and inverse covariances `L_r L_r^T` of the good tokens of each region r.

    Until `fit` the means are zero and the covariances the unit matrix.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(
        self, channels: int, grid: tuple[int, int], regions: int, *, images: float = 0.0
    ) -> None:
        """Reserves the Gaussians.

        Args:
            channels: of a whitened token.
            grid: height and width of the token grid.
            regions: most of them along a side of the image; fewer where the grid is smaller, or
                where there are so many channels that their covariances would not fit.
            images: weight, in images, of the whole image's covariance in a region's; 0: the
                likeliest.

        Raises:
            ModelError: there is no region, or `images` is negative.
        """
        super().__init__()
        if regions < 1:
            raise ModelError(f"{regions} regions along a side were asked for; expected at least 1")
        if not images >= 0.0:
            raise ModelError(f"region_images is {images}; expected 0 or more")
        self.grid = grid
        self.images = images
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
    def fit(self, batches: Iterable[Tensor], folds: NDArray[np.intp] | None = None) -> None:
        """Sets means and covariances from whitened tokens (B, N, C) of good images.

        Args:
            batches: the tokens.
            folds: (images,), 0 to FOLDS - 1, of each image in their order; all images of a part are
                in one. None: there are too few parts.

        Raises:
            ModelError: there is no image.
        """
        sums: dict[int, Moments] = {}
        first = 0
        for tokens in batches:
            own = np.zeros(len(tokens), np.intp)
            if folds is not None:
                own = folds[first : first + len(tokens)]
            first += len(tokens)
            for fold in np.unique(own).tolist():
                found = self._moments(tokens[torch.from_numpy(own == fold).to(tokens.device)])
                sums[fold] = sums[fold] + found if fold in sums else found
        if not sums:
            raise ModelError("the regions got no tokens; give at least one image")
        moments = list(sums.values())
        weight = self.images
        if not weight and len(moments) > 1:
            weight = likeliest_weight(moments)
        known = moments.pop()
        while moments:  # not `sum`: what is added is let go
            known = known + moments.pop()
        sums.clear()
        covariance = self._covariance(known, weight)
        for index in range(len(covariance)):  # all inverses at once would take twice the memory
            self.matrix[index].copy_(torch.linalg.cholesky(torch.linalg.inv(covariance[index])))
        self.mean.copy_(known.mean[:, None])

    @staticmethod
    def _covariance(known: Moments, weight: float) -> Tensor:
        """(R, C, C); `weight` in images, 0: nothing is known of it."""
        own = known.covariance
        unit = torch.eye(own.shape[1], dtype=own.dtype)
        unit *= own.diagonal(dim1=1, dim2=2).mean().clamp(min=_EPSILON)
        if not weight:
            share = known.images / (known.images + _UNIT_IMAGES)
            return share * own + (1.0 - share) * unit
        share = known.images / (known.images + weight)
        return share * own + (1.0 - share) * known.whole + _FLOOR * unit

    def _moments(self, tokens: Tensor) -> Moments:
        rows = self._by_region(tokens)  # the padding is zero: it adds to neither sum
        inside = self._by_region(torch.ones(1, self.grid[0] * self.grid[1], 1)).sum(dim=(1, 2))
        return Moments(
            len(tokens),
            len(tokens) * inside.double(),
            rows.sum(dim=1).double().cpu(),
            (rows.transpose(1, 2) @ rows).double().cpu(),
        )

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
