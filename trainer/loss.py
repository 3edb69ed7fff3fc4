"""Losses as pure functions of tokens; read nothing, write nothing."""

from __future__ import annotations

from torch import Tensor

__all__ = ["reconstruction_loss", "two_pass_loss"]


def reconstruction_loss(target: Tensor, reconstructed: Tensor, hard_share: float = 1.0) -> Tensor:
    """Mean squared error over the token grid (arXiv 2408.07490, second hand), a scalar.

    Args:
        target: clean tokens (B, N, C).
        reconstructed: (B, N, C).
        hard_share: share of all tokens of the batch that counts, worst first, in (0, 1]; 1 is the
            paper's loss, less drops what is already reconstructed well.
    """
    error = (target - reconstructed).square().mean(dim=2).flatten()  # (B * N,)
    if hard_share < 1.0:
        error = error.topk(max(int(hard_share * error.numel()), 1)).values
    return error.mean()


def two_pass_loss(feature_loss: Tensor, image_loss: Tensor | None) -> Tensor:
    """`L = 1/2 (L_feat + L_img,feat)` (arXiv 2408.07490, second hand).

    `feature_loss` comes from the pass with feature noise only, `image_loss` from the one with image
    and feature noise; without it the first stands alone.
    """
    return feature_loss if image_loss is None else 0.5 * (feature_loss + image_loss)
