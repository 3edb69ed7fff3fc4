"""Few-shot: may the copies of a few good images be mirrored and turned?

A mirrored cell of a solar panel is another good cell; a mirrored label is a wrong one. The good
images say which it is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from agp_edge.trainer.augment import changed_copies
from agp_edge.trainer.data import ImageReader
from agp_edge.trainer.judge import fit_judge

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from agp_edge.dataset import Sample
    from agp_edge.trainer.augment import ChangedSample
    from agp_edge.trainer.config import ModelConfig
    from agp_edge.trainer.model import AgpNet
    from agp_edge.trainer.weights import Pretrained

__all__ = ["choose_augment"]

_FIT, _JUDGED = 48, 16  # copies
# Ratio of mean distances up to which a turned image is no stranger than a shifted one.
_LIMIT = 1.15
_BATCH = 16
# Mirrored, quarter turns: what each step allows beyond the one before.
_STEPS = {
    "flip": ((True, 0), (True, 2), (False, 2)),
    "rotate": ((False, 1), (True, 1)),
}


@torch.no_grad()
def choose_augment(
    samples: Sequence[Sample],
    config: ModelConfig,
    new_model: Callable[[ModelConfig], tuple[AgpNet, Pretrained]],
    seed: int,
) -> tuple[str, str]:
    """One of AUGMENTS, and why.

    The judge (judge.py) learns shifted copies; an orientation is allowed where copies turned so are
    hardly farther from them than further shifted copies are.

    Args:
        samples: the good images.
        config: of the model.
        new_model: builds a network of a config, with pretrained weights.
        seed: of the copies.
    """
    model, pretrained = new_model(config)
    reader = ImageReader(config.height, config.width, pretrained.mean, pretrained.std)

    def tokens(copies: Sequence[ChangedSample]) -> list[Tensor]:
        return [
            model.fusion(model.backbone.first(reader.read(copies[start : start + _BATCH])))
            for start in range(0, len(copies), _BATCH)
        ]

    def distance(mirror: bool, turns: int) -> float:
        turned = [
            replace(copy, change=replace(copy.change, mirror=mirror, turns=turns))
            for copy in judged
        ]
        found = [model.whitened(batch).square().mean(dim=2).sqrt() for batch in tokens(turned)]
        return float(torch.cat(found).mean())

    fit_judge(model, config, tokens(changed_copies(samples, _FIT, "shift", seed, "train")))
    judged = changed_copies(samples, _JUDGED, "shift", seed, "threshold")
    usual = max(distance(False, 0), 1e-9)
    allowed, ratios = "shift", []
    for augment, ways in _STEPS.items():
        ratio = max(distance(mirror, turns) for mirror, turns in ways) / usual
        ratios.append(f"{augment} {ratio:.2f}")
        if ratio > _LIMIT:
            break
        allowed = augment
    return allowed, (
        f"copies: {allowed} (distance of turned good images to shifted ones, "
        f"{', '.join(ratios)}; up to {_LIMIT} is allowed; --augment decides otherwise)"
    )
