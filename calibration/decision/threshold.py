"""The decision threshold: reads scores of held-out images, gives the manifest's threshold.

Photos of one part are alike, so they are not n independent ones: each good part counts once, with
its largest score. The promise is then about parts, each judged by as many photos as here: at most
that share of new good parts has any photo rejected. It holds for a single photo of a new part all
the more. The hierarchical bounds of Dunn, Wasserman and Ramdas (2023, "Distribution-free prediction
sets for two-layer hierarchical models") promise the single photo alone and would put the threshold
lower; on a line the part is what a false reject throws away.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from agp_edge.calibration.decision.conformal import Promise, best_promise, promise_for
from agp_edge.dependencies import require
from agp_edge.errors import DataError, ModelError
from agp_edge.manifest import CalibrationTail, ThresholdSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = [
    "TAIL_LIMIT",
    "conformal_threshold",
    "f1_threshold",
    "largest_by_part",
    "recall_threshold",
]

# A manifest has room for about 4,000 bytes, of which each score takes ten.
TAIL_LIMIT = 100


def conformal_threshold(
    scores: Sequence[float],
    parts: Sequence[str | None],
    false_reject: float,
    map_peaks: Sequence[float] | None = None,
    *,
    confidence: float | None = None,
    mask_false_reject: float | None = None,
    strict: bool = False,
    tail_limit: int | None = TAIL_LIMIT,
) -> ThresholdSpec:
    """The smallest threshold that rejects a new good part with at most the asked probability.

    The order statistic is `conformal.promise_for`'s. Unless `strict`, too few parts give the
    largest score, and the promise is what n can bear: 1 / (n + 1) on average.

    Args:
        scores: image scores of good images that the model was not trained on.
        parts: the part that each image shows; None: each image is one of its own.
        false_reject: asked probability, in (0, 1).
        map_peaks: for each image the smallest mask threshold at which it shows no region: the
            largest value of its anomaly map. None: the score is that value.
        confidence: that this very threshold keeps the rate; None: on average.
        mask_false_reject: asked probability that a new good part shows any region in its mask;
            None: `false_reject`.
        strict: refuse too few parts.
        tail_limit: how many of the largest scores are kept for p-values; None: all.

    Returns:
        The threshold; its `false_reject` is the bound on average, at most the asked one unless n
        is too small.

    Raises:
        DataError: there are no scores, or with `strict` or `confidence` too few.
        ModelError: a score is not finite.
        ValueError: a rate is not in (0, 1), or the lengths differ.
    """
    largest = largest_by_part(scores, parts)
    n = len(largest)

    def promised(rate: float) -> Promise:
        if strict or confidence is not None:
            return promise_for(n, rate, confidence)
        return best_promise(n, rate)

    promise = promised(false_reject)
    mask_value = None
    if map_peaks is not None or mask_false_reject is not None:
        peaks = largest if map_peaks is None else largest_by_part(map_peaks, parts)
        mask_rate = false_reject if mask_false_reject is None else mask_false_reject
        mask_value = float(peaks[promised(mask_rate).rank - 1])
    return ThresholdSpec(
        value=float(largest[promise.rank - 1]),
        method="conformal",
        false_reject=promise.false_reject,
        n=n,
        unit=_unit(parts),
        mask_value=mask_value,
        target=false_reject,
        confidence=confidence,
        mask_target=mask_false_reject,
        images=len(scores),
        tail=_tail(largest, tail_limit),
    )


def f1_threshold(
    good: Sequence[float], good_parts: Sequence[str | None], defective: Sequence[float]
) -> ThresholdSpec:
    """The threshold with the largest F1 score on these images; it promises nothing.

    Between the two neighbouring scores it lies in the middle. Of several with the same F1 it is
    the largest.

    Args:
        good: scores of good images; the tail of p-values is made of them.
        good_parts: the part that each of them shows, or None.
        defective: scores of defective images.

    Raises:
        DataError: a class has no scores.
        ModelError: a score is not finite.
        DependencyError: scikit-learn is not installed.
    """
    largest = largest_by_part(good, good_parts)
    _check(defective, "defective")
    labels = np.repeat([0, 1], [len(good), len(defective)])
    values = [*good, *defective]
    precision, recall, cuts = require("sklearn.metrics").precision_recall_curve(labels, values)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = float(cuts[np.flatnonzero(f1[:-1] == f1[:-1].max())[-1]])
    return _without_promise("f1", _just_below(best, values), largest, good_parts)


def recall_threshold(
    good: Sequence[float],
    good_parts: Sequence[str | None],
    defective: Sequence[float],
    defective_parts: Sequence[str | None],
    recall: float,
    *,
    confidence: float | None = None,
) -> ThresholdSpec:
    """The largest threshold that finds a new defective part with at least the asked probability.

    The same order statistic from the other side: `promise_for(m, 1 - recall)` on the negated
    scores of m defective parts, so that at most 1 - recall of new ones, of the same kinds in the
    same proportions, score at or below the threshold. Each part counts with its smallest score:
    each of its photos is found.

    Args:
        good: scores of good images; the tail of p-values is made of them.
        good_parts: the part that each of them shows, or None.
        defective: scores of defective images.
        defective_parts: the part that each of them shows, or None.
        recall: asked probability, in (0, 1).
        confidence: that this very threshold keeps it; None: on average.

    Raises:
        DataError: there are no scores, or too few defective parts.
        ModelError: a score is not finite.
        ValueError: `recall` is not in (0, 1), or the lengths differ.
    """
    largest = largest_by_part(good, good_parts)
    _check(defective, "defective")
    negated = largest_by_part([-score for score in defective], defective_parts)
    try:
        # a decimal again: 1 - 0.99 is no longer 0.01
        promise = promise_for(len(negated), round(1.0 - recall, 12), confidence)
    except DataError as error:
        raise DataError(
            f"a recall of {recall:g} is a miss rate of {1 - recall:g} for defective parts, and "
            f"{error}".replace("good parts", "parts").replace("false-reject ", "")
        ) from error
    smallest = -float(negated[promise.rank - 1])
    cut = _just_below(smallest, [*good, *defective])
    spec = _without_promise("recall", cut, largest, good_parts)
    return replace(spec, recall=recall, confidence=confidence)


def largest_by_part(scores: Sequence[float], parts: Sequence[str | None]) -> NDArray[np.float64]:
    """The largest score of each part, rising; where no part is named, an image is one of its own.

    Raises:
        DataError: there are no scores.
        ModelError: a score is not finite.
        ValueError: the lengths differ.
    """
    _check(scores, "held-out good")
    largest: dict[object, float] = {}
    for index, (score, part) in enumerate(zip(scores, parts, strict=True)):
        key = index if part is None else part
        largest[key] = max(largest.get(key, -math.inf), float(score))
    return np.sort(np.array(list(largest.values()), np.float64))


def _check(scores: Sequence[float], kind: str) -> None:
    if not len(scores):
        raise DataError(f"the threshold needs scores of {kind} images; got none")
    for score in scores:
        if not math.isfinite(score):
            raise ModelError(f"a {kind} image got the score {score}; expected a number")


def _without_promise(
    method: str, value: float, largest: NDArray[np.float64], parts: Sequence[str | None]
) -> ThresholdSpec:
    return ThresholdSpec(
        value=value,
        method=method,
        false_reject=1.0,  # the manifest's word for no promise
        n=len(largest),
        unit=_unit(parts),
        images=len(parts),
        tail=_tail(largest, None),
    )


def _just_below(score: float, scores: Sequence[float]) -> float:
    """Half-way to the next lower of the scores, as a float32 that is smaller than `score`."""
    lower = [other for other in scores if other < score]
    middle = np.float32((score + max(lower)) / 2 if lower else score)
    if middle >= np.float32(score):
        middle = np.nextafter(np.float32(score), np.float32(-np.inf))
    return float(middle)


def _unit(parts: Sequence[str | None]) -> str:
    return "images" if all(part is None for part in parts) else "parts"


def _tail(largest: NDArray[np.float64], limit: int | None) -> CalibrationTail:
    kept = largest if limit is None else largest[-limit:]
    return CalibrationTail(n=len(largest), scores=tuple(map(_decimal, kept.astype(np.float32))))


def _decimal(score: np.float32) -> float:
    """The shortest decimal that is the same float32: the runtime compares as float32."""
    short = float(str(score))
    return short if np.float32(short) == score else float(score)
