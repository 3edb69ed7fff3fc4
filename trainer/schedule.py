"""What changes from step to step: the learning rate; and where each epoch's randomness starts."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agp_edge.trainer.config import TrainConfig

__all__ = ["epoch_seed", "learning_rate"]


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    warmup = max(int(config.warmup * steps), 1)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(steps - warmup, 1)
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))


def epoch_seed(seed: int, epoch: int, process: int = 0) -> int:
    """A seed far from those of other epochs, processes and neighbouring seeds."""
    text = f"{seed}/{epoch}" + (f"/{process}" if process else "")
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:6], "big")
