"""The decision threshold: reads scores of held-out good images, gives the manifest's threshold.

Split conformal prediction (Vovk et al. 2005; Lei et al. 2018, "Distribution-free predictive
inference for regression"): of n exchangeable scores, the next one exceeds the k-th smallest with a
probability of at most 1 - k / (n + 1), whatever the scores' distribution. Photos of one part are
alike, so they are not n independent ones: each part counts once, with its largest score.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from agp_edge.errors import DataError, ModelError
from agp_edge.manifest import ThresholdSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["conformal_threshold"]


def conformal_threshold(
    scores: Sequence[float],
    parts: Sequence[str | None],
    false_reject: float,
    map_peaks: Sequence[float] | None = None,
) -> ThresholdSpec:
    """The smallest threshold that rejects a new good part with at most the asked probability.

    That is the ceil((n + 1) (1 - false_reject))-th smallest of n scores. Where n is too small for
    that (fewer than 1 / false_reject - 1 scores), it is the largest score, and the promise is what
    n can bear: 1 / (n + 1).

    Args:
        scores: image scores of good images that the model was not trained on.
        parts: the part that each image shows; None: each image is one of its own.
        false_reject: asked probability, in (0, 1).
        map_peaks: largest value of each anomaly map, for the mask's own threshold; None: the
            score is that value.

    Returns:
        The threshold; its `false_reject` is what is really promised, at most the asked one unless n
        is too small.

    Raises:
        DataError: there are no scores.
        ModelError: a score is not finite.
        ValueError: `false_reject` is not in (0, 1), or the lengths differ.
    """
    if not 0.0 < false_reject < 1.0:
        raise ValueError(f"false_reject must lie in (0, 1), got {false_reject}")
    if not len(scores):
        raise DataError("the threshold needs scores of held-out good images; got none")
    by_part = _largest_by_part(scores, parts)
    count = len(by_part)
    # 1e-9: (n + 1)(1 - rate) is often whole, and rounding must not lift it to the next number
    rank = min(math.ceil((count + 1) * (1.0 - false_reject) - 1e-9), count)
    return ThresholdSpec(
        value=sorted(by_part)[rank - 1],
        method="conformal",
        false_reject=(count + 1 - rank) / (count + 1),
        n=count,
        unit="images" if all(part is None for part in parts) else "parts",
        mask_value=None
        if map_peaks is None
        else sorted(_largest_by_part(map_peaks, parts))[rank - 1],
    )


def _largest_by_part(scores: Sequence[float], parts: Sequence[str | None]) -> list[float]:
    largest: dict[object, float] = {}
    for index, (score, part) in enumerate(zip(scores, parts, strict=True)):
        if not math.isfinite(score):
            raise ModelError(f"a held-out good image got the score {score}; expected a number")
        key = index if part is None else part
        largest[key] = max(largest.get(key, -math.inf), float(score))
    return list(largest.values())
