"""The order statistic, against the definition by exhaustion and against simulated calibrations."""

import numpy as np
import pytest
from scipy import stats

from agp_edge.calibration.decision.conformal import (
    best_promise,
    parts_needed,
    promise_for,
    rejected_share,
)
from agp_edge.errors import DataError


@pytest.mark.parametrize(
    ("rate", "confidence", "needed"),
    [
        (0.05, None, 19),
        (0.01, None, 99),
        (0.001, None, 999),
        (0.3, None, 3),
        (0.01, 0.95, 299),
        (0.001, 0.95, 2995),
        (0.05, 0.9, 45),
        (0.5, 0.75, 2),  # exactly: a quarter of the pairs has both below the median
        (0.1, 0.1, 9),  # a low confidence does not make the promise on average cheaper
    ],
)
def test_parts_needed(rate, confidence, needed):
    assert parts_needed(rate, confidence) == needed
    assert promise_for(needed, rate, confidence).rank == needed
    with pytest.raises(DataError, match=rf"{needed} are needed; photograph 1 more"):
        promise_for(needed - 1, rate, confidence)


def test_the_smallest_rank_that_keeps_both_promises():
    for n in (19, 45, 120, 299, 1000):
        ranks = np.arange(1, n + 1)
        for rate in (0.01, 0.05, 0.1, 0.3):
            for confidence in (0.1, 0.8, 0.95, 0.99):
                keeps = (n + 1 - ranks) / (n + 1) <= rate + 1e-12
                keeps &= stats.beta.sf(rate, n + 1 - ranks, ranks) <= 1 - confidence + 1e-12
                if keeps.any():
                    expected = int(ranks[keeps][0])
                    assert promise_for(n, rate, confidence).rank == expected
                else:
                    assert parts_needed(rate, confidence) > n


def test_too_few_give_the_largest_and_what_it_can_bear():
    promise = best_promise(18, 0.05)
    assert (promise.rank, promise.false_reject) == (18, pytest.approx(1 / 19))
    assert best_promise(99, 0.05) == promise_for(99, 0.05)
    # 1 - 0.05 ** (1 / 18): the share that 18 parts below it exclude with 0.95
    assert promise.limit(0.95) == pytest.approx(1 - 0.05 ** (1 / 18))


def test_rates_follow_the_beta_law():
    """Uniform scores: the share above a threshold is 1 - threshold, known without a test set."""
    rng = np.random.default_rng(1)
    on_average, certain = promise_for(299, 0.05), promise_for(299, 0.05, 0.95)
    scores = np.sort(rng.random((4000, 299)), axis=1)
    realised = 1 - scores[:, on_average.rank - 1]
    assert realised.mean() == pytest.approx(on_average.false_reject, abs=1e-3)
    assert stats.kstest(realised, rejected_share(299, on_average.rank).cdf).pvalue > 1e-3
    assert 0.4 < (realised > 0.05).mean() < 0.6  # on average is no promise for this very set
    above = ((1 - scores[:, certain.rank - 1]) > 0.05).mean()
    assert 0.02 < above <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 4000)
    # one score less would not do: the promise is not bought with a needlessly high threshold
    assert ((1 - scores[:, certain.rank - 2]) > 0.05).mean() > 0.05


def test_equal_scores_only_lower_the_rate():
    rng = np.random.default_rng(2)
    promise = promise_for(99, 0.05, 0.9)
    values = np.arange(10)
    above = 0
    for _ in range(2000):
        scores = np.sort(rng.choice(values, 99))
        above += (values > scores[promise.rank - 1]).mean() > 0.05
    assert above / 2000 <= 0.1


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, float("nan")])
def test_impossible_rates(rate):
    with pytest.raises(ValueError, match="false_reject must lie"):
        parts_needed(rate)
    with pytest.raises(ValueError, match="confidence must lie"):
        parts_needed(0.1, rate)
