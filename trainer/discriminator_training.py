"""What the discriminators learn from: tokens of good images and their prior masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from agp_edge.trainer.features import in_order

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from torch import Tensor

    from agp_edge.trainer.config import TrainConfig
    from agp_edge.trainer.discriminator import Discriminator
    from agp_edge.trainer.features import Features
    from agp_edge.trainer.model import AgpNet

__all__ = ["fit_discriminator", "scale_discriminator"]

_TOKENS = 65_536  # that the discriminators see
_IMAGES = 1024  # whose maps set their unit, at most
_BATCH = 16


def fit_discriminator(
    discriminator: Discriminator,
    features: Features,
    order: NDArray[np.intp],
    config: TrainConfig,
) -> None:
    """Trains the members on tokens of good images.

    Args:
        discriminator: on its device.
        features: fused tokens and prior masks of the images.
        order: indices of the images; one that comes twice counts twice.
        config: of the noise; its seed also decides the choice of the tokens.
    """
    device = discriminator.gain.device
    random = np.random.default_rng([config.seed, 23])
    if len(order) > _TOKENS:
        order = random.choice(order, _TOKENS, replace=False)
    each = max(_TOKENS // max(len(order), 1), 1)
    rows: list[Tensor] = []
    masks: list[Tensor] = []
    for tokens, prior in in_order(features, _BATCH, order):
        count = min(each, tokens.shape[1])
        chosen = torch.from_numpy(
            np.stack([random.permutation(tokens.shape[1])[:count] for _ in range(len(tokens))])
        )
        rows.append(torch.take_along_dim(tokens, chosen[:, :, None], dim=1).flatten(0, 1))
        masks.append(torch.take_along_dim(prior, chosen, dim=1).flatten())
    discriminator.fit(torch.cat(rows).to(device), torch.cat(masks).to(device), config)


@torch.no_grad()
def scale_discriminator(
    model: AgpNet,
    discriminator: Discriminator,
    batches: Iterable[Tensor],
    weight: float,
) -> None:
    """Fits the position scaling and the unit of trained discriminators.

    Args:
        model: its position scaling is fitted already.
        discriminator: of the model, trained.
        batches: fused tokens (B, N, C) of good images.
        weight: see `Evidence.calibrate`.
    """
    device = next(model.parameters()).device
    raw: list[Tensor] = []
    coarse: list[Tensor] = []
    count = 0
    for batch in batches:
        tokens = batch.to(device)
        raw.append(discriminator.raw(tokens).cpu())
        coarse.append(model.placed(model.whitened(tokens)).cpu())
        count += len(tokens)
        if count >= _IMAGES:
            break
    discriminator.calibrate(torch.cat(raw), torch.cat(coarse), weight)
