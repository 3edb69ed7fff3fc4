"""What parts of the network that stand beside the coarse distance share: their unit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agp_edge.trainer.position import PositionScale

__all__ = ["Evidence"]


class Evidence(nn.Module):
    """A map in the unit of the coarse distance, to be added to it; zero until `calibrate`.

    `e = g (p(raw) - o)`: p the position scaling, o and g offset and gain.
    """

    offset: Tensor
    gain: Tensor

    def __init__(self, grid: tuple[int, int], *, position: bool, centred: bool = False) -> None:
        """Reserves position scaling, offset and gain.

        Args:
            grid: height and width of the map.
            position: whether each position is brought to the same mean and spread.
            centred: the offset is the map's own mean over the image, not that of good images: then
                an image that is a little strange all over, by its light or its grain, is not worse
                for it.
        """
        super().__init__()
        self.grid = grid
        self.centred = centred
        self.position = PositionScale(grid) if position else None
        self.register_buffer("offset", torch.zeros(()))
        self.register_buffer("gain", torch.zeros(()))

    def raw(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, C) -> a map (B, 1, *grid) before the position scaling."""
        raise NotImplementedError

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, C) -> evidence (B, 1, *grid)."""
        return self.evidence(self.raw(tokens))

    def evidence(self, raw: Tensor) -> Tensor:
        """What `raw` gave, position-scaled and in the unit of the coarse distance."""
        placed = self.placed(raw)
        offset = placed.mean(dim=(2, 3), keepdim=True) if self.centred else self.offset
        return self.gain * (placed - offset)

    def placed(self, raw: Tensor) -> Tensor:
        """What `raw` gave, position-scaled."""
        return raw if self.position is None else self.position(raw)

    @torch.no_grad()
    def calibrate(self, raw: Tensor, coarse: Tensor, weight: float, *, copies: float = 1.0) -> None:
        """Fits the position scaling, and makes this map's standard deviation worth `weight`.

        Args:
            raw: (n, 1, *grid), what `raw` gives for good images.
            coarse: (n, 1, *, *), the coarse distance of the same images, whose standard deviation
                is the unit of `weight`.
            weight: of this map; 0 silences it.
            copies: see `PositionScale.fit`.
        """
        if self.position is not None:
            self.position.fit([raw], copies=copies)
        placed = self.placed(raw.to(self.gain.device))
        self.offset.copy_(placed.mean())
        # identical images have no spread, and their rounding must not be blown up
        self.gain.copy_(weight * coarse.std() / placed.std().clamp(min=1e-3))
