"""Other ways on the same frames: they do the same work, or the table says that they do not."""

import json
import stat
import sys
import time

import numpy as np
import pytest

from agp_edge import DependencyError, Detector, Error
from agp_edge.bench.against import NAMES, open_ways, side_by_side
from agp_edge.bench.against.run import run_against
from agp_edge.bench.against.trtexec import run_trtexec
from agp_edge.bench.against.way import Way
from agp_edge.bench.frames import synthetic_frames
from agp_edge.bench.text import against_lines
from agp_edge.cli import main
from agp_edge.manifest import read_manifest


@pytest.mark.parametrize(
    "changes",
    [
        {"input.resize": "area"},
        {"input.resize": "antialias"},
        {"input.resize": "area", "input.roi": [20, 10, 200, 180]},
        {"input.resize": "area", "postprocess.score": "top_mean", "postprocess.top_share": 0.05},
        {"input.resize": "area", "postprocess.score": "power_mean", "postprocess.power": 24},
        {"input.resize": "area", "input.channels": "bgr"},
        {"input.resize": "area", "postprocess.sigma": 0.0},
    ],
)
@pytest.mark.parametrize("format", ["bgr8", "mono8"])
def test_plain_ways_give_our_scores(write_model, tmp_path, changes, format):
    model = write_model(tmp_path / "model.onnx", changes=changes)
    ways, left_out = open_ways(model, read_manifest(model), ["all"], threads=1)
    assert left_out == []
    assert ways[0].name == "ONNX Runtime + OpenCV"
    with Detector(model, threads=1) as detector:
        for frame in synthetic_frames(256, 192, format=format).arrays[:2]:
            expected = detector.score(frame).score
            for way in ways:
                if "INTER_AREA" in way.note:  # other pixels, said in the table
                    assert changes["input.resize"] == "antialias"
                    continue
                # the libraries round the resized picture to 8 bits
                assert way.score(frame) == pytest.approx(expected, rel=0.02), way.name


def test_the_table(small_model):
    frames = synthetic_frames(160, 120)
    table = run_against(small_model, frames, ["onnxruntime"], duration_s=0.1, threads=1)
    ours, *others = table.rows
    assert ours.ratio is None
    assert table.rounds >= 20
    assert all(len(samples) == table.rounds for samples in table.samples_ms.values())
    for row in others:
        low, high = row.ratio_interval
        assert 0 < low <= row.ratio <= high
    json.dumps(table.to_dict(), allow_nan=False)


def test_a_cheaper_job_is_noticed():
    """One that leaves something out, one that is slower, one with another model."""

    def ours(frame):
        time.sleep(0.002)
        return float(frame[0, 0])

    def slower(frame):
        time.sleep(0.006)
        return float(frame[0, 0]) * 1.001

    ways = [
        Way(name="cheaper", score=lambda frame: float(frame[0, 0]) * 1.5, same_graph=True),
        Way(name="slower", score=slower, same_graph=True),
        Way(name="other model", score=lambda frame: 7.0, same_graph=False),
    ]
    frames = [np.full((4, 4), value, np.uint8) for value in (10, 20)]
    table = side_by_side(ours, ways, frames, duration_s=0.2, rest=False)
    rows = {row.name: row for row in table.rows}
    assert rows["cheaper"].agrees is False
    assert rows["cheaper"].score_difference == pytest.approx(0.5)
    assert rows["slower"].agrees is True
    assert rows["slower"].ratio == pytest.approx(3, rel=0.4)
    assert rows["slower"].ratio_interval[0] > 1.5
    assert rows["other model"].agrees is None
    text = "\n".join(against_lines(table))
    assert "cheaper: scores differ by up to 50.0% of ours: it does not do the same work" in text
    assert "slower: scores agree with ours within 0.10%" in text


def test_orders_are_random_and_every_way_sees_every_frame():
    calls = []
    ways = [
        Way(name=name, score=lambda frame, name=name: calls.append((name, int(frame))) or 0.0,
            same_graph=False)
        for name in "abc"
    ]  # fmt: skip
    side_by_side(lambda frame: calls.append(("ours", int(frame))) or 0.0, ways,
                 [np.array(n) for n in range(5)], duration_s=0.01, rest=False)  # fmt: skip
    rounds = [calls[start : start + 4] for start in range(0, len(calls), 4)]
    assert all(len({name for name, _ in r}) == 4 and len({f for _, f in r}) == 1 for r in rounds)
    assert len({tuple(name for name, _ in r) for r in rounds}) > 5


FAKE_TRTEXEC = """#!{python}
import json, sys
options = dict(a.lstrip("-").partition("=")[::2] for a in sys.argv[1:])
if not open(options["loadEngine"], "rb").read().startswith(b"ftrt"):
    print("[E] Engine deserialization failed"); sys.exit(1)
rows = [{{"latencyMs": 2.0 + i / 100, "computeMs": 1.5, "h2dMs": 0.1}} for i in range(101)]
json.dump(rows, open(options["exportTimes"], "w"))
"""


def test_trtexec_is_run_and_its_times_are_read(tmp_path, monkeypatch):
    """With a program of that name, which writes what --exportTimes writes."""
    program = tmp_path / "trtexec"
    program.write_text(FAKE_TRTEXEC.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    plan = tmp_path / "model.plan"
    plan.write_bytes(b"ftrt...")
    found = run_trtexec(plan, duration_s=1.0)
    assert found == {
        "iterations": 101, "latency_ms": [2.5, 2.9, 2.99], "compute_ms": [1.5, 1.5, 1.5]
    }  # fmt: skip
    plan.write_bytes(b"nonsense")
    with pytest.raises(Error, match=r"trtexec failed on .*Engine deserialization failed"):
        run_trtexec(plan, duration_s=1.0)


def test_what_is_missing_is_named(small_model, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    frames = synthetic_frames(64, 64)
    with pytest.raises(DependencyError, match="trtexec is not installed"):
        run_trtexec(small_model, duration_s=1.0)
    with pytest.raises(Error, match="needs a TensorRT plan"):
        run_against(small_model, frames, ["trtexec"])
    manifest = read_manifest(small_model)
    with pytest.raises(Error, match=r"unknown ways \['fast'\]: expected some of all, onnxruntime"):
        open_ways(small_model, manifest, ["fast"])
    with pytest.raises(Error, match="anomalib has no model"):
        open_ways(small_model, manifest, ["anomalib"])
    monkeypatch.setitem(sys.modules, "anomalib", None)
    with pytest.raises(DependencyError, match="anomalib"):
        open_ways(small_model, manifest, ["anomalib"], models=["x.pt"])
    assert set(NAMES) == {"all", "onnxruntime", "openvino", "trtexec", "anomalib"}
    assert main(["bench", str(small_model), "--size", "64x64", "--against", "fast"]) == 1
    assert "unknown ways" in capsys.readouterr().err


def test_the_command(small_model, tmp_path, capsys):
    file = tmp_path / "b.json"
    arguments = ["--size=64x64", "--duration=0.2", "--rate=50", "--warm-up=0.1", "--threads=1"]
    assert main(["bench", str(small_model), *arguments, "--against=all", f"--json={file}"]) == 0
    out = capsys.readouterr().out
    assert "OpenVINO + OpenCV" in out
    table = json.loads(file.read_text())["against"]
    assert [row["name"] for row in table["rows"]][1:] == [
        "ONNX Runtime + OpenCV", "ONNX Runtime + Pillow + SciPy", "OpenVINO + OpenCV",
        "OpenVINO in FP32 + OpenCV",
    ]  # fmt: skip
