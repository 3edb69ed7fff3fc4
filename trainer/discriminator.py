"""Discriminators: small networks that tell good tokens from good tokens under noise.

What the perturbation of AGPNet (arXiv 2408.07490) is used for there, to teach a decoder, is used
here to teach a judge, the idea of SimpleNet (arXiv 2303.15140): where good tokens are dense, noise
leads away from them, and a network that sees this sees other departures too. Half of the members
learn noise that is alike everywhere, half learn attention-guided noise, each of another strength;
together they are one perceptron with a single output. They look at the deepest layers alone and err
differently from the distance, which is what they are added for.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from agp_edge.errors import ModelError
from agp_edge.trainer.evidence import Evidence
from agp_edge.trainer.fusion import Whitening

if TYPE_CHECKING:
    from agp_edge.trainer.config import TrainConfig

__all__ = ["DISCRIMINATOR_LAYERS", "Discriminator"]

DISCRIMINATOR_LAYERS = 2  # the last ones of those that are concatenated
_SHRINKAGE = 0.01  # of their whitening
_WARM_UP = 20  # steps
_SCORED = 16_384  # tokens that set the members' units
# Guided noise where the mask is zero, in units of what the mask adds where it is one.
_LEAST_GUIDED = 1.0 / 6.0


class Discriminator(Evidence):
    """Several small perceptrons as one; its `raw` is the mean of their standardised logits."""

    def __init__(
        self, channels: int, grid: tuple[int, int], members: int, width: int, *, position: bool
    ) -> None:
        """Builds the networks.

        Args:
            channels: of a fused token, the last ones, that they look at.
            grid: height and width of the token grid.
            members: how many there are.
            width: channels of each member's hidden layer.
            position: whether each position is brought to the same mean and spread.

        Raises:
            ModelError: there is no member, or it has no width.
        """
        super().__init__(grid, position=position)
        if min(members, width) < 1:
            raise ModelError(
                f"{members} discriminators of width {width} were asked for; expected at least 1"
            )
        self.channels = channels
        self.members = members
        self.width = width
        self.hidden = nn.Linear(channels, members * width)  # the whitening is folded into it
        self.output = nn.Linear(members * width, 1)

    def raw(self, tokens: Tensor) -> Tensor:
        """Fused tokens (B, N, C) -> mean of the standardised logits, (B, 1, *grid)."""
        seen = tokens[:, :, tokens.shape[2] - self.channels :]
        logit: Tensor = self.output(functional.gelu(self.hidden(seen)))
        return logit.reshape(-1, 1, *self.grid)

    def fit(self, tokens: Tensor, mask: Tensor, config: TrainConfig) -> None:
        """Trains the members on tokens of good images, each by itself.

        `t' = t + s E a / rms(a)`, t whitened, E Gaussian, s the member's strength; a is 1 for every
        other member and `mask + 1/6` for those between: the same energy, more of it where the mask
        is large.

        Args:
            tokens: fused, (n, C).
            mask: (n,) in [0, 1], of the tokens.
            config: strengths, steps, batch, rate and seed.
        """
        device = tokens.device
        random = torch.Generator(device).manual_seed(config.seed)
        fused = tokens[:, tokens.shape[1] - self.channels :]
        whitening = Whitening(self.channels).to(device)
        whitening.fit([fused], _SHRINKAGE)
        white = whitening(fused)
        strengths, guided = self._noises(config)
        strength = torch.tensor(strengths, device=device).reshape(-1, 1, 1)
        is_guided = torch.tensor(guided, device=device).reshape(-1, 1, 1)
        amount = mask.reshape(-1, 1).to(device) + _LEAST_GUIDED
        amount = amount / amount.square().mean().sqrt()

        def normal(*shape: int, deviation: float = 1.0) -> Tensor:
            return deviation * torch.randn(*shape, generator=random, device=device)

        first = normal(self.members, self.channels, self.width, deviation=self.channels**-0.5)
        last = normal(self.members, self.width, 1, deviation=self.width**-0.5)
        shift = torch.zeros(self.members, 1, self.width, device=device)
        weights = [tensor.mul_(2.0**0.5).requires_grad_() for tensor in (first, last, shift)]
        optimizer = torch.optim.AdamW(weights, config.noise_rate, weight_decay=1e-2)
        rates = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: _rate(step, config.noise_steps)
        )

        def logits(batch: Tensor) -> Tensor:
            return functional.gelu(batch @ first + shift) @ last  # (members, n, 1)

        with torch.enable_grad():
            for _ in range(config.noise_steps):
                index = torch.randint(
                    len(white), (config.noise_batch,), generator=random, device=device
                )
                good = white[index].expand(self.members, -1, -1)
                scale = strength * torch.where(is_guided, amount[index], 1.0)
                noisy = good + scale * normal(*good.shape)
                # softplus is the cross-entropy of a label that is known
                loss = functional.softplus(logits(good)) + functional.softplus(-logits(noisy))
                optimizer.zero_grad(set_to_none=True)
                loss.mean(dim=(1, 2)).sum().backward()
                optimizer.step()
                rates.step()
        with torch.no_grad():
            chosen = torch.randperm(len(white), generator=random, device=device)[:_SCORED]
            scored = logits(white[chosen].expand(self.members, -1, -1))
            unit = scored.std(dim=(1, 2), keepdim=True).clamp(min=1e-3) * self.members
            layer = first.transpose(1, 2).flatten(0, 1) @ whitening.matrix.T
            self.hidden.weight.copy_(layer)
            self.hidden.bias.copy_(shift.flatten() - layer @ whitening.mean)
            self.output.weight.copy_((last / unit).reshape(1, -1))
            self.output.bias.copy_(-(scored.mean(dim=(1, 2), keepdim=True) / unit).sum().reshape(1))

    def _noises(self, config: TrainConfig) -> tuple[list[float], list[bool]]:
        """Strength of each member's noise, from the least to the most, and whether it is guided."""
        guided = {"both": (True, False), "guided": (True,), "alike": (False,)}[config.noise]
        steps = -(-self.members // len(guided))
        ratio = (config.noise_most / config.noise_least) ** (1.0 / max(steps - 1, 1))
        strengths = [config.noise_least * ratio**step for step in range(steps)]
        pairs = [(strength, kind) for strength in strengths for kind in guided][: self.members]
        return [strength for strength, _ in pairs], [kind for _, kind in pairs]


def _rate(step: int, steps: int) -> float:
    """A warm-up, then half a cosine down to nothing."""
    return min((step + 1) / _WARM_UP, 1.0) * 0.5 * (1.0 + math.cos(math.pi * step / steps))
