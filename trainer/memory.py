"""Reconstruction from memory: a token is rebuilt as the nearest of K prototypes of good tokens.

The prototypes are the centres of k-means over whitened tokens of good images: what PatchCore
(arXiv 2106.08265) keeps as a coreset of raw tokens, here of a fixed size and in a geometry where
rare directions count. The distance is one matrix product and a minimum.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional

from agp_edge.errors import ModelError

__all__ = ["Memory"]

# Tokens per prototype at least: with fewer, the images that taught them look better than any other.
_TOKENS_PER_PROTOTYPE = 16
_ROUNDS = 10  # of k-means; later ones hardly move the centres
_EPSILON = 1e-8


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
