"""One network for several products, none named at inference: each has its own branch.

The backbone is shared. Every product's branch sees the image, and the one that it is nearest to
answers: tiles are far from each branch of solar cells, also where the tile is defective. One branch
of all products in one geometry loses what makes that geometry worth it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from agp_edge.errors import ModelError
from agp_edge.trainer.config import FITTED
from agp_edge.trainer.model import AgpNet

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agp_edge.trainer.backbone import Backbone
    from agp_edge.trainer.config import ModelConfig
    from agp_edge.trainer.second import Pair

__all__ = ["ProductsNet", "network"]


class ProductsNet(nn.Module):
    """A backbone and a branch per product, whose maps are brought to one scale."""

    mean: Tensor
    spread: Tensor

    def __init__(self, config: ModelConfig, backbone: Backbone | Pair) -> None:
        """Builds `config.products` branches round a backbone.

        Raises:
            ModelError: as `AgpNet`.
        """
        super().__init__()
        self.backbone = backbone
        own = replace(config, products=1)
        branches = [AgpNet(own, backbone) for _ in range(config.products)]
        self.grid = branches[0].grid
        self.output_grid = branches[0].output_grid
        for branch in branches:
            del branch.backbone  # it would be in the file once per product
        self.branches = nn.ModuleList(branches)
        self.register_buffer("mean", torch.zeros(config.products))
        self.register_buffer("spread", torch.ones(config.products))

    def forward(self, image: Tensor) -> Tensor:
        """Distance map (B, 1, *output_grid) of images (B, 3, H, W); larger is worse."""
        return self.distance_map(self.backbone(image))

    def distance_map(self, features: list[Tensor]) -> Tensor:
        """Feature maps of the layers -> distance map (B, 1, *output_grid) of the nearest branch."""
        nearest, least = self._scaled(0, features)
        for index in range(1, len(self.branches)):
            found, far = self._scaled(index, features)
            nearest = torch.where(far < least, found, nearest)
            least = torch.minimum(far, least)
        return self.mean.mean() + self.spread.mean() * nearest

    def _scaled(self, index: int, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """A branch's map in deviations of its own good images, and the mean of it (B, 1, 1, 1)."""
        distance = self.branches[index].distance_map(features)
        found = (distance - self.mean[index]) / self.spread[index]
        return found, found.mean(dim=(2, 3), keepdim=True)

    @torch.no_grad()
    def set_branch(self, index: int, state: dict[str, Tensor], images: Iterable[Tensor]) -> None:
        """Sets a branch from what `AgpNet.trained_state` gave, and its scale.

        Args:
            index: of the product.
            state: of a network of that product alone.
            images: some of its good images, (B, 3, H, W).
        """
        branch = self.branches[index]
        branch.load_trained_state(state)
        found = torch.cat([branch.distance_map(self.backbone(batch)) for batch in images])
        self.mean[index] = found.mean()
        # identical images have no spread
        self.spread[index] = found.std().clamp(min=1e-3)

    def trained_state(self) -> dict[str, Tensor]:
        """The tensors that training sets: all but the backbone's."""
        state = self.state_dict()
        return {key: value for key, value in state.items() if not key.startswith("backbone.")}


def network(config: ModelConfig, backbone: Backbone | Pair) -> AgpNet | ProductsNet:
    """The network of a config, for one product or several.

    Raises:
        ModelError: as `AgpNet`, or several products have a decoder that is trained.
    """
    if config.products == 1:
        return AgpNet(config, backbone)
    if config.products < 1 or config.decoder not in FITTED:
        raise ModelError(
            f"products is {config.products} with the decoder '{config.decoder}'; expected 1, or "
            f"more with one of the decoders {FITTED}"
        )
    return ProductsNet(config, backbone)
