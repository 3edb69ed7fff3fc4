"""Which photos show the same part: patterns -> pairs that correlate, and groups of them.

Two steps. Every pattern is compared with every other in a coarse form (32 x 32, one matrix product
a block), which gives each photo its nearest neighbours. These are compared in full, at the shift
where they correlate best. How high a correlation must be is no constant: unrelated pairs of the
same set show what chance gives, and the limit is where it would give 0.05 pairs among all, between
0.35 and 0.7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agp_edge.data_check.pattern import SHIFT, SIDE, aligned, without_shared
from agp_edge.dependencies import require

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["Pair", "SameParts", "correlation", "find_same_parts"]

# Chosen on solar cells (benchmarks/data_check.py): of the monocrystalline pairs above it, 11 of 851
# lie more than 100 cells apart in the numbering, where look-alikes hardly come from one crystal or
# one printing pass any more.
_LEAST = 0.35
# Above it half of the variance is common. Where most pairs are related (few parts, many photos),
# random pairs do not show what chance gives.
_MOST = 0.7
# Of fewer photos what they share cannot be told from what they show.
_ENOUGH = 50
# A form of the patterns whose limit is that high says nothing: noise alone costs two photos more.
_HOPELESS = 0.95
_FALSE_PAIRS = 0.05  # expected by chance in the whole set
_NEIGHBOURS = 12  # of each photo that are compared in full
_RANDOM_PAIRS = 1000
_BLOCK = 1024


@dataclass(frozen=True)
class Pair:
    """Two photos that show the same part, as far as correlation tells."""

    first: int
    second: int  # > first
    correlation: float


@dataclass(frozen=True)
class SameParts:
    """What was found among n photos."""

    pairs: tuple[Pair, ...]  # strongest first
    groups: NDArray[np.int64]  # (n,), the part of each photo, counted in order of appearance
    limit: float  # correlation from which a pair counts
    # The middle of the correlations of unrelated pairs, before what all share is taken out: near 1
    # where the product's photos are nearly equal, and little is left to tell parts apart by.
    likeness: float


def correlation(first: NDArray[np.int8], second: NDArray[np.int8]) -> float:
    """Normalised cross-correlation of two patterns at their best shift, in [-1, 1].

    The middle of `first` is looked for in `second`, up to 6 pixels aside.
    """
    cv2 = require("cv2")
    middle = first[SHIFT:-SHIFT, SHIFT:-SHIFT].astype(np.float32)
    if not middle.any() or not second.any():
        return 0.0
    found = cv2.matchTemplate(second.astype(np.float32), middle, cv2.TM_CCOEFF_NORMED)
    return float(np.clip(found.max(), -1.0, 1.0))


def find_same_parts(
    patterns: NDArray[np.int8],
    *,
    seed: int = 0,
    progress: Callable[[range], range] = lambda blocks: blocks,
) -> SameParts:
    """Finds the pairs; takes n^2 x 6,144 operations and 14 KiB of memory a photo.

    Args:
        patterns: int8 (n, 64, 64) as `pattern_of` gives them, no file twice.
        seed: of the unrelated pairs.
        progress: wraps the blocks of the comparison, such as a progress bar.

    Raises:
        DependencyError: OpenCV or SciPy is not installed.
    """
    count = len(patterns)
    if count < 2:
        return SameParts((), np.arange(count), 1.0, 0.0)
    limit, likeness = 1.0, 0.0
    strongest: dict[tuple[int, int], float] = {}
    forms: list[Callable[[], NDArray[np.int8]]] = [lambda: patterns]
    if count >= _ENOUGH:
        forms.append(lambda: without_shared(patterns, seed=seed))
        forms.append(lambda: without_shared(aligned(patterns, seed=seed), seed=seed))
    for form in forms:
        compared = form()
        shared = compared is patterns
        limit, chance = _limit(compared, seed, shared=shared)
        likeness = chance if shared else likeness
        if limit < _HOPELESS:
            found = _pairs_of(compared, limit, progress)
            for pair, value in found.items():
                strongest[pair] = max(value, strongest.get(pair, -1.0))
    pairs = [Pair(first, second, value) for (first, second), value in strongest.items()]
    pairs.sort(key=lambda pair: (-pair.correlation, pair.first, pair.second))
    graph = require("scipy.sparse").coo_matrix(
        (np.ones(len(pairs)), ([p.first for p in pairs], [p.second for p in pairs])),
        shape=(count, count),
    )
    _, groups = require("scipy.sparse.csgraph").connected_components(graph, directed=False)
    return SameParts(tuple(pairs), np.asarray(groups, np.int64), limit, likeness)


def _pairs_of(
    patterns: NDArray[np.int8], limit: float, progress: Callable[[range], range]
) -> dict[tuple[int, int], float]:
    """The pairs of one form of the patterns, with their correlation."""
    found = {}
    for first, second in sorted(_candidates(patterns, progress)):
        value = max(
            correlation(patterns[first], patterns[second]),
            correlation(patterns[second], patterns[first]),
        )
        if value >= limit:
            found[first, second] = value
    return found


def _limit(patterns: NDArray[np.int8], seed: int, *, shared: bool) -> tuple[float, float]:
    """Where chance gives 0.05 pairs among all; and the median of chance itself.

    Random pairs are nearly all unrelated; median and upper quartile are blind to the few that are
    not. Fisher's transformation makes correlations of many small causes nearly normal. What all
    photos share is one large cause: with it in the patterns the best shift's correlation is taken
    to be Gumbel distributed, as the largest of many.
    """
    count = len(patterns)
    random = np.random.default_rng(seed)
    total = count * (count - 1) // 2
    drawn = min(_RANDOM_PAIRS, total)
    firsts = random.integers(count, size=drawn)
    seconds = (firsts + random.integers(1, count, size=drawn)) % count
    found = np.array(
        [
            max(correlation(patterns[i], patterns[j]), correlation(patterns[j], patterns[i]))
            for i, j in zip(firsts, seconds, strict=True)
        ]
    )
    middle, upper = np.quantile(np.arctanh(np.clip(found, -0.999, 0.999)), (0.5, 0.75))
    law = require("scipy.stats").gumbel_r if shared else require("scipy.stats").norm
    tail = float(law.isf(_FALSE_PAIRS / total)) - float(law.ppf(0.5))
    steps = tail / (float(law.ppf(0.75)) - float(law.ppf(0.5)))
    limit = float(np.tanh(middle + steps * (upper - middle)))
    if shared:
        return max(limit, _LEAST), float(np.tanh(middle))
    return float(np.clip(limit, _LEAST, _MOST)), float(np.tanh(middle))


def _candidates(
    patterns: NDArray[np.int8], progress: Callable[[range], range]
) -> set[tuple[int, int]]:
    """Each photo and its nearest neighbours in the coarse form, (first, second) with first < it."""
    cv2 = require("cv2")
    side = SIDE // 2
    coarse = np.empty((len(patterns), side * side), np.float16)
    for index, pattern in enumerate(patterns):
        # blurred: a shift by a pixel or two must not undo the likeness
        smooth = cv2.GaussianBlur(pattern.astype(np.float32), (0, 0), 1.5)
        small = cv2.resize(smooth, (side, side), interpolation=cv2.INTER_AREA).ravel()
        small = small - small.mean()
        coarse[index] = small / max(float(np.linalg.norm(small)), 1e-6)
    kept = min(_NEIGHBOURS, len(patterns) - 1)
    found: set[tuple[int, int]] = set()
    starts = range(0, len(patterns), _BLOCK)
    for start in progress(starts):
        rows = coarse[start : start + _BLOCK].astype(np.float32)
        best = np.full((len(rows), kept), -2.0, np.float32)
        where = np.zeros((len(rows), kept), np.int64)
        for other in starts:
            likeness = rows @ coarse[other : other + _BLOCK].astype(np.float32).T
            if other == start:
                np.fill_diagonal(likeness, -2.0)
            both = np.concatenate([best, likeness], axis=1)
            indices = np.concatenate(
                [
                    where,
                    np.broadcast_to(np.arange(other, other + likeness.shape[1]), likeness.shape),
                ],
                axis=1,
            )
            chosen = np.argpartition(-both, kept - 1, axis=1)[:, :kept]
            best = np.take_along_axis(both, chosen, axis=1)
            where = np.take_along_axis(indices, chosen, axis=1)
        for row in range(len(rows)):
            for value, neighbour in zip(best[row], where[row], strict=True):
                if value > 0.0:
                    first, second = sorted((start + row, int(neighbour)))
                    found.add((first, second))
    return found
