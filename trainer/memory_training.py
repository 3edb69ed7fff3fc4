"""What the memories learn from: good images -> prototypes, whitening and scales; no gradients.

Numbers of tokens and images are bounded, so that memory and time do not grow with the data set.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from agp_edge.trainer.checkpoint import load_model, write_checkpoint
from agp_edge.trainer.features import in_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from agp_edge.dataset import Sample
    from agp_edge.trainer.data import ImageReader
    from agp_edge.trainer.features import Features
    from agp_edge.trainer.memory import FineMemory, Memory
    from agp_edge.trainer.model import AgpNet

__all__ = ["add_fine_memory", "fit_fine_memory", "fit_fine_tokens", "fit_memory"]

_TOKENS = 65_536  # that k-means sees
_IMAGES = 1024  # that the fine memory sees at most
_BYTES = 1_000_000_000  # that their tokens may take
_BATCH = 16  # images through the backbone at once


@torch.no_grad()
def fit_memory(
    model: AgpNet,
    memory: Memory,
    features: Features,
    order: NDArray[np.intp],
    seed: int,
) -> None:
    """Fits the coarse memory to whitened tokens of good images.

    Args:
        model: its whitening is fitted already.
        memory: the model's decoder.
        features: fused tokens of the images.
        order: indices of the images; one that comes twice counts twice.
        seed: of the choice of the tokens and of k-means.
    """
    random = np.random.default_rng([seed, 5])
    if len(order) > _TOKENS:
        order = random.choice(order, _TOKENS, replace=False)
    rows = _sampled((tokens for tokens, _ in in_order(features, _BATCH, order)), len(order), random)
    memory.fit(model.whitened(rows.to(next(model.parameters()).device)), seed)


def add_fine_memory(
    folder: Path,
    samples: Sequence[Sample],
    *,
    reader: ImageReader,
    on: torch.device,
    progress: bool = True,
) -> None:
    """Fits the fine memory of a run's checkpoint, where it has one that is not, and writes it.

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
    fit_fine_memory(
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
def fit_fine_memory(
    model: AgpNet,
    samples: Sequence[Sample],
    *,
    weight: float,
    shrinkage: float,
    seed: int,
    reader: ImageReader,
    progress: bool = True,
) -> None:
    """Fits whitening, prototypes and scales of `model.fine`; the rest is fitted already.

    Args:
        model: on its device.
        samples: good images.
        weight: of the branch, see `FineMemory.calibrate`.
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
    for _, images in reader.batches(chosen, _BATCH, desc="fine memory", progress=progress):
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
    fine: FineMemory,
    kept: Sequence[Tensor],
    coarse: Sequence[Tensor],
    *,
    weight: float,
    shrinkage: float,
    random: np.random.Generator,
    seed: int,
    progress: bool = True,
) -> None:
    """Fits the fine memory to fused tokens that were read already.

    Args:
        fine: on its device.
        kept: fused tokens (B, N, C) of good images, in batches.
        coarse: distance maps (B, 1, *, *) of the same images.
        weight: of the branch, see `FineMemory.calibrate`.
        shrinkage: of the whitening.
        random: of the choice of tokens.
        seed: of k-means.
        progress: whether to show a bar.
    """
    device = fine.gain.device

    def batches() -> Iterator[Tensor]:
        return (tokens.to(device).float() for tokens in kept)

    fine.whitening.fit(batches(), shrinkage)
    rows = _sampled(batches(), sum(len(tokens) for tokens in kept), random)
    fine.memory.fit(fine.whitening(rows), seed)
    if fine.position is not None:
        fine.position.fit(
            fine.raw_distance(tokens)
            for tokens in tqdm(batches(), desc="scale", total=len(kept), disable=not progress)
        )
    placed = torch.cat([fine.placed(tokens).cpu() for tokens in batches()])
    fine.calibrate(placed, torch.cat(list(coarse)), weight)


def _sampled(batches: Iterator[Tensor], images: int, random: np.random.Generator) -> Tensor:
    """As many tokens of each image, (n, C), of batches (B, N, C); at most about _TOKENS."""
    rows = []
    for tokens in batches:
        each = min(tokens.shape[1], max(_TOKENS // images, 1))
        for image in tokens:
            rows.append(image[torch.from_numpy(random.permutation(len(image))[:each])])
    return torch.cat(rows)
