"""Small pictures of what makes a part itself: photos -> patterns that can be correlated.

A pattern is the photo, high-passed, squashed to 64 x 64 and brought to unit contrast. Exposure,
gain and slow shading drop out of it; what all photos of the set share (edges of the part, busbars)
is taken out afterwards by `without_shared`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from agp_edge.dependencies import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SHIFT", "SIDE", "aligned", "pattern_of", "without_shared"]

SIDE = 64  # pixels of a pattern's sides: 4 KiB for each photo
# Shading of a wider scale than this, in pixels of the pattern, is light and not the part.
_HIGH_PASS = 4.0
# int8 units per standard deviation: 4 standard deviations fit, and rounding adds 0.03 % variance.
_UNITS = 31.0
# Leading principal components that count as shared; of few photos at most a tenth of their number,
# since more would be the photos themselves.
_SHARED = 20
# Photos that the components are taken from; more change nothing and cost the cube.
_SAMPLE = 1000
_BLOCK = 1024
# Pixels of a pattern by which a part may lie elsewhere in another photo: 9 % of the side.
SHIFT = 6
# Correlation with the set's mean from which a pattern is moved to fit it: chance gives 0.1 to 0.2
# over the 169 shifts.
_ALIKE = 0.3
_NEAR_PEAK = 0.9
_ROUNDS = 2


def pattern_of(image: NDArray[np.uint8]) -> NDArray[np.int8]:
    """The pattern of a photo.

    Args:
        image: uint8 (H, W) or (H, W, 3).

    Returns:
        int8 (64, 64) with mean 0; all zero where the photo is blank.
    """
    cv2 = require("cv2")
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    small -= cv2.GaussianBlur(small, (0, 0), _HIGH_PASS, borderType=cv2.BORDER_REFLECT)
    # contrast evened out over the picture: one bright edge must not be the whole pattern
    spread = np.sqrt(cv2.GaussianBlur(small * small, (0, 0), 2 * _HIGH_PASS))
    small /= spread + 0.25 * float(spread.mean()) + 1e-3
    small -= small.mean()
    deviation = float(small.std())
    if deviation < 1e-3:
        return np.zeros((SIDE, SIDE), np.int8)
    return np.asarray(np.clip(np.rint(small * (_UNITS / deviation)), -127, 127), np.int8)


def aligned(patterns: NDArray[np.int8], *, seed: int = 0) -> NDArray[np.int8]:
    """The patterns, each moved to where it fits the set's mean best, by whole pixels up to 6.

    What all photos share can be taken out only where it lies in the same place in all. A pattern
    that resembles the mean nowhere stays as it is.

    Args:
        patterns: int8 (n, 64, 64); the mean comes from at most 1,000 of them.
        seed: of the choice of these.
    """
    cv2 = require("cv2")
    count = len(patterns)
    chosen = np.arange(count)
    if count > _SAMPLE:
        chosen = np.sort(np.random.default_rng(seed).choice(count, _SAMPLE, replace=False))
    moved = patterns.copy()
    for _ in range(_ROUNDS):
        mean = moved[chosen].mean(axis=0, dtype=np.float32)
        middle = np.ascontiguousarray(mean[SHIFT:-SHIFT, SHIFT:-SHIFT])
        for index, pattern in enumerate(patterns):
            found = cv2.matchTemplate(pattern.astype(np.float32), middle, cv2.TM_CCOEFF_NORMED)
            peak = float(found.max())
            if peak > _ALIKE:
                # along a busbar all shifts fit alike: the smallest of them
                rows, columns = np.nonzero(found >= _NEAR_PEAK * peak)
                nearest = np.argmin((rows - SHIFT) ** 2 + (columns - SHIFT) ** 2)
                step = (SHIFT - int(rows[nearest]), SHIFT - int(columns[nearest]))
                moved[index] = np.roll(pattern, step, (0, 1))
    return np.asarray(moved, np.int8)


def without_shared(patterns: NDArray[np.int8], *, seed: int = 0) -> NDArray[np.int8]:
    """The patterns, freed of their mean and leading principal components and scaled again.

    Args:
        patterns: int8 (n, 64, 64); the components come from at most 1,000 of them.
        seed: of the choice of these.

    Returns:
        int8 (n, 64, 64); all zero where nothing is left.
    """
    count = len(patterns)
    chosen = np.arange(count)
    if count > _SAMPLE:
        chosen = np.sort(np.random.default_rng(seed).choice(count, _SAMPLE, replace=False))
    rows = patterns[chosen].reshape(len(chosen), -1).astype(np.float32)
    mean = rows.mean(axis=0)
    rows -= mean
    shared = min(_SHARED, len(rows) // 10)
    axes = np.zeros((0, rows.shape[1]), np.float32)
    if shared:
        values, vectors = np.linalg.eigh(rows @ rows.T)  # ascending
        kept = values[-shared:] > 1e-6 * max(float(values[-1]), 1e-12)
        axes = (rows.T @ vectors[:, -shared:][:, kept]).T
        axes /= np.maximum(np.linalg.norm(axes, axis=1, keepdims=True), 1e-12)
    left = np.empty((count, rows.shape[1]), np.int8)
    for start in range(0, count, _BLOCK):
        block = patterns[start : start + _BLOCK].reshape(-1, rows.shape[1]).astype(np.float32)
        blank = ~block.any(axis=1)
        block -= mean
        block -= (block @ axes.T) @ axes
        block -= block.mean(axis=1, keepdims=True)
        deviation = block.std(axis=1, keepdims=True)
        block *= _UNITS / np.maximum(deviation, 1e-6)
        block[blank | (deviation[:, 0] < 0.1)] = 0  # a tenth of a unit is rounding
        left[start : start + _BLOCK] = np.clip(np.rint(block), -127, 127)
    return np.asarray(left.reshape(patterns.shape), np.int8)
