"""What the fine maps learn from: good images -> geometry, regions or prototypes, scales.

Numbers of tokens and images are bounded, so that memory and time do not grow with the data set.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from agp_edge.dataset import part_of
from agp_edge.trainer.augment import copies_of_each
from agp_edge.trainer.checkpoint import load_model, write_checkpoint
from agp_edge.trainer.decoder_fitting import folds_of, sampled_tokens
from agp_edge.trainer.fusion import Whitening
from agp_edge.trainer.memory import Memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from agp_edge.dataset import Sample
    from agp_edge.trainer.data import ImageReader
    from agp_edge.trainer.fine import FineMap
    from agp_edge.trainer.model import AgpNet

__all__ = ["add_fine", "fit_fine", "fit_fine_tokens"]

_IMAGES = 1024  # that the fine maps see at most
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
    """Fits the fine maps of a run's checkpoint, where it has some that are not, and writes it.

    Args:
        folder: of the run, whose checkpoint has all but this.
        samples: good images; one that comes twice counts once.
        reader: of the images.
        on: the device.
        progress: whether to show a bar.
    """
    model, checkpoint = load_model(folder)
    fine_maps = model.fine_maps()
    if not fine_maps or (checkpoint.finished and float(fine_maps[-1].gain) != 0.0):
        return
    fit_fine(
        model.to(on),
        samples,
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
    shrinkage: float,
    seed: int,
    reader: ImageReader,
    progress: bool = True,
) -> None:
    """Fits the fine maps and the border; the rest is fitted already.

    Args:
        model: on its device.
        samples: good images.
        shrinkage: of the whitening.
        seed: of the choice of images and tokens and of k-means.
        reader: of the images.
        progress: whether to show a bar.
    """
    fine_maps = model.fine_maps()
    device = next(model.parameters()).device
    random = np.random.default_rng([seed, 17])
    # fp16, as in the feature cache
    numbers = sum(fine.grid[0] * fine.grid[1] * fine.fusion.channels for fine in fine_maps)
    most = max(1, min(_IMAGES, _BYTES // (2 * numbers)))
    distinct = list(dict.fromkeys(samples))
    chosen = [distinct[index] for index in np.sort(random.permutation(len(distinct))[:most])]
    kept: list[list[Tensor]] = [[] for _ in fine_maps]
    coarse: list[Tensor] = []
    for _, images in reader.batches(chosen, _BATCH, desc="fine map", progress=progress):
        layers = model.backbone(images.to(device))
        for fine, own in zip(fine_maps, kept, strict=True):
            own.append(fine.tokens(layers).to("cpu", torch.float16))
        coarse.append(model.reconstruction_map(layers).cpu())
    fit_fine_tokens(
        model,
        kept,
        coarse,
        shrinkage=shrinkage,
        random=random,
        seed=seed,
        copies=copies_of_each(chosen),
        folds=folds_of([part_of(sample) for sample in chosen], seed),
        progress=progress,
    )


@torch.no_grad()
def fit_fine_tokens(
    model: AgpNet,
    kept: Sequence[Sequence[Tensor]],
    coarse: Sequence[Tensor],
    *,
    shrinkage: float,
    random: np.random.Generator,
    seed: int,
    copies: float = 1.0,
    folds: NDArray[np.intp] | None = None,
    progress: bool = True,
) -> None:
    """Fits geometry, regions or prototypes and scales of the fine maps, and the border after them.

    Args:
        model: on its device.
        kept: for each fine map its fused tokens (B, N, C) of good images, in batches.
        coarse: distance maps (B, 1, gh, gw) of the same images, in the same batches.
        shrinkage: of the whitening.
        random: of the choice of tokens.
        seed: of k-means.
        copies: see `PositionScale.fit`.
        folds: of the images, as `Gaussians.fit` takes them.
        progress: whether to show bars.
    """
    unit = torch.cat(list(coarse))
    total = [model.enlarged(distance.cpu()) for distance in coarse]
    for fine, own in zip(model.fine_maps(), kept, strict=True):
        _fit_map(fine, own, shrinkage=shrinkage, random=random, seed=seed, folds=folds)
        raw = [
            fine.raw(tokens.to(fine.gain.device).float()).cpu()
            for tokens in tqdm(own, desc="scale", disable=not progress)
        ]
        fine.calibrate(torch.cat(raw), unit, fine.weight, copies=copies)
        scaled = (model.enlarged(fine.evidence(found.to(fine.gain.device)).cpu()) for found in raw)
        total = [distance + found for distance, found in zip(total, scaled, strict=True)]
    if model.border is not None:
        model.border.fit(torch.cat(total))


def _fit_map(
    fine: FineMap,
    kept: Sequence[Tensor],
    *,
    shrinkage: float,
    random: np.random.Generator,
    seed: int,
    folds: NDArray[np.intp] | None,
) -> None:
    """Geometry, and regions or prototypes in it."""
    device = fine.gain.device

    def batches() -> Iterator[Tensor]:
        return (tokens.to(device).float() for tokens in kept)

    if isinstance(fine.geometry, Whitening):
        fine.geometry.fit(batches(), shrinkage)
    else:
        fine.geometry.fit(batches())
    if isinstance(fine.known, Memory):
        rows = sampled_tokens(batches(), sum(len(tokens) for tokens in kept), random)
        fine.known.fit(fine.geometry(rows), seed)
    else:
        fine.known.fit((fine.geometry(tokens) for tokens in batches()), folds)
