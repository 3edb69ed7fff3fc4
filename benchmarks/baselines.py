"""Detectors to stand beside AGPNet, on the same frozen features, images and postprocessing.

Reads a checkpoint for its backbone, fusion and whitening, and images; gives a score and an anomaly
map per image. Nothing here is exported: a memory bank is no network of fixed size.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from agp_edge import _core
from agp_edge.trainer.checkpoint import Checkpoint, load_model
from agp_edge.trainer.config import postprocess_spec
from agp_edge.trainer.data import ImageReader
from agp_edge.trainer.model import AgpNet
from agp_edge.trainer.position import PositionScale

# Distance maps (B, gh, gw) of tokens before whitening (B, N, C).
Distance = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Scores:
    """What a detector said about some images, in their order."""

    values: NDArray[np.float64]
    maps: list[NDArray[np.float32]]


def baseline_scores(
    checkpoint: Path, train: Sequence[Path], test: Sequence[Path], *, bank: int, seed: int
) -> dict[str, Scores]:
    """Scores of all baselines over `test`, each image read once.

    - "nearest neighbours": Euclidean distance to the nearest of `bank` random tokens of `train`;
    - "gaussian": norm of the whitened token, its Mahalanobis distance to the mean: AGPNet whose
      decoder gives zero, before the position scaling;
    - "gaussian, scaled": the same after a position scaling of its own.

    Args:
        checkpoint: of an AGPNet: gives backbone, layers, fusion, whitening, input and blur.
        train: good images; all of them fill the bank and set the scaling.
        test: images to be scored.
        bank: number of tokens kept.
        seed: of the choice of these tokens.
    """
    model, info = load_model(checkpoint)
    chosen = _bank(model, info, train, bank, seed)
    scale = PositionScale(model.grid)
    scale.fit(_gaussian(model)(tokens) for tokens in _tokens(model, info, train, "scale"))
    ways: dict[str, Distance] = {
        "nearest neighbours": lambda tokens: _nearest(tokens, chosen).reshape(-1, *model.grid),
        "gaussian": _gaussian(model),
        "gaussian, scaled": lambda tokens: scale(_gaussian(model)(tokens)),
    }
    found: dict[str, tuple[list[float], list[NDArray[np.float32]]]] = {
        name: ([], []) for name in ways
    }
    postprocessor = _postprocessor(model, info)
    for tokens in _tokens(model, info, test, "baselines"):
        for name, distance in ways.items():
            for grid in distance(tokens).numpy():
                result = postprocessor.run(np.ascontiguousarray(grid), outputs=1)
                assert result.anomaly_map is not None
                found[name][0].append(result.score)
                found[name][1].append(result.anomaly_map)
    return {name: Scores(np.array(values), maps) for name, (values, maps) in found.items()}


def _gaussian(model: AgpNet) -> Distance:
    def distance(tokens: Tensor) -> Tensor:
        target = model.whitened(tokens)
        return model.distance(target, torch.zeros_like(target)).reshape(-1, *model.grid)

    return distance


def _nearest(tokens: Tensor, bank: Tensor) -> Tensor:
    # |a - b|^2 = |a|^2 - 2 a.b + |b|^2: one matrix product; rounding can leave it below zero
    squared = tokens.square().sum(-1) + (bank.square().sum(-1) - 2 * tokens @ bank.T).amin(dim=-1)
    return squared.clamp(min=0).sqrt()


def _bank(model: AgpNet, info: Checkpoint, train: Sequence[Path], size: int, seed: int) -> Tensor:
    positions = model.grid[0] * model.grid[1]
    generator = np.random.default_rng(seed)
    total = len(train) * positions
    kept = np.sort(generator.choice(total, min(size, total), replace=False))
    rows, start = [], 0
    for tokens in _tokens(model, info, train, "bank"):
        stop = start + len(tokens) * positions
        inside = kept[(kept >= start) & (kept < stop)] - start
        rows.append(tokens.flatten(0, 1)[torch.from_numpy(inside)])
        start = stop
    return torch.cat(rows)


@torch.no_grad()
def _tokens(model: AgpNet, info: Checkpoint, paths: Sequence[Path], title: str) -> Iterator[Tensor]:
    """Fused tokens before whitening, (B, N, C), of all images in order."""
    reader = ImageReader(info.model.height, info.model.width, info.mean, info.std)
    starts = range(0, len(paths), 16)
    for start in tqdm(starts, desc=title, leave=False, disable=not sys.stderr.isatty()):
        yield model.fusion(model.backbone(reader.read(paths[start : start + 16])))


def _postprocessor(model: AgpNet, info: Checkpoint) -> _core.Postprocessor:
    return postprocess_spec(info.model).native(model.grid, (info.model.height, info.model.width))
