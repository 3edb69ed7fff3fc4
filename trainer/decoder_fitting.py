"""What a fitted decoder learns from: tokens of good images -> regions or prototypes; no gradients.

Numbers of tokens and images are bounded, so that time does not grow with the data set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from agp_edge.dataset import part_folds
from agp_edge.trainer.features import in_order
from agp_edge.trainer.memory import Memory
from agp_edge.trainer.regions import Gaussians
from agp_edge.trainer.shrinkage import FOLDS, LEAST_PARTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from agp_edge.trainer.features import Features
    from agp_edge.trainer.model import AgpNet

__all__ = ["fit_decoder", "folds_of", "sampled_tokens"]

_TOKENS = 65_536  # that k-means sees
_IMAGES = 4096  # that covariances are known from, at most
_BATCH = 16  # images read at once


@torch.no_grad()
def fit_decoder(
    model: AgpNet,
    features: Features,
    order: NDArray[np.intp],
    seed: int,
    *,
    parts: Sequence[str] = (),
) -> None:
    """Fits the decoder, where it is one that is fitted, to whitened tokens of good images.

    Args:
        model: its whitening is fitted already.
        features: fused tokens of the images.
        order: indices of the images; one that comes twice counts twice.
        seed: of the choice of images and tokens and of k-means, and of folds.
        parts: which part each image of `features` shows; empty: nothing is known of parts.
    """
    decoder = model.decoder
    if not isinstance(decoder, Gaussians | Memory):
        return
    device = next(model.parameters()).device
    random = np.random.default_rng([seed, 5])
    most = _TOKENS if isinstance(decoder, Memory) else _IMAGES
    if len(order) > most:
        order = random.choice(order, most, replace=False)
    batches = (tokens for tokens, _ in in_order(features, _BATCH, order))
    if isinstance(decoder, Memory):
        rows = sampled_tokens(batches, len(order), random)
        decoder.fit(model.whitened(rows.to(device)), seed)
    else:
        shown = [parts[index] for index in order] if parts else []
        decoder.fit(
            (model.whitened(tokens.to(device)) for tokens in batches), folds_of(shown, seed)
        )


def folds_of(parts: Sequence[str], seed: int) -> NDArray[np.intp] | None:
    """Folds as `Gaussians.fit` takes them; None: too few parts are known."""
    return part_folds(parts, FOLDS, seed) if len(set(parts)) >= LEAST_PARTS else None


def sampled_tokens(batches: Iterator[Tensor], images: int, random: np.random.Generator) -> Tensor:
    """As many tokens of each image, (n, C), of batches (B, N, C); at most about _TOKENS."""
    rows = []
    for tokens in batches:
        each = min(tokens.shape[1], max(_TOKENS // images, 1))
        for image in tokens:
            rows.append(image[torch.from_numpy(random.permutation(len(image))[:each])])
    return torch.cat(rows)
