"""What the fine map learns from: good images -> whitening, regions or prototypes, scales.

Numbers of tokens and images are bounded, so that memory and time do not grow with the data set.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from agp_edge.trainer.checkpoint import load_model, write_checkpoint
from agp_edge.trainer.decoder_fitting import sampled_tokens
from agp_edge.trainer.memory import Memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from agp_edge.dataset import Sample
    from agp_edge.trainer.data import ImageReader
    from agp_edge.trainer.fine import Fine
    from agp_edge.trainer.model import AgpNet

__all__ = ["add_fine", "fit_fine", "fit_fine_tokens"]

_IMAGES = 1024  # that the fine map sees at most
_BYTES = 1_000_000_000  # that their tokens may take
_BATCH = 16  # images through the backbone at once


def add_fine(
    folder: Path,
    samples: Sequence[Sample],
    *,
    reader: ImageReader,
    on: torch.device,
    progress: bool = True,
) -> None:
    """Fits the fine map of a run's checkpoint, where it has one that is not, and writes it.

    Args:
        folder: of the run, whose checkpoint has all but this.
        samples: good images; one that comes twice counts once.
        reader: of the images.
        on: the device.
        progress: whether to show a bar.
    """
    model, checkpoint = load_model(folder)
    if model.fine is None or (checkpoint.finished and float(model.fine.gain) != 0.0):
        return
    fit_fine(
        model.to(on),
        samples,
        weight=checkpoint.model.fine_weight,
        shrinkage=checkpoint.model.shrinkage,
        seed=checkpoint.train.seed,
        reader=reader,
        progress=progress,
    )
    write_checkpoint(folder, model, replace(checkpoint, finished=True))


@torch.no_grad()
def fit_fine(
    model: AgpNet,
    samples: Sequence[Sample],
    *,
    weight: float,
    shrinkage: float,
    seed: int,
    reader: ImageReader,
    progress: bool = True,
) -> None:
    """Fits whitening, regions or prototypes and scales of `model.fine`; the rest is fitted already.

    Args:
        model: on its device.
        samples: good images.
        weight: of the branch, see `Evidence.calibrate`.
        shrinkage: of the whitening.
        seed: of the choice of images and tokens and of k-means.
        reader: of the images.
        progress: whether to show a bar.
    """
    fine = model.fine
    assert fine is not None  # for the type checker: the caller has looked
    device = next(model.parameters()).device
    random = np.random.default_rng([seed, 17])
    # fp16, as in the feature cache
    most = max(1, min(_IMAGES, _BYTES // (2 * fine.grid[0] * fine.grid[1] * fine.fusion.channels)))
    distinct = list(dict.fromkeys(samples))
    chosen = [distinct[index] for index in np.sort(random.permutation(len(distinct))[:most])]
    kept: list[Tensor] = []
    coarse: list[Tensor] = []
    for _, images in reader.batches(chosen, _BATCH, desc="fine map", progress=progress):
        layers = model.backbone(images.to(device))
        kept.append(fine.tokens(layers).to("cpu", torch.float16))
        coarse.append(model.reconstruction_map(layers).cpu())
    fit_fine_tokens(
        fine,
        kept,
        coarse,
        weight=weight,
        shrinkage=shrinkage,
        random=random,
        seed=seed,
        progress=progress,
    )


@torch.no_grad()
def fit_fine_tokens(
    fine: Fine,
    kept: Sequence[Tensor],
    coarse: Sequence[Tensor],
    *,
    weight: float,
    shrinkage: float,
    random: np.random.Generator,
    seed: int,
    progress: bool = True,
) -> None:
    """Fits the fine map to fused tokens that were read already.

    Args:
        fine: on its device.
        kept: fused tokens (B, N, C) of good images, in batches.
        coarse: distance maps (B, 1, *, *) of the same images.
        weight: of the branch, see `Evidence.calibrate`.
        shrinkage: of the whitening.
        random: of the choice of tokens.
        seed: of k-means.
        progress: whether to show a bar.
    """
    device = fine.gain.device

    def batches() -> Iterator[Tensor]:
        return (tokens.to(device).float() for tokens in kept)

    fine.whitening.fit(batches(), shrinkage)
    if isinstance(fine.known, Memory):
        rows = sampled_tokens(batches(), sum(len(tokens) for tokens in kept), random)
        fine.known.fit(fine.whitening(rows), seed)
    else:
        fine.known.fit(fine.whitening(tokens) for tokens in batches())
    raw = [
        fine.raw(tokens).cpu()
        for tokens in tqdm(batches(), desc="scale", total=len(kept), disable=not progress)
    ]
    fine.calibrate(torch.cat(raw), torch.cat(list(coarse)), weight)
