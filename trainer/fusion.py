"""Multi-layer feature fusion: feature maps of several layers -> target tokens (B, N, C).

The target of the reconstruction is `sum_l LN(F_l)` in the paper (arXiv 2408.07490, second hand).
Here each layer is pooled, normalised per token and brought to one grid; layers are summed or
concatenated, and a fixed linear map may give the result unit covariance (whitening).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from agp_edge.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Centring", "Fusion", "Whitening", "to_grid"]

_EPSILON = 1e-6


def to_grid(feature: Tensor, grid: tuple[int, int]) -> Tensor:
    """A feature map (B, C, h, w) on another grid, (B, C, *grid).

    Averaged where cells divide evenly, else interpolated: exporters then see plain operators.
    """
    height, width = feature.shape[2:]
    if (height, width) == grid:
        return feature
    if height % grid[0] == 0 and width % grid[1] == 0:
        kernel = (height // grid[0], width // grid[1])
        return functional.avg_pool2d(feature, kernel, stride=kernel)
    return functional.interpolate(feature, grid, mode="bilinear", align_corners=False)


class Fusion(nn.Module):
    """Feature maps -> fused tokens; has no weights."""

    def __init__(
        self,
        channels: tuple[int, ...],
        grid: tuple[int, int],
        *,
        pool: int = 3,
        normalise: str = "layer",
        fuse: str = "auto",
    ) -> None:
        """Fixes how layers of the given widths are fused.

        Args:
            channels: of each layer.
            grid: height and width of the token grid.
            pool: side of the mean over neighbours, taken on each layer's own grid; odd.
            normalise: "layer" (zero mean, unit variance over a token's channels), "l2" (unit mean
                square) or "none".
            fuse: "sum", "concat" or "auto" (sum where all widths are equal).

        Raises:
            ModelError: a setting is unknown, or "sum" is asked for layers of different widths.
        """
        super().__init__()
        if normalise not in ("layer", "l2", "none"):
            raise ModelError(f"normalise is '{normalise}'; expected layer, l2 or none")
        if fuse not in ("auto", "sum", "concat"):
            raise ModelError(f"fuse is '{fuse}'; expected auto, sum or concat")
        if pool < 1 or pool % 2 == 0:
            raise ModelError(f"pool is {pool}; expected an odd number of tokens, 1 for none")
        equal = len(set(channels)) == 1
        if fuse == "sum" and not equal:
            raise ModelError(f"fuse is 'sum', but the layers have {channels} channels: use concat")
        self.grid = grid
        self.layers = len(channels)
        self.pool = pool
        self.normalise = normalise
        self.sum = fuse == "sum" or (fuse == "auto" and equal)
        self.channels = channels[0] if self.sum else sum(channels)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Fused tokens (B, N, C), N = grid height * width, row by row; more layers are not seen."""
        layers = [self._tokens(feature) for feature in features[: self.layers]]
        return torch.stack(layers).sum(dim=0) if self.sum else torch.cat(layers, dim=2)

    def _tokens(self, feature: Tensor) -> Tensor:
        if self.pool > 1:
            # the border's mean is over real neighbours only
            feature = functional.avg_pool2d(
                feature, self.pool, stride=1, padding=self.pool // 2, count_include_pad=False
            )
        tokens = to_grid(feature, self.grid).flatten(2).transpose(1, 2)  # (B, N, channels)
        if self.normalise == "layer":
            return functional.layer_norm(tokens, tokens.shape[2:], eps=_EPSILON)
        if self.normalise == "l2":
            return tokens * (tokens.square().mean(dim=2, keepdim=True) + _EPSILON).rsqrt()
        return tokens


class Centring(nn.Module):
    """A fixed map of tokens to zero mean, and to a mean variance of one over all channels.

    All distances stay what they are, to one factor: the map is for numbers that FP16 holds well.
    Until `fit` it is the identity.
    """

    mean: Tensor
    gain: Tensor

    def __init__(self, channels: int) -> None:
        """Reserves the map."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("gain", torch.ones(()))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (..., C) -> the same shape."""
        return (tokens - self.mean) * self.gain

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Sets the map from tokens (..., C) of good images, read once.

        Raises:
            ModelError: all tokens are equal, or one is not finite.
        """
        mean, covariance = _moments(batches, self.mean.shape[0])
        self.mean.copy_(mean)
        self.gain.copy_(covariance.diagonal().mean().rsqrt())


class Whitening(nn.Module):
    """A fixed affine map of tokens to zero mean and (nearly) unit covariance.

    `y = (x - m) U (L + s I)^(-1/2)` with the covariance's eigenvectors U and eigenvalues L (PCA
    whitening); s is `shrinkage` times the mean eigenvalue. The loss, a sum of squares, is the same
    under ZCA whitening, which only rotates y back. Until `fit` the map is the identity.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, channels: int, components: int = 0) -> None:
        """Reserves the map; `components` 0 keeps all channels."""
        super().__init__()
        if not 0 <= components <= channels:
            raise ModelError(f"components is {components}; expected 0 to {channels}")
        self.channels = components or channels
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("matrix", torch.eye(channels)[:, : self.channels].contiguous())

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (..., C) -> (..., components)."""
        return (tokens - self.mean) @ self.matrix

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor], shrinkage: float) -> None:
        """Sets the map from tokens (..., C) of good images, read once.

        Raises:
            ModelError: all tokens are equal, or one is not finite.
        """
        mean, covariance = _moments(batches, self.mean.shape[0])
        values, vectors = torch.linalg.eigh(covariance)
        values = values.flip(0)[: self.channels].clamp(min=0.0)
        vectors = vectors.flip(1)[:, : self.channels]
        mean_value = covariance.diagonal().mean()
        scale = (values + shrinkage * mean_value + 1e-12).rsqrt()
        self.mean.copy_(mean)
        self.matrix.copy_(vectors * scale)


def _moments(batches: Iterable[Tensor], channels: int) -> tuple[Tensor, Tensor]:
    """Mean (C,) and covariance (C, C), float64, of tokens (..., C) of good images, read once.

    Raises:
        ModelError: all tokens are equal, or one is not finite.
    """
    # float64: a covariance over 10^7 tokens loses its small eigenvalues in float32
    total = torch.zeros(channels, dtype=torch.float64)
    product = torch.zeros(channels, channels, dtype=torch.float64)
    count = 0
    shift: Tensor | None = None
    for batch in batches:
        tokens = batch.reshape(-1, channels).cpu()
        if shift is None:
            shift = tokens.mean(dim=0)  # a common offset cancels digits in the products
        tokens = tokens - shift
        total += tokens.sum(dim=0, dtype=torch.float64)
        product += (tokens.T @ tokens).double()
        count += tokens.shape[0]
    if shift is None:
        raise ModelError("no tokens to whiten or to centre; give at least one image")
    offset = total / count
    covariance = product / count - torch.outer(offset, offset)
    if not torch.isfinite(covariance).all():
        raise ModelError("the backbone's features are not finite; its weights are damaged")
    if covariance.diagonal().mean() <= 1e-12:
        raise ModelError("all features of the training images are equal; are they all blank?")
    return shift.double() + offset, covariance
