"""Reconstruction from memory: a token is rebuilt as the nearest of K prototypes of good tokens.

The prototypes are the centres of k-means over whitened tokens of good images: what PatchCore
(arXiv 2106.08265) keeps as a coreset of raw tokens, here of a fixed size and in a geometry where
rare directions count. The distance is one matrix product and a minimum.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from agp_edge.errors import ModelError
from agp_edge.trainer.evidence import Evidence
from agp_edge.trainer.fusion import Fusion, Whitening
from agp_edge.trainer.position import PositionScale

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FineMemory", "Memory"]

# Tokens per prototype at least: with fewer, the images that taught them look better than any other.
_TOKENS_PER_PROTOTYPE = 16
_ROUNDS = 10  # of k-means; later ones hardly move the centres
_EPSILON = 1e-8
_FINE_LAYERS = 2  # the first ones, which see thin structures


class Memory(nn.Module):
    """K prototypes of tokens; all zero, the whitened target's mean, until `fit`."""

    prototypes: Tensor

    def __init__(self, channels: int, count: int) -> None:
        """Reserves `count` prototypes of that many channels."""
        super().__init__()
        if count < 1:
            raise ModelError(f"a memory of {count} prototypes was asked for; expected at least 1")
        self.register_buffer("prototypes", torch.zeros(count, channels))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (..., C) -> the nearest prototype of each, (..., C)."""
        return self.prototypes[self._squares(tokens).argmin(dim=-1)]

    def distance(self, tokens: Tensor) -> Tensor:
        """Distance (...) of tokens (..., C) to the nearest prototype, over sqrt(C)."""
        nearest = self._squares(tokens).amin(dim=-1) + tokens.square().mean(dim=-1)
        # rounding can leave a token that is a prototype below zero
        return (nearest.clamp(min=0.0) + _EPSILON).sqrt()

    def _squares(self, tokens: Tensor) -> Tensor:
        """`|t - p|^2 - |t|^2` over C, (..., K)."""
        channels = self.prototypes.shape[1]
        bias = self.prototypes.square().mean(dim=1)
        # with the factor at the tokens the prototypes are a layer's weights, also to fine-tuning
        return functional.linear(tokens * (-2.0 / channels), self.prototypes, bias)

    @torch.no_grad()
    def fit(self, tokens: Tensor, seed: int) -> None:
        """Sets the prototypes from whitened tokens (n, C) of good images.

        Of few tokens fewer prototypes are made; the others repeat them.
        """
        from sklearn.cluster import KMeans  # noqa: PLC0415  (heavy)
        from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415

        count = self.prototypes.shape[0]
        wanted = max(1, min(count, len(tokens) // _TOKENS_PER_PROTOTYPE))
        means = KMeans(
            wanted, init="random", n_init=1, max_iter=_ROUNDS, tol=0.0, random_state=seed
        )
        with warnings.catch_warnings():  # identical images give fewer distinct tokens than centres
            warnings.simplefilter("ignore", ConvergenceWarning)
            found = means.fit(tokens.cpu().numpy())
        centres = torch.from_numpy(found.cluster_centers_).to(self.prototypes)
        self.prototypes.copy_(centres[torch.arange(count) % wanted])


class FineMemory(Evidence):
    """A second memory, on the finest grid: `e = g (p(d) - o)`, p the position scaling.

    It sees the first two layers alone. Thin defects are small on the coarse grid, and few of its
    channels see them. `e` is in the unit of the coarse distance, to be added to it; zero until
    `calibrate`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        grid: tuple[int, int],
        count: int,
        *,
        position: bool,
        centred: bool = False,
    ) -> None:
        """Builds the branch.

        Args:
            channels: of each of the backbone's layers, the finest first.
            grid: height and width of the fine grid.
            count: of the prototypes.
            position: whether each position is brought to the same mean and spread.
            centred: whether the map's own mean over the image is taken off, see `Evidence`.
        """
        super().__init__(centred=centred)
        self.grid = grid
        self.fusion = Fusion(tuple(channels[:_FINE_LAYERS]), grid, pool=1, fuse="concat")
        self.whitening = Whitening(self.fusion.channels)
        self.memory = Memory(self.fusion.channels, count)
        self.position = PositionScale(grid) if position else None

    def forward(self, features: list[Tensor]) -> Tensor:
        """Feature maps of the layers -> evidence (B, 1, *grid)."""
        return self.weighed(self.placed(self.tokens(features)))

    def tokens(self, features: list[Tensor]) -> Tensor:
        """Feature maps of the layers -> fused tokens (B, N, C) before whitening."""
        fused: Tensor = self.fusion(features[:_FINE_LAYERS])
        return fused

    def placed(self, tokens: Tensor) -> Tensor:
        """Fused tokens (B, N, C) -> position-scaled distance (B, 1, *grid)."""
        distance = self.raw_distance(tokens)
        return distance if self.position is None else self.position(distance)

    def raw_distance(self, tokens: Tensor) -> Tensor:
        """Fused tokens (B, N, C) -> distance (B, 1, *grid) before the position scaling."""
        return self.memory.distance(self.whitening(tokens)).reshape(-1, 1, *self.grid)
