"""The frozen backbone: normalised image (B, 3, H, W) -> feature maps of several layers."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import timm
import torch
from timm.models import EfficientNet, MobileNetV3
from torch import Tensor, nn

from agp_edge.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DEPTHS", "Backbone", "backbone_options"]

DEPTHS = (0.25, 0.5, 0.75)  # of a ViT's blocks; neighbour (ViTAD, arXiv 2312.07495): 3, 6, 9 of 12


class Backbone(nn.Module):
    """A timm model cut after the deepest layer that is asked for; its weights never change.

    Works for each timm model with `forward_intermediates`: CNNs (layers are stages) and ViTs
    (layers are blocks). Of EfficientNets and MobileNets all stages can be had, also those whose
    stride the next stage keeps, which timm's feature_info leaves out.
    """

    layers: tuple[int, ...]  # indices of `model.blocks` or of timm's feature_info
    channels: tuple[int, ...]  # of each layer
    strides: tuple[int, ...]  # pixels between the values of each layer
    model: Any  # timm's; its methods are not typed

    def __init__(
        self,
        model: Any,
        name: str,
        layers: tuple[int, ...] = (),
        *,
        depths: tuple[float, ...] = DEPTHS,
    ) -> None:
        """Takes over `model`, a full timm model, and cuts it.

        Args:
            model: as timm.create_model made it, with weights.
            name: timm's name, for messages.
            layers: indices of `model.blocks` (EfficientNet, MobileNet) or of timm's feature_info;
                (): all stages from stride 8 on but the last; the last ones of strides 8, 16 and 32
                of another CNN; of a ViT the blocks after `depths`.
            depths: shares of all blocks of a ViT.

        Raises:
            ModelError: timm's model gives no intermediate features, or lacks a layer.
        """
        super().__init__()
        if not hasattr(model, "forward_intermediates"):
            raise ModelError(f"backbone '{name}' cannot give intermediate features; choose another")
        self._by_stage = isinstance(model, EfficientNet | MobileNetV3)
        info = _stage_info(model) if self._by_stage else list(model.feature_info)
        self.layers = layers or (
            _default_stages(info) if self._by_stage else _default_layers(info, depths)
        )
        outside = [layer for layer in self.layers if not 0 <= layer < len(info)]
        if outside or list(self.layers) != sorted(set(self.layers)):
            raise ModelError(
                f"backbone '{name}' has the layers 0 to {len(info) - 1}; got {self.layers}, "
                "expected different ones in rising order"
            )
        self.channels = tuple(int(info[layer]["num_chs"]) for layer in self.layers)
        self.strides = tuple(int(info[layer]["reduction"]) for layer in self.layers)
        # what lies behind the deepest layer is dropped: it would be in the exported file
        if self._by_stage:
            model = nn.ModuleList(
                [model.conv_stem, model.bn1, *model.blocks[: max(self.layers) + 1]]
            )
        else:
            model.prune_intermediate_layers(list(self.layers), prune_norm=True, prune_head=True)
        self.model = model
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Backbone:
        """Stays in inference mode: batch normalisation keeps its pretrained statistics."""
        del mode
        return super().train(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Feature maps (B, channels[i], H / strides[i], W / strides[i]) of each layer."""
        if self._by_stage:
            stem, norm, *stages = self.model
            features = []
            value = norm(stem(image))
            for index, stage in enumerate(stages):
                value = stage(value)
                if index in self.layers:
                    features.append(value)
            return features
        intermediates: list[Tensor] = self.model.forward_intermediates(
            image, indices=list(self.layers), intermediates_only=True, output_fmt="NCHW"
        )
        return intermediates

    @torch.no_grad()
    def forward_with_attention(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The feature maps, and the self-attention of the blocks that have one.

        Returns:
            Features as `forward` gives them, and softmax attention (B, heads, T, T) of each block
            up to the deepest layer; T counts prefix tokens too. No attention for a CNN.
        """
        with _recorded_attention(self.model) as maps:
            features = self(image)
        return features, maps

    @property
    def first(self) -> Backbone:
        """Itself; of two backbones (`Pair`) the one whose tokens the decoder rebuilds."""
        return self

    @property
    def prefix_tokens(self) -> int:
        """How many tokens (class, registers) stand before the image's."""
        return int(getattr(self.model, "num_prefix_tokens", 0))


def backbone_options(name: str, height: int, width: int) -> dict[str, Any]:
    """Arguments of timm.create_model that fix the input size; a ViT needs them, a CNN has none."""
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        return {"img_size": (height, width)}
    return {}


@torch.no_grad()
def _stage_info(model: Any) -> list[dict[str, Any]]:
    """Channels and strides of `model.blocks`, as feature_info has them for some of the stages."""
    size = 64  # a multiple of all strides
    model.eval()
    value = model.bn1(model.conv_stem(torch.zeros(1, 3, size, size)))
    info = []
    for stage in model.blocks:
        value = stage(value)
        info.append({"num_chs": value.shape[1], "reduction": size // value.shape[2]})
    return info


def _default_stages(info: list[dict[str, Any]]) -> tuple[int, ...]:
    # The last one serves the classifier: wide, coarse, and without it good and bad were told apart
    # better (solar cells; synthetic defects on good parts) and localised better.
    return tuple(i for i, stage in enumerate(info[:-1]) if stage["reduction"] >= 8)


def _default_layers(info: list[dict[str, Any]], depths: tuple[float, ...]) -> tuple[int, ...]:
    strides = [int(layer["reduction"]) for layer in info]
    if len(set(strides)) > 1:
        return tuple(
            index
            for index, stride in enumerate(strides)
            # the last layer of each of these strides
            if stride in (8, 16, 32) and stride not in strides[index + 1 :]
        )
    depth = len(strides)
    return tuple(sorted({max(round(depth * share) - 1, 0) for share in depths}))


@contextmanager
def _recorded_attention(model: Any) -> Iterator[list[Tensor]]:
    """Records softmax attention (B, heads, T, T) of every block that runs inside.

    timm's fused attention never has the matrix; with it off, the matrix passes `attn_drop`.
    """
    maps: list[Tensor] = []
    fused: list[tuple[Any, bool]] = []
    handles = []
    for module in model.modules():
        if isinstance(getattr(module, "attn_drop", None), nn.Module):
            if hasattr(module, "fused_attn"):
                fused.append((module, bool(module.fused_attn)))
                module.fused_attn = False
            handles.append(
                module.attn_drop.register_forward_hook(
                    lambda _module, _inputs, output: maps.append(output.detach())
                )
            )
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()
        for module, value in fused:
            module.fused_attn = value
