"""The attention-guided perturbation branch: where and how strongly training is disturbed.

Used in training only; nothing of it is exported. Formulas are those of arXiv 2408.07490 as a public
review reports them (the paper's text was not at hand); what is not documented says "ours".
All masks are (B, N) over the token grid, N = grid height * width.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

_Decoder = TypeVar("_Decoder", bound=nn.Module)

__all__ = [
    "attention_prior",
    "border_prior",
    "combined_mask",
    "drop_tokens",
    "energy_prior",
    "minmax",
    "momentum_copy",
    "perturb_image",
    "perturb_tokens",
    "rising",
    "update_momentum",
]

_EPSILON = 1e-8


def minmax(mask: Tensor) -> Tensor:
    """Each image's mask (B, N) stretched to [0, 1]; a constant mask becomes zeros."""
    low = mask.amin(dim=1, keepdim=True)
    high = mask.amax(dim=1, keepdim=True)
    return (mask - low) / (high - low).clamp(min=_EPSILON)


def attention_prior(maps: Sequence[Tensor], prefix_tokens: int) -> Tensor | None:
    """`A_prior = aggr({A_l})`, the backbone's own self-attention, aggregated by the mean.

    Args:
        maps: softmax attention (B, heads, T, T) of each block, T = prefix_tokens + N.
        prefix_tokens: class and register tokens before the image's.

    Returns:
        (B, N): the attention that the class token pays to each image token, or, without one, that
        all tokens pay. None where there is no attention over the whole grid (CNN, windows).
    """
    whole = [
        attention
        for attention in maps
        if attention.ndim == 4 and attention.shape[2] == attention.shape[3]
    ]
    if not whole or any(attention.shape != whole[0].shape for attention in whole):
        return None
    mean = torch.stack([attention.mean(dim=1) for attention in whole]).mean(dim=0)  # (B, T, T)
    received = mean[:, 0] if prefix_tokens else mean.mean(dim=1)
    return received[:, prefix_tokens:]


def energy_prior(features: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
    """A foreground prior for CNNs (ours): the activations' mean square, stretched per layer.

    Args:
        features: feature maps (B, C_l, h_l, w_l).
        grid: height and width of the token grid.

    Returns:
        (B, N), mean over the layers, each in [0, 1].
    """
    layers = []
    for feature in features:
        energy = feature.square().mean(dim=1, keepdim=True)
        if energy.shape[2:] != grid:
            energy = functional.interpolate(energy, grid, mode="bilinear", antialias=True)
        layers.append(minmax(energy.flatten(1)))
    return torch.stack(layers).mean(dim=0)


def border_prior(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """A foreground prior (ours): distance to the mean token of the image's border, (B, N).

    It says little where the product fills the picture.

    Args:
        tokens: fused tokens (B, N, C).
        grid: height and width of the token grid.
    """
    batch, _, channels = tokens.shape
    image = tokens.reshape(batch, *grid, channels)
    border = torch.cat([image[:, 0], image[:, -1], image[:, 1:-1, 0], image[:, 1:-1, -1]], dim=1)
    return (tokens - border.mean(dim=1, keepdim=True)).square().mean(dim=2).sqrt()


def combined_mask(prior: Tensor, learned: Tensor | None) -> Tensor:
    """`A = minmax(A_prior) + minmax(A_learn)`, (B, N) in [0, 2]; None: the prior alone."""
    mask = minmax(prior)
    return mask if learned is None else mask + minmax(learned)


def rising(epoch: int, epochs: int) -> float:
    """The schedule from easy to hard: linear from 0 at the first epoch to 1 at the last."""
    return epoch / (epochs - 1) if epochs > 1 else 1.0


def perturb_tokens(
    clean: Tensor, mask: Tensor | None, alpha: float, beta: float, *, generator: torch.Generator
) -> Tensor:
    """`F' = F_clean + E * (alpha(t) * minmax(A) + beta)`, E Gaussian.

    E is drawn in units of each token's root mean square (ours), so that alpha and beta do not
    depend on the backbone; UniAD's jitter, `randn * (||token||_2 / C) * 20`, is
    beta = 20 / sqrt(C) in this unit.

    Args:
        clean: tokens (B, N, C).
        mask: A, (B, N); None: ones everywhere, the uniform noise to compare with.
        alpha: strength under the mask now, alpha(t).
        beta: strength everywhere.
        generator: of the noise, on the tokens' device.
    """
    noise = torch.randn(clean.shape, generator=generator, device=clean.device, dtype=clean.dtype)
    size = clean.square().mean(dim=2, keepdim=True).sqrt()  # (B, N, 1)
    where = 1.0 if mask is None else minmax(mask).unsqueeze(2)
    return clean + noise * size * (alpha * where + beta)


def drop_tokens(clean: Tensor, share: float, *, generator: torch.Generator) -> Tensor:
    """Token dropout, what attention-guided noise is compared with: tokens become zero, at random.

    Zero is the mean of whitened tokens. On average a share of the tokens' energy is lost.

    Args:
        clean: tokens (B, N, C).
        share: of the tokens, in [0, 1].
        generator: of the choice, on the tokens' device.
    """
    drawn = torch.rand(clean.shape[:2], generator=generator, device=clean.device)
    return clean * (drawn >= share).unsqueeze(2)


def perturb_image(
    image: Tensor,
    mask: Tensor,
    grid: tuple[int, int],
    share: float,
    std: float,
    *,
    generator: torch.Generator,
) -> Tensor:
    """Gaussian noise where the upsampled mask is largest.

    Args:
        image: normalised, (B, 3, H, W).
        mask: A, (B, N).
        grid: height and width of the token grid.
        share: of each image's pixels that get noise, in [0, 1]; grows over the training.
        std: of the noise, in the image's unit.
        generator: of the noise, on the image's device.
    """
    height, width = image.shape[2:]
    map_ = functional.interpolate(
        mask.reshape(-1, 1, *grid), (height, width), mode="bilinear", align_corners=False
    )
    noise = torch.randn(image.shape, generator=generator, device=image.device, dtype=image.dtype)
    count = round(share * height * width)
    if count == 0:
        return image
    lowest = map_.flatten(1).topk(count, dim=1).values[:, -1]  # (B,)
    return image + noise * std * (map_ >= lowest.reshape(-1, 1, 1, 1))


def momentum_copy(decoder: _Decoder) -> _Decoder:
    """A copy of the decoder that follows it; it gets no gradient and is never exported."""
    twin = copy.deepcopy(decoder)
    twin.requires_grad_(False)
    return twin.eval()


@torch.no_grad()
def update_momentum(twin: nn.Module, decoder: nn.Module, eta: float) -> None:
    """`theta_md <- eta theta_md + (1 - eta) theta_dec`, after each step."""
    for slow, fast in zip(twin.parameters(), decoder.parameters(), strict=True):
        slow.lerp_(fast, 1.0 - eta)
