"""A network from its config: pretrained backbone, fresh decoder; and what tells backbones apart."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from agp_edge.trainer.backbone import DEPTHS, Backbone, backbone_options
from agp_edge.trainer.products import network
from agp_edge.trainer.second import SECOND_DEPTHS, Pair, second_shape
from agp_edge.trainer.weights import SOURCES, pretrained_model

if TYPE_CHECKING:
    from torch import nn

    from agp_edge.trainer.config import ModelConfig
    from agp_edge.trainer.model import AgpNet
    from agp_edge.trainer.weights import Pretrained

__all__ = ["frozen_backbone", "new_model", "tensor_digest"]


def new_model(config: ModelConfig, weights: str, seed: int) -> tuple[AgpNet, Pretrained]:
    """The untrained network on the CPU, and where its backbone's weights came from.

    Raises:
        ModelError, DependencyError: as `pretrained_model`, `Backbone` and `AgpNet` do.
    """
    torch.manual_seed(seed)  # for weights="random"
    backbone, pretrained = frozen_backbone(config, weights)
    torch.manual_seed(seed)  # the decoder's start must not depend on how the backbone was made
    return network(config, backbone), pretrained


def frozen_backbone(config: ModelConfig, weights: str) -> tuple[Backbone | Pair, Pretrained]:
    """What a network sees images through, on the CPU, and where its weights came from.

    Args:
        config: of the network.
        weights: as `pretrained_model` takes it; of two backbones "FIRST,SECOND", and of one alone
            for both, a file's for the first.

    Raises:
        ModelError, DependencyError: as `pretrained_model` and `Backbone` do.
    """
    given, comma, given_second = weights.partition(",")
    if not config.second_backbone:
        return _backbone(config.backbone, weights, config.layers, (config.height, config.width))
    if not comma:
        given_second = given if given in SOURCES else "auto"
    shape = second_shape(config.second_backbone, config.second_side, config.height, config.width)
    first, pretrained = _backbone(
        config.backbone, given, config.layers, (config.height, config.width)
    )
    second, own = _backbone(
        config.second_backbone, given_second, config.second_layers, shape, SECOND_DEPTHS
    )
    pair = Pair(first, second, shape)
    pair.normalise_as(pretrained, own)
    return pair, replace(pretrained, source=f"{pretrained.source}; {own.source}")


def _backbone(
    name: str,
    weights: str,
    layers: tuple[int, ...],
    shape: tuple[int, int],
    depths: tuple[float, ...] = DEPTHS,
) -> tuple[Backbone, Pretrained]:
    pretrained = pretrained_model(name, weights, **backbone_options(name, *shape))
    return Backbone(pretrained.model, name, layers, depths=depths), pretrained


def tensor_digest(module: nn.Module) -> str:
    """Hash of a module's tensors, "sha256:<hex>"."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"
