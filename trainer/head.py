"""The perturbation head: feature maps of several layers -> where an image looks perturbed.

AGPNet perturbs images to train its reconstruction (arXiv 2408.07490) and forgets where. The head
learns it: from the same frozen layers it tells perturbed from untouched tokens, which is the
discriminator of DRAEM (arXiv 2108.07610) and SimpleNet (arXiv 2303.15140) in a few convolutions.
Its logit is brought to the scale of the reconstruction's distance and added. The combination and
its scales are ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from agp_edge.trainer.fusion import to_grid
from agp_edge.trainer.position import PositionScale

__all__ = ["PerturbationHead"]

_RARE = -3.0  # logit before training: few tokens are perturbed
_EPSILON = 1e-6
# Of the logits: a head that learned nothing is not blown up, and its rounding neither.
_LEAST_SPREAD = 0.1


class PerturbationHead(nn.Module):
    """`e = g (p(logit) - o)`, p the position scaling; zero until it is calibrated."""

    offset: Tensor
    gain: Tensor

    def __init__(
        self, channels: tuple[int, ...], grid: tuple[int, int], width: int, *, position: bool
    ) -> None:
        """Builds the head.

        Args:
            channels: of each feature map.
            grid: height and width of the map of logits; larger feature maps are averaged, smaller
                ones interpolated.
            width: channels inside.
            position: whether each position's logits are brought to the same mean and spread.
        """
        super().__init__()
        self.grid = grid
        for index, count in enumerate(channels):
            # of the training alone: `fold` puts them into the projections
            self.register_buffer(f"mean_{index}", torch.zeros(1, count, 1, 1), persistent=False)
            self.register_buffer(f"scale_{index}", torch.ones(1, count, 1, 1), persistent=False)
        # one bias is enough: the projections are summed
        self.project = nn.ModuleList(
            nn.Conv2d(count, width, 1, bias=index == 0) for index, count in enumerate(channels)
        )
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.exit = nn.Conv2d(width, 1, 1)
        nn.init.zeros_(self.exit.weight)
        assert self.exit.bias is not None  # for the type checker
        nn.init.constant_(self.exit.bias, _RARE)
        self.position = PositionScale(grid) if position else None
        self.register_buffer("offset", torch.zeros(()))
        self.register_buffer("gain", torch.zeros(()))

    def forward(self, features: list[Tensor]) -> Tensor:
        """Evidence (B, 1, gh, gw) in the distance's unit, to be added to it."""
        return self.gain * (self.placed(self.logits(features)) - self.offset)

    def logits(self, features: list[Tensor]) -> Tensor:
        """Log odds (B, 1, gh, gw) that a token is perturbed, from feature maps (B, C_l, h, w)."""
        hidden: Tensor | None = None
        for index, (feature, project) in enumerate(zip(features, self.project, strict=True)):
            values = feature
            if self.training:
                mean, scale = self.get_buffer(f"mean_{index}"), self.get_buffer(f"scale_{index}")
                values = (feature - mean) * scale
            projected = to_grid(project(values), self.grid)
            hidden = projected if hidden is None else hidden + projected
        assert hidden is not None  # for the type checker: there is a layer
        mixed = functional.gelu(self.mix(functional.gelu(hidden)))
        logits: Tensor = self.exit(mixed)
        return logits

    def placed(self, logits: Tensor) -> Tensor:
        """Logits (B, 1, gh, gw) after the position scaling."""
        return logits if self.position is None else self.position(logits)

    @torch.no_grad()
    def standardise(self, features: list[Tensor]) -> None:
        """Fits each channel's mean and spread to feature maps (B, C_l, h, w) of good images."""
        for index, feature in enumerate(features):
            values = feature.float()
            mean = values.mean(dim=(0, 2, 3), keepdim=True)
            spread = values.std(dim=(0, 2, 3), keepdim=True)
            # a channel that hardly moves carries no signal that may be blown up
            spread = spread.clamp(min=0.05 * float(spread.mean()) + _EPSILON)
            self.get_buffer(f"mean_{index}").copy_(mean)
            self.get_buffer(f"scale_{index}").copy_(1.0 / spread)

    @torch.no_grad()
    def fold(self) -> None:
        """Puts the standardisation into the projections, which then take features as they are.

        Ends the training: from here on the head is used in inference mode.
        """
        first = self.project[0]
        assert isinstance(first, nn.Conv2d)  # for the type checker: ModuleList forgets it
        assert first.bias is not None
        for index, project in enumerate(self.project):
            assert isinstance(project, nn.Conv2d)
            mean, scale = self.get_buffer(f"mean_{index}"), self.get_buffer(f"scale_{index}")
            project.weight.mul_(scale)
            # a constant passes averaging and interpolation
            first.bias.sub_((project.weight * mean).sum(dim=(1, 2, 3)))
            mean.zero_()
            scale.fill_(1.0)
        self.eval()

    @torch.no_grad()
    def calibrate(self, logits: Tensor, distance: Tensor, weight: float) -> None:
        """Makes a standard deviation of the logits worth `weight` of one of the distance.

        Args:
            logits: (n, 1, gh, gw) after the position scaling, of good images that the head was not
                trained on, where there are any.
            distance: (n, 1, *, *) of the same images.
            weight: of the head beside the reconstruction; 0 silences it.
        """
        self.offset.copy_(logits.mean())
        self.gain.copy_(weight * distance.std() / logits.std().clamp(min=_LEAST_SPREAD))
