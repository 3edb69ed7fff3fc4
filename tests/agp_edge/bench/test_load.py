"""Load generators on a clock that only moves when somebody waits or works: exact figures."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from agp_edge.bench.load import closed_loop, open_loop
from agp_edge.bench.load_in_flight import closed_loop_in_flight, open_loop_in_flight
from agp_edge.bench.measurement import Measurement
from agp_edge.bench.samples import Samples
from agp_edge.result import Latency

MS = 1_000_000


class HandClock:
    def __init__(self):
        self.time = 1_000_000_000

    def now(self):
        return self.time

    def sleep_until(self, moment):
        self.time = max(self.time, moment)


def server(clock, times_ms):
    """Serves the i-th call in times_ms[i] milliseconds, then in the last of them."""
    calls = iter(range(10**9))

    def score(frame):
        took = times_ms[min(next(calls), len(times_ms) - 1)]
        clock.time += int(took * MS)
        return Latency(
            preprocess_ms=0.2 * took, execute_ms=0.6 * took, postprocess_ms=0.1 * took,
            total_ms=0.9 * took,
        )  # fmt: skip

    return score


def measurement(samples, load, rate_hz=100.0):
    return Measurement(
        load=load,
        inflight=1,
        rate_hz=rate_hz,
        deadline_ms=1e3 / rate_hz,
        samples=samples,
        machine={},
        peak_rss=None,
    )


FRAMES = [np.zeros((2, 2), np.uint8)]
# 2 ms each; the 51st call takes 200 ms
STALL = [2.0] * 50 + [200.0] + [2.0]


def test_a_stall_counts_once_in_a_closed_loop():
    clock = HandClock()
    samples = closed_loop(server(clock, STALL), FRAMES, duration_s=10.0, clock=clock)
    assert (samples.latency == np.array([2, 200])[(np.arange(4901) == 50).astype(int)] * MS).all()
    assert measurement(samples, "closed").missed() == 1


def test_a_stall_is_felt_by_every_frame_behind_it_in_an_open_loop():
    clock = HandClock()
    samples = open_loop(server(clock, STALL), FRAMES, rate_hz=100.0, duration_s=10.0, clock=clock)
    assert len(samples.latency) == 1000
    assert (samples.due == np.arange(1000) * 10 * MS).all()
    # 200 ms, then each frame 10 ms later and served in 2 ms: 8 ms less for every one
    behind = [200 - 8 * number for number in range(25)]
    expected = np.full(1000, 2)
    expected[50:75] = np.maximum(behind, 2)
    assert (samples.latency == expected * MS).all()
    found = measurement(samples, "open")
    assert found.missed() == sum(value > 10 for value in behind) == 24
    summary = found.end_to_end()
    assert summary.at(99.9).value == 192.0  # the second largest of 1000
    assert summary.maximum == 200.0
    assert summary.at(50.0).value == 2.0
    assert not found.is_overloaded()


def test_stages_are_accounted_for_to_the_last_nanosecond():
    clock = HandClock()
    samples = open_loop(server(clock, STALL), FRAMES, rate_hz=100.0, duration_s=1.0, clock=clock)
    parts = [samples.stage(name) for name in ("queue", "preprocess", "execute", "postprocess")]
    parts += [samples.stage("other"), samples.stage("python")]
    assert (sum(parts) == samples.latency).all()
    assert samples.stage("copy") is None
    assert samples.stage("copy_back") is None
    assert measurement(samples, "open").stages_share() == pytest.approx(1.0)


def test_a_line_that_is_too_fast_is_given_up_and_nothing_is_dropped():
    clock = HandClock()
    samples = open_loop(server(clock, [30.0]), FRAMES, rate_hz=100.0, duration_s=3.0, clock=clock)
    assert len(samples.latency) == 200  # 6 s of 30 ms
    assert len(samples.unserved) == 100
    assert samples.due[-1] < samples.unserved[0]
    found = measurement(samples, "open")
    assert found.is_overloaded()
    assert found.missed() == 300
    summary = found.end_to_end()
    assert summary.count == 300
    assert summary.at(90.0).value == np.inf
    assert summary.to_dict()["percentiles"]["p90"]["value"] is None
    assert summary.at(50.0).value == (150 * 30 - 149 * 10)  # the 150th frame, by hand


def test_a_line_that_is_slightly_too_fast_is_called_overloaded():
    clock = HandClock()
    samples = open_loop(server(clock, [11.0]), FRAMES, rate_hz=100.0, duration_s=5.0, clock=clock)
    assert len(samples.unserved) == 0
    assert measurement(samples, "open").is_overloaded()


def pool_of(workers, score):
    """What `Detector.submit` is to a load: futures of results, `workers` at a time."""
    pool = ThreadPoolExecutor(workers)
    return lambda frame: pool.submit(lambda: SimpleNamespace(latency=score(frame)))


NOTHING = Latency(preprocess_ms=0, execute_ms=0, postprocess_ms=0, total_ms=0)


@pytest.mark.parametrize("workers", [1, 4])
def test_every_frame_is_served_once_whoever_serves_it(workers):
    seen = []

    def score(frame):
        seen.append(int(frame[0]))
        return NOTHING

    frames = [np.array([number]) for number in range(7)]
    samples = open_loop_in_flight(
        pool_of(workers, score), frames, inflight=3, rate_hz=1000.0, duration_s=0.2
    )
    assert len(samples.latency) == 200
    assert sorted(seen) == sorted(number % 7 for number in range(200))
    assert (samples.latency > 0).all()
    assert (samples.start >= samples.due).all()


def test_no_more_frames_are_under_way_than_were_asked_for():
    under_way, most, lock = 0, 0, threading.Lock()

    def score(frame):
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.005)
        with lock:
            under_way -= 1
        return NOTHING

    samples = closed_loop_in_flight(pool_of(8, score), FRAMES, inflight=3, duration_s=0.3)
    assert most == 3
    assert len(samples.end) > 60  # three times as many as one after the other
    late = open_loop_in_flight(
        pool_of(8, score), FRAMES, inflight=2, rate_hz=1000.0, duration_s=0.1
    )
    assert most == 3
    assert len(late.unserved) > 0  # 400 a second at most, given up after 0.2 s
    assert len(late.end) + len(late.unserved) == 100


def test_what_scoring_raises_ends_the_load():
    def failing():
        calls = iter(range(1000))

        def score(frame):
            if next(calls) == 5:
                raise RuntimeError("the sixth call")
            return NOTHING

        return score

    with pytest.raises(RuntimeError, match="the sixth call"):
        closed_loop(failing(), FRAMES, duration_s=60.0)
    with pytest.raises(RuntimeError, match="the sixth call"):
        closed_loop_in_flight(pool_of(2, failing()), FRAMES, inflight=3, duration_s=60.0)
    with pytest.raises(RuntimeError, match="the sixth call"):
        open_loop_in_flight(pool_of(2, failing()), FRAMES, inflight=3, rate_hz=1e4, duration_s=60.0)


def refusing(frame):
    raise RuntimeError("not this frame")


def test_what_submit_raises_ends_the_load():
    with pytest.raises(RuntimeError, match="not this frame"):
        closed_loop_in_flight(refusing, FRAMES, inflight=2, duration_s=60.0)


def test_columns_and_back():
    clock = HandClock()
    samples = open_loop(server(clock, [30.0]), FRAMES, rate_hz=100.0, duration_s=0.5, clock=clock)
    again = Samples.from_columns(samples.columns())
    assert again.columns() == samples.columns()
    assert len(again.unserved) > 0
