"""The network as it is deployed: normalised image (B, 3, H, W) -> distance map (B, 1, gh, gw).

No loss, no optimiser, no file, nothing of the perturbation branch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from agp_edge.errors import ModelError
from agp_edge.trainer.backbone import Backbone
from agp_edge.trainer.border import Border
from agp_edge.trainer.config import DECODERS, FITTED, ModelConfig
from agp_edge.trainer.decoder import MlpDecoder, TransformerDecoder
from agp_edge.trainer.discriminator import DISCRIMINATOR_LAYERS, Discriminator
from agp_edge.trainer.fine import Fine, FineMap, Patches
from agp_edge.trainer.fusion import Fusion, Whitening
from agp_edge.trainer.memory import Memory
from agp_edge.trainer.position import PositionScale
from agp_edge.trainer.regions import Gaussians
from agp_edge.trainer.second import Pair, Second

__all__ = ["AgpNet"]

_EPSILON = 1e-8


class AgpNet(nn.Module):
    """Frozen backbone, fusion, whitening, reconstruction, position scaling, fine maps, border."""

    decoder: Gaussians | Memory | TransformerDecoder | MlpDecoder
    whitening: Whitening | None
    position: PositionScale | None
    fine: Fine | None
    patches: Patches | None
    second: Second | None
    border: Border | None
    discriminator: Discriminator | None

    def __init__(self, config: ModelConfig, backbone: Backbone | Pair) -> None:
        """Builds the trained part round a backbone.

        Raises:
            ModelError: the input size does not fit the strides, or a setting is unknown.
        """
        super().__init__()
        stride = config.stride or (backbone.strides[0] if len(set(backbone.strides)) == 1 else 16)
        step = math.lcm(stride, *backbone.strides)
        if min(config.height, config.width) < step or config.height % step or config.width % step:
            raise ModelError(
                f"the input size {config.height}x{config.width} does not fit the backbone "
                f"'{config.backbone}'; give multiples of {step} pixels"
            )
        if config.distance not in ("l2", "cosine"):
            raise ModelError(f"distance is '{config.distance}'; expected l2 or cosine")
        self.stride = stride  # pixels between tokens
        self.grid = (config.height // stride, config.width // stride)
        self.distance_kind = config.distance
        self.backbone = backbone
        self.fusion = Fusion(
            backbone.channels,
            self.grid,
            pool=config.pool,
            normalise=config.normalise,
            fuse=config.fuse,
        )
        channels = self.fusion.channels
        self.whitening = Whitening(channels, config.components) if config.whiten else None
        if self.whitening is not None:
            channels = self.whitening.channels
        self.channels = channels  # of the target
        self.decoder = _decoder(config, channels, self.grid)
        self.position = PositionScale(self.grid) if config.position_scale else None
        self.discriminator = None
        if config.discriminators:
            deep = sum(backbone.channels[-DISCRIMINATOR_LAYERS:])
            self.discriminator = Discriminator(
                self.fusion.channels if self.fusion.sum else deep,
                self.grid,
                config.discriminators,
                config.discriminator_width,
                position=config.position_scale,
            )
        finest = min(backbone.strides)
        fine_grid = (config.height // finest, config.width // finest)
        self.fine = (
            Fine(
                backbone.channels,
                fine_grid,
                regions=config.fine_regions,
                region_images=config.region_images,
                prototypes=config.fine_memory,
                weight=config.fine_weight,
                position=config.position_scale,
                centred=config.fine_centred,
            )
            if (config.fine_regions or config.fine_memory) and finest < stride
            else None
        )
        self.patches = (
            Patches(
                backbone.channels,
                fine_grid,
                prototypes=config.patch_memory,
                weight=config.patch_weight,
                position=config.position_scale,
            )
            if config.patch_memory and finest < stride
            else None
        )
        fine = self.fine is not None or self.patches is not None
        self.output_grid = fine_grid if fine else self.grid  # of the distance map
        self.second = (
            Second(
                backbone,
                normalise=config.normalise,
                regions=config.regions,
                region_images=config.region_images,
                weight=config.second_weight,
                position=config.position_scale,
            )
            if isinstance(backbone, Pair)
            else None
        )
        self.border = (
            Border(fine_grid, config.border_deviations)
            if fine and config.border_deviations
            else None
        )

    def forward(self, image: Tensor) -> Tensor:
        """Distance map (B, 1, *output_grid) of images (B, 3, H, W); larger is worse."""
        return self.distance_map(self.backbone(image))

    def distance_map(self, features: list[Tensor]) -> Tensor:
        """Feature maps of the layers -> distance map (B, 1, *output_grid)."""
        tokens = self.fusion(features)
        distance = self.placed(self.whitened(tokens))
        if self.discriminator is not None:
            distance = distance + self.discriminator(tokens)
        distance = self.enlarged(distance)
        for fine in self.fine_maps():
            distance = distance + self.enlarged(fine(fine.tokens(features)))
        return distance if self.border is None else self.border(distance)

    def enlarged(self, distance: Tensor) -> Tensor:
        """A map (B, 1, gh, gw) on the output grid, (B, 1, *output_grid)."""
        if distance.shape[2:] == self.output_grid:
            return distance
        return functional.interpolate(
            distance, self.output_grid, mode="bilinear", align_corners=False
        )

    def fine_maps(self) -> tuple[FineMap, ...]:
        """The maps beside the coarse one that the network has."""
        maps = (self.fine, self.patches, self.second)
        return tuple(found for found in maps if found is not None)

    def reconstruction_map(self, features: list[Tensor]) -> Tensor:
        """Feature maps of the layers -> position-scaled distance map (B, 1, gh, gw)."""
        return self.placed(self.whitened(self.fusion(features)))

    def placed(self, target: Tensor) -> Tensor:
        """Target tokens (B, N, C) -> position-scaled distance map (B, 1, gh, gw)."""
        distance = self.raw_distance(target)
        return distance if self.position is None else self.position(distance)

    def raw_distance(self, target: Tensor) -> Tensor:
        """Target tokens (B, N, C) -> distance map (B, 1, gh, gw) before the position scaling."""
        if isinstance(self.decoder, Gaussians | Memory):
            distance = self.decoder.distance(target)
        else:
            distance = self.distance(target, self.decoder(target))
        return distance.reshape(-1, 1, *self.grid)

    def target(self, image: Tensor) -> Tensor:
        """Tokens (B, N, C) to be reconstructed."""
        return self.whitened(self.fusion(self.backbone(image)))

    def whitened(self, tokens: Tensor) -> Tensor:
        """Fused tokens (B, N, fusion.channels) -> target (B, N, C)."""
        return tokens if self.whitening is None else self.whitening(tokens)

    def distance(self, target: Tensor, reconstructed: Tensor) -> Tensor:
        """Per-token distance (B, N) of tokens (B, N, C).

        "l2" is the Euclidean norm (arXiv 2408.07490, second hand) over sqrt(C), so that its size
        does not depend on the width; "cosine" is 1 - cos, in [0, 2].
        """
        if self.distance_kind == "cosine":
            return 1.0 - functional.cosine_similarity(target, reconstructed, dim=2)
        return ((target - reconstructed).square().mean(dim=2) + _EPSILON).sqrt()

    def trained_state(self) -> dict[str, Tensor]:
        """The tensors that training sets: all but the backbone's."""
        state = self.state_dict()
        return {key: value for key, value in state.items() if not key.startswith("backbone.")}

    @torch.no_grad()
    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Sets what `trained_state` gave; the backbone stays."""
        missing, unexpected = self.load_state_dict(state, strict=False)
        missing = [key for key in missing if not key.startswith("backbone.")]
        if missing or unexpected:
            raise ModelError(
                f"the weights do not fit the model: missing {missing}, unknown {unexpected}"
            )


def _decoder(
    config: ModelConfig, channels: int, grid: tuple[int, int]
) -> Gaussians | Memory | TransformerDecoder | MlpDecoder:
    if config.decoder in FITTED and config.distance != "l2":
        raise ModelError(
            f"distance is '{config.distance}', and the decoder is '{config.decoder}', which "
            "has a distance of its own, l2; give another decoder or l2"
        )
    if config.decoder == "regions":
        return Gaussians(channels, grid, config.regions, images=config.region_images)
    if config.decoder == "memory":
        return Memory(channels, config.memory)
    if config.decoder == "transformer":
        return TransformerDecoder(
            channels,
            grid[0] * grid[1],
            width=config.decoder_width,
            depth=config.decoder_depth,
            heads=config.decoder_heads,
            bottleneck=config.bottleneck,
            dropout=config.dropout,
        )
    if config.decoder == "mlp":
        return MlpDecoder(
            channels,
            width=config.decoder_width,
            bottleneck=config.bottleneck,
            dropout=config.dropout,
        )
    raise ModelError(f"decoder is '{config.decoder}'; expected one of {DECODERS}")
