"""The fine map: what the first two layers alone find on the finest grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agp_edge.errors import ModelError
from agp_edge.trainer.evidence import Evidence
from agp_edge.trainer.fusion import Fusion, Whitening
from agp_edge.trainer.memory import Memory
from agp_edge.trainer.regions import Gaussians

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["Fine"]

_LAYERS = 2  # the first ones, which see thin structures


class Fine(Evidence):
    """Distance of fine tokens to good ones: to those of their region, or to the nearest prototype.

    Thin defects are small on the coarse grid, and few of its channels see them.
    """

    def __init__(
        self,
        channels: Sequence[int],
        grid: tuple[int, int],
        *,
        regions: int,
        prototypes: int,
        position: bool,
        centred: bool = False,
    ) -> None:
        """Builds the branch.

        Args:
            channels: of each of the backbone's layers, the finest first.
            grid: height and width of the fine grid.
            regions: along a side, as `Gaussians` takes them; 0: a memory stands in their place.
            prototypes: of the memory; 0: regions do.
            position: whether each position is brought to the same mean and spread.
            centred: whether the map's own mean over the image is taken off, see `Evidence`.

        Raises:
            ModelError: regions and prototypes are asked for, or neither.
        """
        super().__init__(grid, position=position, centred=centred)
        if bool(regions) == bool(prototypes):
            raise ModelError(
                f"the fine map has {regions} regions and {prototypes} prototypes; expected one of "
                "fine_regions and fine_memory to be 0, and both for no fine map"
            )
        self.fusion = Fusion(tuple(channels[:_LAYERS]), grid, pool=1, fuse="concat")
        self.whitening = Whitening(self.fusion.channels)
        self.known = (
            Gaussians(self.fusion.channels, grid, regions)
            if regions
            else Memory(self.fusion.channels, prototypes)
        )

    def tokens(self, features: list[Tensor]) -> Tensor:
        """Feature maps of the layers -> fused tokens (B, N, C) before whitening."""
        fused: Tensor = self.fusion(features[:_LAYERS])
        return fused

    def raw(self, tokens: Tensor) -> Tensor:
        """Fused tokens (B, N, C) -> distance (B, 1, *grid) before the position scaling."""
        return self.known.distance(self.whitening(tokens)).reshape(-1, 1, *self.grid)
