"""The border: what the outermost tokens say beyond the usual counts less.

Their receptive fields see the zeros that the backbone's convolutions pad with, and neither the
interpolation nor the blur of the anomaly map averages them with neighbours on both sides: good
images have their highest peaks there. Up to what good images usually have, nothing changes, so that
a defect at the border still is where it is. It has no source in arXiv 2408.07490; it is ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Border"]

_UNREACHED = 1e4  # a limit that no distance has; FP16 holds it


class Border(nn.Module):
    """`d' = d - (1 - w) max(d - l, 0)` at the outermost tokens, `d' = d` elsewhere.

    w is the weight, l the limit. Until `fit` no distance reaches it, and the map is the identity.
    """

    limit: Tensor
    lost: Tensor

    def __init__(self, grid: tuple[int, int], *, weight: float, deviations: float) -> None:
        """Reserves the map.

        Args:
            grid: height and width of the distance map.
            weight: of what is beyond the limit, in [0, 1].
            deviations: of good images' distances, from their mean to the limit.
        """
        super().__init__()
        self.deviations = deviations
        inside = torch.zeros(max(grid[0] - 2, 0), max(grid[1] - 2, 0))
        lost = functional.pad(inside, (1, 1, 1, 1), value=1.0 - weight)
        self.register_buffer("lost", lost[: grid[0], : grid[1]], persistent=False)
        self.register_buffer("limit", torch.tensor(_UNREACHED))

    def forward(self, distance: Tensor) -> Tensor:
        """Distance maps (B, 1, grid height, grid width) -> the same shape."""
        return distance - self.lost * functional.relu(distance - self.limit)

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Sets the limit from distance maps (B, 1, grid height, grid width) of good images."""
        values = torch.cat([batch.flatten() for batch in batches]).double()
        self.limit.copy_(values.mean() + self.deviations * values.std(correction=0))
