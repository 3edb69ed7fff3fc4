import numpy as np
import pytest

from agp_edge.bench.warm_up import truncation, warm_up


def by_definition(values):
    """White, Cobb, Spratt 2000, word for word."""
    n = len(values) // 5
    means = [np.mean(values[5 * i : 5 * i + 5]) for i in range(n)]
    scores = []
    for d in range(n - 4):
        left = means[d:]
        average = sum(left) / len(left)
        scores.append(sum((value - average) ** 2 for value in left) / len(left) ** 2)
    best = int(np.argmin(scores))
    return None if best >= n / 2 else 5 * best


@pytest.mark.parametrize("seed", range(5))
def test_as_published(seed):
    rng = np.random.default_rng(seed)
    values = rng.gamma(2, 1, 203) + 20 * np.exp(-np.arange(203) / (5 + 10 * seed))
    assert truncation(values) == by_definition(values)


def test_a_slow_beginning_is_found():
    rng = np.random.default_rng(0)
    values = rng.normal(5, 0.2, 200)
    values[:30] += 20
    assert 30 <= truncation(values) <= 60


def test_a_series_that_still_falls_has_not_settled():
    assert truncation(np.linspace(50, 1, 200)) is None
    assert truncation(np.ones(49)) is None  # too few to tell


class SteppingClock:
    """Each frame takes what `times` says, in milliseconds."""

    def __init__(self, times):
        self.times, self.time, self.count = times, 0, 0

    def now(self):
        return self.time

    def sleep_until(self, moment):
        raise AssertionError("warm-up never waits")

    def score(self, frame):
        self.time += int(self.times(self.count) * 1e6)
        self.count += 1


def test_scoring_goes_on_until_it_is_steady():
    clock = SteppingClock(lambda count: 50 if count < 30 else 5)
    found = warm_up(clock.score, [np.zeros(1)], clock=clock)
    assert found.steady
    assert found.truncated == 30
    assert 60 < found.frames <= 100
    assert found.frames == len(found.latency_ns) == clock.count


def test_clocks_that_rise_after_a_while():
    clock = SteppingClock(lambda count: 5 if count < 150 else 3)
    found = warm_up(clock.score, [np.zeros(1)], clock=clock)
    assert found.seconds >= 1
    assert found.truncated == 150


def test_it_gives_up_and_says_so():
    clock = SteppingClock(lambda count: 1 + count)
    found = warm_up(clock.score, [np.zeros(1)], clock=clock, limit_s=20.0)
    assert not found.steady
    assert 20 <= found.seconds < 21
    assert found.truncated == found.frames
