"""What parts of the network that stand beside the coarse distance share: their unit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Evidence"]


class Evidence(nn.Module):
    """A map in the unit of the coarse distance, to be added to it; zero until `calibrate`."""

    offset: Tensor
    gain: Tensor

    def __init__(self, *, centred: bool = False) -> None:
        """Reserves offset and gain.

        Args:
            centred: the offset is the map's own mean over the image, not that of good images: then
                an image that is a little strange all over, by its light or its grain, is not worse
                for it.
        """
        super().__init__()
        self.centred = centred
        self.register_buffer("offset", torch.zeros(()))
        self.register_buffer("gain", torch.zeros(()))

    def weighed(self, placed: Tensor) -> Tensor:
        """A map (B, 1, h, w) in its own unit -> in that of the coarse distance."""
        offset = placed.mean(dim=(2, 3), keepdim=True) if self.centred else self.offset
        return self.gain * (placed - offset)

    @torch.no_grad()
    def calibrate(self, placed: Tensor, coarse: Tensor, weight: float) -> None:
        """Makes a standard deviation of this map worth `weight` of one of the coarse distance.

        Args:
            placed: (n, 1, h, w) in this map's own unit, of good images.
            coarse: (n, 1, *, *) of the same images.
            weight: of this map; 0 silences it.
        """
        self.offset.copy_(placed.mean())
        # identical images have no spread, and their rounding must not be blown up
        self.gain.copy_(weight * coarse.std() / placed.std().clamp(min=1e-3))
