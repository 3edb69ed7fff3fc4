"""The fine maps: what the first layers alone find on the finest grid.

Thin defects are small on the coarse grid, and few of its channels see them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agp_edge.errors import ModelError
from agp_edge.trainer.evidence import Evidence
from agp_edge.trainer.fusion import Centring, Fusion, Whitening
from agp_edge.trainer.memory import Memory
from agp_edge.trainer.regions import Gaussians

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["Fine", "FineMap", "Patches"]


class FineMap(Evidence):
    """Distance of fine tokens to good ones: `fusion`, then `geometry`, then what is `known`."""

    def __init__(
        self,
        grid: tuple[int, int],
        *,
        layers: int,
        fusion: Fusion,
        geometry: Centring | Whitening,
        known: Gaussians | Memory,
        weight: float,
        position: bool,
        centred: bool,
    ) -> None:
        """Puts the parts together.

        Args:
            grid: height and width of the fine grid.
            layers: how many of the first ones are seen.
            fusion: of these layers.
            geometry: the fixed map of their tokens.
            known: of good tokens in that geometry.
            weight: what a standard deviation of the map on good images is worth, in those of the
                coarse distance; used by `Evidence.calibrate` alone.
            position: whether each position is brought to the same mean and spread.
            centred: whether the map's own mean over the image is taken off, see `Evidence`.
        """
        super().__init__(grid, position=position, centred=centred)
        self.layers = layers
        self.weight = weight
        self.fusion = fusion
        self.geometry = geometry
        self.known = known

    def tokens(self, features: list[Tensor]) -> Tensor:
        """Feature maps of all layers -> fused tokens (B, N, C)."""
        fused: Tensor = self.fusion(features[: self.layers])
        return fused

    def raw(self, tokens: Tensor) -> Tensor:
        """Fused tokens (B, N, C) -> distance (B, 1, *grid) before the position scaling."""
        return self.known.distance(self.geometry(tokens)).reshape(-1, 1, *self.grid)


class Fine(FineMap):
    """Whitened tokens of two layers, by the good ones of their region or the nearest prototype."""

    LAYERS = 2

    def __init__(
        self,
        channels: Sequence[int],
        grid: tuple[int, int],
        *,
        regions: int,
        region_images: float = 0.0,
        prototypes: int,
        weight: float,
        position: bool,
        centred: bool = False,
    ) -> None:
        """Builds the branch.

        Args:
            channels: of each of the backbone's layers, the finest first.
            grid: height and width of the fine grid.
            regions: along a side, as `Gaussians` takes them; 0: a memory stands in their place.
            region_images: as `Gaussians` takes them.
            prototypes: of the memory; 0: regions do.
            weight: see `FineMap`.
            position: whether each position is brought to the same mean and spread.
            centred: whether the map's own mean over the image is taken off, see `Evidence`.

        Raises:
            ModelError: regions and prototypes are asked for, or neither.
        """
        if bool(regions) == bool(prototypes):
            raise ModelError(
                f"the fine map has {regions} regions and {prototypes} prototypes; expected one of "
                "fine_regions and fine_memory to be 0, and both for no fine map"
            )
        fusion = Fusion(tuple(channels[: self.LAYERS]), grid, pool=1, fuse="concat")
        super().__init__(
            grid,
            layers=self.LAYERS,
            fusion=fusion,
            geometry=Whitening(fusion.channels),
            known=Gaussians(fusion.channels, grid, regions, images=region_images)
            if regions
            else Memory(fusion.channels, prototypes),
            weight=weight,
            position=position,
            centred=centred,
        )


class Patches(FineMap):
    """Patches of the first layer as the backbone gives them, by the nearest prototype.

    The patch of PatchCore (arXiv 2106.08265): the mean over 3 x 3 neighbours. Whitening makes all
    directions count alike, and normalising a token takes its strength away; here what changes much
    counts much.
    """

    LAYERS = 1
    POOL = 3

    def __init__(
        self,
        channels: Sequence[int],
        grid: tuple[int, int],
        *,
        prototypes: int,
        weight: float,
        position: bool,
    ) -> None:
        """Builds the branch.

        Args:
            channels: of each of the backbone's layers, the finest first.
            grid: height and width of the fine grid.
            prototypes: how many; at least 1.
            weight: see `FineMap`.
            position: whether each position is brought to the same mean and spread.
        """
        fusion = Fusion(
            tuple(channels[: self.LAYERS]), grid, pool=self.POOL, normalise="none", fuse="concat"
        )
        super().__init__(
            grid,
            layers=self.LAYERS,
            fusion=fusion,
            geometry=Centring(fusion.channels),
            known=Memory(fusion.channels, prototypes),
            weight=weight,
            position=position,
            centred=False,
        )
