"""The border: false peaks of the outermost tokens count no more than those inside.

The receptive fields of the outermost tokens see the zeros that the backbone's convolutions pad
with, and neither the interpolation nor the blur of the anomaly map averages them with neighbours on
both sides. On most products good images have their highest peaks there, and the score looks for
peaks. How much less they have to count is read from the good images; up to what these usually have,
nothing changes, so that a defect at the border still is where it is. It has no source in
arXiv 2408.07490; it is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from agp_edge.errors import ModelError

__all__ = ["Border"]

_UNREACHED = 1e4  # a limit that no distance has; FP16 holds it


class Border(nn.Module):
    """`d' = d - (1 - w) max(d - l, 0)` at the outermost tokens, `d' = d` elsewhere.

    l is the limit; w, at most 1, gives the outermost tokens of good images the same mean excess
    `max(d' - l, 0)` as those inside have. Until `fit` the map is the identity.
    """

    limit: Tensor
    weight: Tensor
    outermost: Tensor

    def __init__(self, grid: tuple[int, int], deviations: float) -> None:
        """Reserves the map.

        Args:
            grid: height and width of the distance map.
            deviations: standard deviations of good images' distances, from their mean to the limit;
                more than 0.

        Raises:
            ModelError: `deviations` is not more than 0.
        """
        super().__init__()
        if not deviations > 0.0:
            raise ModelError(
                f"border_deviations is {deviations}; expected more than 0, or 0 for no border"
            )
        self.deviations = deviations
        outermost = torch.ones(grid)
        outermost[1:-1, 1:-1] = 0.0
        self.register_buffer("outermost", outermost, persistent=False)
        self.register_buffer("limit", torch.tensor(_UNREACHED))
        self.register_buffer("weight", torch.ones(()))

    def forward(self, distance: Tensor) -> Tensor:
        """Distance maps (B, 1, grid height, grid width) -> the same shape."""
        lost = (1.0 - self.weight) * self.outermost
        return distance - lost * functional.relu(distance - self.limit)

    @torch.no_grad()
    def fit(self, distance: Tensor) -> None:
        """Sets limit and weight from distance maps (n, 1, *grid) of good images."""
        values = distance.double()
        limit = values.mean() + self.deviations * values.std(correction=0)
        excess = functional.relu(values - limit)
        outermost = self.outermost.bool().to(excess.device)
        there, inside = excess[..., outermost], excess[..., ~outermost]
        # with nothing to compare, or no peaks at the border, all stays as it is
        comparable = inside.numel() > 0 and bool(there.any())
        self.weight.fill_(min(1.0, float(inside.mean() / there.mean())) if comparable else 1.0)
        self.limit.copy_(limit)
