import math

import numpy as np
import pytest

from agp_edge.bench.statistics import (
    autocorrelation,
    frames_for_interval,
    frames_for_percentile,
    percentile,
    summarise,
)


def test_percentiles_are_samples_of_the_series():
    values = np.arange(1, 1001, dtype=float)
    for percent, expected in ((50, 500), (90, 900), (99, 990), (99.9, 999)):
        assert percentile(values, percent).value == expected


@pytest.mark.parametrize(
    ("percent", "value", "interval"), [(50, 2, 6), (90, 10, 36), (99, 100, 368), (99.9, 1000, 3688)]
)
def test_how_many_frames_a_percentile_needs(percent, value, interval):
    """36 and 368: 0.9^36 and 0.99^368 are the first below 0.025."""
    assert frames_for_percentile(percent) == value
    assert frames_for_interval(percent) == interval
    enough = np.arange(interval, dtype=float)
    assert percentile(enough[:value], percent).value is not None
    assert percentile(enough[: value - 1], percent).value is None
    limits = percentile(enough, percent)
    assert limits.low is not None
    assert limits.high is not None
    one_less = percentile(enough[:-1], percent)
    assert one_less.low is None or one_less.high is None


@pytest.mark.parametrize("percent", [50.0, 90.0, 99.0])
def test_intervals_cover_the_truth_as_often_as_they_say(percent):
    rng = np.random.default_rng(0)
    truth = math.exp(2 * float(np.sqrt(2)) * _erfinv(2 * percent / 100 - 1))
    hits = 0
    for _ in range(400):
        found = percentile(np.sort(rng.lognormal(0, 2, 800)), percent)
        hits += found.low <= truth <= found.high
    # 95 % or a little more, as ranks are whole numbers; 400 trials: three sigma are 3.3 %
    assert hits / 400 > 0.917


def _erfinv(value):
    from scipy.special import erfinv

    return float(erfinv(value))


def test_unserved_frames_are_later_than_all_others():
    summary = summarise(np.arange(95, dtype=float), unserved=5)
    assert summary.count == 100
    assert summary.at(50.0).value == 49
    assert summary.at(99.0).value == summary.maximum == math.inf
    assert summary.to_dict()["maximum"] is None


def test_jitter_and_autocorrelation():
    zigzag = np.array([1.0, 3.0] * 200)
    assert summarise(zigzag).jitter == 2.0
    assert summarise(zigzag).variation_p99 == 2.0
    assert autocorrelation(zigzag) == pytest.approx(-1, abs=0.01)
    assert autocorrelation(np.ones(100)) is None
    noise = np.random.default_rng(0).normal(size=5000)
    assert abs(autocorrelation(noise)) < 0.05
    assert autocorrelation(np.cumsum(noise)) > 0.9


def test_nothing_measured():
    summary = summarise([])
    assert summary.count == 0
    assert summary.minimum is summary.maximum is summary.mean is None
    assert all(found.value is None for found in summary.percentiles)
