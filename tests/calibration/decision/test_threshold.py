"""The threshold's rank, its promise, and that it keeps it."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agp_edge.calibration.decision.threshold import conformal_threshold
from agp_edge.errors import DataError, ModelError


def without_parts(scores, rate, **options):
    return conformal_threshold(scores, [None] * len(scores), rate, **options)


@pytest.mark.parametrize(
    ("n", "rate", "rank", "promise"),
    [
        (99, 0.01, 99, 0.01),
        (99, 0.05, 95, 0.05),
        (100, 0.05, 96, 5 / 101),
        (19, 0.05, 19, 0.05),
        (18, 0.05, 18, 1 / 19),  # too few: the largest, and the rate that it can promise
        (1, 0.05, 1, 0.5),
    ],
)
def test_rank_and_promise(n, rate, rank, promise):
    scores = np.random.default_rng(0).permutation(np.arange(1, n + 1)) / 7
    threshold = without_parts(scores.tolist(), rate)
    assert threshold.value == pytest.approx(rank / 7)
    assert threshold.false_reject == pytest.approx(promise, abs=1e-12)
    assert (threshold.n, threshold.unit, threshold.method) == (n, "images", "conformal")
    assert threshold.mask_value is None


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60),
    st.floats(0.001, 0.999),
)
def test_promise_is_the_rate_asked_for_or_what_n_can_bear(scores, rate):
    threshold = without_parts(scores, rate)
    n = len(scores)
    assert threshold.value in scores
    assert threshold.false_reject <= max(rate, 1 / (n + 1)) + 1e-12
    # no smaller threshold of the list would do
    rank = math.ceil((n + 1) * (1 - Fraction(repr(rate))))
    assert threshold.value == sorted(scores)[min(max(rank, 1), n) - 1]


def test_each_part_counts_once_with_its_largest_score():
    scores = [1.0, 9.0, 2.0, 3.0, 4.0, 5.0]
    threshold = conformal_threshold(scores, ["a", "a", "b", "b", "c", "c"], 0.5)
    assert (threshold.n, threshold.unit) == (3, "parts")
    assert threshold.value == 5.0  # of 3, 5, 9 the second
    assert threshold.false_reject == 0.5


def test_mask_has_its_own_threshold():
    threshold = without_parts([1.0, 2.0, 3.0], 0.5, map_peaks=[10.0, 30.0, 20.0])
    assert (threshold.value, threshold.mask_value) == (2.0, 20.0)


def test_new_good_parts_are_rejected_as_promised():
    """Parts with many correlated photos: the rate among new parts stays below the promise."""
    random = np.random.default_rng(5)
    rejected, trials, promise = 0, 2000, 0.0
    for _ in range(trials):
        level = random.normal(size=21)
        photos = level[:, None] + 0.1 * random.normal(size=(21, 6))
        held = photos[:20].ravel().tolist()
        parts = np.repeat(np.arange(20), 6).astype(str).tolist()
        threshold = conformal_threshold(held, parts, 0.1)
        promise = threshold.false_reject
        rejected += photos[20].max() > threshold.value
    spread = math.sqrt(promise * (1 - promise) / trials)
    assert abs(rejected / trials - promise) < 4 * spread


def test_unusable_scores():
    with pytest.raises(DataError, match="got none"):
        without_parts([], 0.05)
    with pytest.raises(ModelError, match="nan"):
        without_parts([1.0, math.nan], 0.05)
    with pytest.raises(ValueError, match="false_reject"):
        without_parts([1.0], 1.0)
    with pytest.raises(ValueError, match="argument"):
        conformal_threshold([1.0, 2.0], [None], 0.05)
