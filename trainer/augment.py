"""Changed copies of a good image: what few-shot training has in place of further good images.

A copy is shifted, scaled and relit by a little; mirrored and turned only where the product allows
it (`augment`), since a mirrored part may be a wrong part.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agp_edge.dataset import Sample
from agp_edge.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["AUGMENTS", "Change", "ChangedSample", "changed_copies", "copies_of_each"]

# What a copy may be, besides shifted, scaled and relit: as it is; mirrored at either axis or both
# (a half turn); turned by right angles too.
AUGMENTS = ("shift", "flip", "rotate")

# Half the range of each change, uniform. Small: they stand for a part that lies a little otherwise
# and a lamp that ages, not for another camera.
_SHIFT = 0.03  # of the image's side
_SCALE = 0.03
_GAIN = 0.05
_OFFSET = 4.0  # grey values
# Sides may differ by this share for a quarter turn; else it would also change the aspect.
_SQUARE = 0.05


@dataclass(frozen=True)
class Change:
    """One way to change a frame; the default changes nothing."""

    mirror: bool = False  # left to right
    turns: int = 0  # by 90 degrees, after mirroring; an odd number is one less on oblong frames
    shift: tuple[float, float] = (0.0, 0.0)  # down, right; shares of height and width
    scale: float = 1.0
    gain: float = 1.0
    offset: float = 0.0  # grey values

    def apply(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The changed frame, uint8 (H, W) or (H, W, 3); what was outside is reflected."""
        import cv2  # noqa: PLC0415  (heavy)

        height, width = frame.shape[:2]
        turns = self.turns
        if abs(height - width) > _SQUARE * max(height, width):
            turns -= turns % 2
        if self.mirror:
            frame = frame[:, ::-1]
        frame = np.ascontiguousarray(np.rot90(frame, turns))
        height, width = frame.shape[:2]
        if self.shift != (0.0, 0.0) or self.scale != 1.0:
            # about the centre of the pixel grid
            middle = np.array([(width - 1) / 2, (height - 1) / 2])
            move = middle * (1.0 - self.scale) + [self.shift[1] * width, self.shift[0] * height]
            matrix = np.array([[self.scale, 0.0, move[0]], [0.0, self.scale, move[1]]])
            # cubic: bilinear would blur, and sharpness is part of what is learned
            frame = np.asarray(
                cv2.warpAffine(
                    frame,
                    matrix,
                    (width, height),
                    flags=cv2.INTER_CUBIC,
                    borderMode=cv2.BORDER_REFLECT_101,
                ),
                np.uint8,
            )
        if self.gain != 1.0 or self.offset != 0.0:
            lit = frame.astype(np.float32) * self.gain + self.offset
            frame = np.clip(np.rint(lit), 0, 255).astype(np.uint8)
        return frame


@dataclass(frozen=True)
class ChangedSample(Sample):
    """A good image as it is after a change."""

    change: Change = Change()


def changed_copies(
    samples: Sequence[Sample], count: int, augment: str, seed: int, purpose: str
) -> tuple[ChangedSample, ...]:
    """Copies of good images, as many of each, the same for the same arguments.

    Args:
        samples: the good images.
        count: of all copies; at least one of each image is made.
        augment: one of AUGMENTS.
        seed: of the changes.
        purpose: what they are for; copies for "train" and "threshold" differ. The first copies for
            "train" are the images unchanged.

    Raises:
        ModelError: `augment` is unknown.
    """
    if augment not in AUGMENTS:
        raise ModelError(f"augment is '{augment}'; expected auto or one of {', '.join(AUGMENTS)}")
    digest = hashlib.sha256(f"{purpose}/{seed}".encode()).digest()
    random = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    copies = []
    for index in range(max(count, len(samples))):
        sample = samples[index % len(samples)]
        change = _drawn(random, augment)
        if purpose == "train" and index < len(samples):
            change = Change()
        copies.append(
            ChangedSample(
                sample.path, sample.label, part=sample.part, product=sample.product, change=change
            )
        )
    return tuple(copies)


def copies_of_each(samples: Sequence[Sample]) -> float:
    """How many of the samples come from one image, on average; 1 where all are different images."""
    return len(samples) / max(len({sample.path for sample in samples}), 1)


def _drawn(random: np.random.Generator, augment: str) -> Change:
    shift_y, shift_x, scale, gain, offset = random.uniform(-1.0, 1.0, 5)
    mirror, turns = bool(random.integers(2)), int(random.integers(4))
    if augment == "shift":
        mirror, turns = False, 0
    elif augment == "flip":
        turns = 2 * (turns % 2)  # mirror and half turn: the other axis
    return Change(
        mirror=mirror,
        turns=turns,
        shift=(_SHIFT * float(shift_y), _SHIFT * float(shift_x)),
        scale=1.0 + _SCALE * float(scale),
        gain=1.0 + _GAIN * float(gain),
        offset=_OFFSET * float(offset),
    )
