"""How far regions differ: sums over their tokens -> the weight of the whole image in each of them.

A commutator's edge and its bore need covariances of their own; on a tile all places look alike, and
a covariance of one place, known from a sixteenth of the tokens, is only the worse for it. Good
images tell which it is: those of parts that were left out are likeliest under the right weight
(empirical Bayes). No defect is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["FOLDS", "LEAST_PARTS", "Moments", "likeliest_weight"]

FOLDS = 4
LEAST_PARTS = 10  # fewer say nothing of the parts to come
# Candidates, in images.
_WEIGHTS = (6.0, 12.0, 25.0, 50.0, 100.0, 200.0, 400.0, 800.0, 1600.0, 3200.0)
# Of the mean variance: directions with less are left out of the comparison.
_LEAST = 1e-4


@dataclass(frozen=True)
class Moments:
    """Sums over the tokens of R regions with C channels, float64."""

    images: int
    tokens: Tensor  # (R,), of each region
    total: Tensor  # (R, C)
    product: Tensor  # (R, C, C), of each token with itself

    def __add__(self, other: Moments) -> Moments:
        """Of both sets of images."""
        return Moments(
            self.images + other.images,
            self.tokens + other.tokens,
            self.total + other.total,
            self.product + other.product,
        )

    @property
    def mean(self) -> Tensor:
        """(R, C)."""
        return self.total / self.tokens[:, None]

    @property
    def covariance(self) -> Tensor:
        """Of each region about its own mean, (R, C, C)."""
        return self.about(self.mean)

    @property
    def whole(self) -> Tensor:
        """Of all tokens about their common mean, (C, C)."""
        tokens = self.tokens.sum()
        mean = self.total.sum(dim=0) / tokens
        return self.product.sum(dim=0) / tokens - torch.outer(mean, mean)

    def about(self, mean: Tensor) -> Tensor:
        """Mean outer product of each region's tokens about `mean` (R, C), (R, C, C)."""
        own = self.mean
        cross = own[:, :, None] * mean[:, None, :]
        square = mean[:, :, None] * mean[:, None, :]
        return self.product / self.tokens[:, None, None] - cross - cross.transpose(1, 2) + square


def likeliest_weight(folds: Sequence[Moments]) -> float:
    """The weight n, in images, under which the images of each fold are likeliest by the others.

    With N images a region's covariance is `(N S_r + n S) / (N + n)` of its own S_r and that of the
    whole image S, and its mean is its own. Tokens count as independent draws of normal laws, which
    they are not; the parts that are left out keep that from mattering.

    Args:
        folds: sums of each; no part is in two of them. At least two.
    """
    cost = torch.zeros(len(_WEIGHTS), dtype=torch.float64)
    for index, held in enumerate(folds):
        rest = [fold for other, fold in enumerate(folds) if other != index]
        cost += _cost(sum(rest[1:], rest[0]), held)
    return _WEIGHTS[int(cost.argmin())]


def _cost(known: Moments, held: Moments) -> Tensor:
    """Twice the negative log-likelihood of `held`, up to a constant, by candidate."""
    share = torch.tensor([known.images / (known.images + weight) for weight in _WEIGHTS]).double()
    values, vectors = torch.linalg.eigh(known.whole)
    filled = values > _LEAST * values.mean()  # what good images never show says nothing
    # in the frame in which S is the unit matrix and S_r is diagonal all candidates are diagonal
    inverse = (vectors[:, filled] * values[filled].rsqrt()).T
    own, seen = known.covariance, held.about(known.mean)
    cost = torch.zeros_like(share)
    for region, tokens in enumerate(held.tokens):  # one by one: they take no memory together
        values, vectors = torch.linalg.eigh(inverse @ own[region] @ inverse.T)
        frame = vectors.T @ inverse
        spread = ((frame @ seen[region]) * frame).sum(dim=1)  # of each direction
        mixed = share[:, None] * values.clamp(min=0.0) + 1.0 - share[:, None]
        cost += tokens * (mixed.log() + spread / mixed).sum(dim=1)
    return cost
