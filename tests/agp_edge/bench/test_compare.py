"""Benchmarks whose samples are known, compared."""

import dataclasses
import json

import numpy as np
import pytest

from agp_edge import Error
from agp_edge.bench import Benchmark, read_benchmark, write_json
from agp_edge.bench.blocks import block_length, bootstrap_percentiles
from agp_edge.bench.compare import compare_benchmarks
from agp_edge.bench.measurement import Measurement
from agp_edge.bench.samples import Samples
from agp_edge.bench.warm_up import WarmUp
from agp_edge.cli import main

MS = 1_000_000


def correlated(seed, count=4000, share=0.8):
    """Latencies in ms, 5 or more, whose neighbours correlate by `share`."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=count)
    series = np.empty(count)
    level = 0.0
    for index in range(count):
        level = share * level + (1 - share**2) ** 0.5 * noise[index]
        series[index] = level
    return 5 + np.exp(0.5 * series)


def made_of(latency_ms, *, load="closed", rate_hz=60.0, sha="a" * 64, unserved=0):
    latency = (np.asarray(latency_ms) * MS).astype(np.int64)
    start = np.cumsum(latency) - latency
    zero = np.zeros_like(latency)
    samples = Samples(
        due=start, start=start, end=start + latency, total=latency,
        engine={"preprocess": zero, "execute": latency, "postprocess": zero},
        unserved=np.arange(unserved, dtype=np.int64),
    )  # fmt: skip
    machine = {"power_w": None, "energy_per_frame_j": None, "throttled": []}
    return Benchmark(
        model={"sha256": "b" * 64},
        provenance={
            "machine": {"cpu": "x", "cores": 2, "governors": [], "nvpmodel": None},
            "versions": {"agp-edge": "1"},
        },
        frames={"sha256": sha, "sizes": {"640x480 bgr8": 2}, "source": "synthetic"},
        settings={"engine": "e", "threads": 1},
        warm_ups={
            1: WarmUp(frames=1, truncated=0, seconds=1.0, steady=True, rule="", latency_ns=[1])
        },
        peak_rss_at_load=None,
        measurements=(
            Measurement(
                load=load, inflight=1, rate_hz=rate_hz, deadline_ms=1e3 / rate_hz,
                samples=samples, machine=machine, peak_rss=None,
            ),
        ),
        cold=None,
    )  # fmt: skip


def verdicts(first, second, **options):
    found = compare_benchmarks(first, second, resamples=400, **options)
    return {f"p{d.percent:g}": d.verdict for d in found.differences}


def test_a_benchmark_and_itself():
    first = made_of(correlated(0))
    found = compare_benchmarks(first, first, resamples=400)
    assert all(d.low <= 1 <= d.high and d.ratio == 1 for d in found.differences)
    assert not found.is_slower
    assert "slower" not in verdicts(first, first).values()
    assert "faster" not in verdicts(first, first).values()


def test_a_known_slowdown_and_a_known_gain():
    first, second = made_of(correlated(0)), made_of(1.3 * correlated(1))
    assert verdicts(first, second)["p50"] == verdicts(first, second)["p90"] == "slower"
    assert verdicts(second, first)["p50"] == "faster"


def test_less_than_the_margin_is_no_difference():
    rng = np.random.default_rng(0)
    first, second = (made_of(5 + rng.gamma(2, 0.1, 4000) + d) for d in (0, 0.1))
    assert verdicts(first, second)["p50"] == "same"
    assert verdicts(first, second, margin=0.001)["p50"] == "slower"


def test_noise_that_hides_the_answer_is_called_unresolved():
    first = made_of(correlated(0, count=400, share=0.98))
    second = made_of(1.1 * correlated(1, count=400, share=0.98))
    assert verdicts(first, second)["p50"] == "unresolved"


def test_blocks_are_what_keeps_false_alarms_away():
    """Runs of one process, neighbours alike: none may be called slower than another.

    With independent resampling more than half of these intervals would exclude 1.
    """
    false, naive = 0, 0
    for seed in range(30):
        first, second = correlated(2 * seed, 500, 0.95), correlated(2 * seed + 1, 500, 0.95)
        found = verdicts(made_of(first), made_of(second), margin=0.0)
        false += found["p50"] in ("slower", "faster")
        rng = np.random.default_rng(seed)
        draws = [
            bootstrap_percentiles(rng.permutation(s), (50.0,), resamples=200, rng=rng)
            for s in (first, second)
        ]
        low, high = np.quantile(draws[1] / draws[0], (0.0125, 0.9875))
        naive += not low <= 1 <= high
    assert false <= 5
    assert naive >= 12


def test_block_length():
    rng = np.random.default_rng(0)
    assert block_length(rng.normal(size=4000)) <= 6
    assert 20 <= block_length(correlated(0, share=0.9)) <= 200
    assert block_length(np.ones(100)) == 1
    assert 5 <= block_length(np.arange(30.0)) <= 10  # no more than a third


def test_too_few_frames_are_named():
    found = compare_benchmarks(made_of([5.0, 6.0] * 25), made_of([5.0, 6.0] * 25), resamples=50)
    assert {d.percent for d in found.differences} == {50.0, 90.0}
    assert found.skipped[0] == "closed loop, 1 in flight: p99 needs 368 frames, there are 50"


def test_frames_that_were_never_served_are_the_slowest():
    first, second = made_of(correlated(0)), made_of(correlated(0), unserved=2000)
    found = compare_benchmarks(first, second, resamples=200)
    by_percent = {d.percent: d for d in found.differences}
    assert by_percent[90.0].second_ms == np.inf
    assert by_percent[90.0].verdict == "slower"


def test_other_work_is_refused_unless_asked_for():
    first, second = made_of(correlated(0)), made_of(correlated(0), sha="c" * 64)
    with pytest.raises(Error, match="did not do the same work: frames are 2 of 640x480"):
        compare_benchmarks(first, second)
    found = compare_benchmarks(first, second, different_frames=True, resamples=50)
    assert found.notes[0].startswith("frames are")
    slower_line = [made_of(correlated(0), load="open", rate_hz=rate) for rate in (60.0, 30.0)]
    with pytest.raises(Error, match="ran at 60 frames/s in A and 30 in B"):
        compare_benchmarks(*slower_line)
    with pytest.raises(Error, match="no load in common"):
        compare_benchmarks(made_of([5.0]), made_of([5.0], load="open"))
    with pytest.raises(Error, match="margin is -1"):
        compare_benchmarks(first, first, margin=-1)


def test_what_else_differs_is_noted():
    first = made_of(correlated(0))
    second = dataclasses.replace(first, settings={"engine": "f", "threads": 1})
    found = compare_benchmarks(first, second, resamples=50)
    assert found.notes == ("the engine differs: e and f",)


def test_the_command(tmp_path, capsys):
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    write_json(a, made_of(correlated(0)))
    write_json(b, made_of(1.5 * correlated(1)))
    assert main(["bench", "--compare", str(a), str(a)]) == 0
    assert "no figure of B is slower" in capsys.readouterr().out
    assert main(["bench", "--compare", str(a), str(b)]) == 4
    out = capsys.readouterr().out
    assert "slower" in out
    assert read_benchmark(b).measurements[0].samples.latency.max() > 0
    assert main(["bench", "--compare", str(b), str(a)]) == 0
    assert main(["bench"]) == 1
    assert "needs a MODEL, or --compare" in capsys.readouterr().err
    document = json.loads(a.read_text())
    assert document["measurements"][0]["samples_ns"]["end"]
