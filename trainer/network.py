"""A network from its config: pretrained backbone, fresh decoder; and what tells backbones apart."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

from agp_edge.trainer.backbone import Backbone, backbone_options
from agp_edge.trainer.products import network
from agp_edge.trainer.weights import pretrained_model

if TYPE_CHECKING:
    from torch import nn

    from agp_edge.trainer.config import ModelConfig
    from agp_edge.trainer.model import AgpNet
    from agp_edge.trainer.weights import Pretrained

__all__ = ["new_model", "tensor_digest"]


def new_model(config: ModelConfig, weights: str, seed: int) -> tuple[AgpNet, Pretrained]:
    """The untrained network on the CPU, and where its backbone's weights came from.

    Raises:
        ModelError, DependencyError: as `pretrained_model`, `Backbone` and `AgpNet` do.
    """
    torch.manual_seed(seed)  # for weights="random"
    options = backbone_options(config.backbone, config.height, config.width)
    pretrained = pretrained_model(config.backbone, weights, **options)
    backbone = Backbone(pretrained.model, config.backbone, config.layers)
    torch.manual_seed(seed)  # the decoder's start must not depend on how the backbone was made
    return network(config, backbone), pretrained


def tensor_digest(module: nn.Module) -> str:
    """Hash of a module's tensors, "sha256:<hex>"."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"
