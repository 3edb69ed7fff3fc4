"""build --precision auto: which candidate is taken, with recorded times and real detectors."""

import ctypes
import json
import time
from dataclasses import replace

import pytest
from onnx import helper, load, save

from agp_edge import DeviceError, Error, ModelError, _core, read_manifest
from agp_edge.calibration.graph.model_digest import graph_sha256
from agp_edge.cli import main
from agp_edge.manifest import MANIFEST_KEY
from agp_edge.plan.auto_precision import Candidate, choose, fastest_plan, median_milliseconds
from agp_edge.plan.build import BuildReport
from agp_edge.self_test import self_test_frame


def candidate(name, milliseconds, **changes):
    return replace(
        Candidate(name=name, precision="int8", milliseconds=milliseconds, loss=None), **changes
    )


def test_the_fastest_is_taken_and_the_wider_of_equals():
    half, full = candidate("fp16", 2.0), candidate("int8", 1.5)
    assert choose([half, full]).chosen is full
    assert choose([half, candidate("int8", 2.5)]).chosen is half
    assert choose([half, candidate("int8", 1.99)]).chosen is half  # noise
    left_out = candidate("int8", None, refusal="it loses more than 0.002", loss=0.1)
    choice = choose([half, left_out, candidate("mixed", 1.8)])
    assert choice.chosen.name == "mixed"
    assert choice.lines()[1] == "int8 (int8): left out, it loses more than 0.002, loss 0.1"
    assert choice.lines()[2].endswith("1.800 ms <- taken")
    with pytest.raises(Error, match="no candidate is left"):
        choose([left_out])


@pytest.fixture
def files(write_model, tmp_path):
    """The FP32 model, and INT8 files that claim to come from it; the graph does not matter here."""
    source = write_model(tmp_path / "model.onnx")

    def int8(name, **changes):
        path = tmp_path / f"{name}.onnx"
        model = load(source)
        manifest = read_manifest(source)
        manifest["precision"] = {"asked": "int8", "built": None}
        manifest["quantisation"] = {
            "model": f"sha256:{graph_sha256(source)}",
            "loss": 0.001,
            "budget": 0.002,
            "within_budget": True,
            **changes,
        }
        del model.metadata_props[:]
        helper.set_model_props(model, {MANIFEST_KEY: json.dumps(manifest, separators=(",", ":"))})
        save(model, path)
        return path

    return source, int8


def recorded(times, source):
    """A measurement on real detectors whose engines take as long as was recorded, in ms."""
    built = []

    def build(file, plan, precision):
        built.append((file, precision))
        plan.write_bytes(file.encode())
        return BuildReport(
            path=str(plan), backend="test", targets=(), seconds=0.0, plan_bytes=1, weights=1
        )

    def measure(plan):
        file = plan.read_bytes().decode()
        manifest = read_manifest(source)
        spec, grid = manifest["input"], manifest["output"]

        def engine(stream, inputs, outputs):
            ctypes.memset(outputs[0], 0, 4 * grid["height"] * grid["width"])
            time.sleep(times[file] / 1e3)

        detector = _core.Detector(
            json.dumps(manifest),
            file,
            _core.CallableEngine(
                "recorded",
                [(spec["name"], "float32", [1, 3, spec["height"], spec["width"]])],
                [(grid["name"], "float32", [1, 1, grid["height"], grid["width"]])],
                engine,
            ),
            threshold=0.0,
            outputs=0,
        )
        return median_milliseconds(detector, self_test_frame(manifest, 1), warm_up=1, runs=5)

    return build, measure, built


def test_candidates_are_built_measured_and_the_fastest_kept(files, tmp_path):
    source, int8 = files
    fast, greedy = int8("fast"), int8("greedy", loss=0.5, within_budget=False)
    # far apart: a busy machine adds milliseconds of its own
    times = {str(source): 100.0, str(fast): 30.0, str(greedy): 1.0}
    build, measure, built = recorded(times, source)
    plan = tmp_path / "m.plan"
    _, choice = fastest_plan(source, plan, int8=[fast, greedy], build=build, measure=measure)
    assert choice.chosen.name == str(fast)
    assert choice.chosen.milliseconds >= 30.0
    assert choice.candidates[0].milliseconds >= 100.0
    assert plan.read_bytes() == str(fast).encode()
    assert built == [(str(source), "fp16"), (str(fast), "int8")]  # the greedy one is not built
    assert "does not keep a budget" in choice.candidates[2].refusal
    # the caller's budget counts, where there is one
    _, choice = fastest_plan(
        source, plan, int8=[fast, greedy], budget=1.0, build=build, measure=measure
    )
    assert choice.chosen.name == str(greedy)
    times[str(fast)] = 200.0
    _, choice = fastest_plan(source, plan, int8=[fast], build=build, measure=measure)
    assert choice.chosen.precision == "fp16"
    assert plan.read_bytes() == str(source).encode()


def test_foreign_files_and_missing_devices(files, tmp_path, monkeypatch, capsys):
    source, int8 = files
    build, measure, built = recorded({}, source)
    plan = tmp_path / "m.plan"
    with pytest.raises(ModelError, match=r"other\.onnx' was quantised from another model"):
        fastest_plan(
            source, plan, int8=[int8("other", model="sha256:0")], build=build, measure=measure
        )
    with pytest.raises(ModelError, match=r"model\.onnx' holds no record of its quantisation"):
        fastest_plan(source, plan, int8=[source], build=build, measure=measure)
    with pytest.raises(Error, match="was given no INT8 file"):
        fastest_plan(source, plan, int8=[], build=build, measure=measure)

    def none():
        raise DeviceError("no GPU")

    monkeypatch.setattr("agp_edge.plan.auto_precision.find_gpus", none)
    good = int8("good")
    arguments = ["build", str(source), "-o", str(plan), "--int8", str(good)]
    assert main([*arguments, "--precision", "auto"]) == 1
    assert capsys.readouterr().err == "agp-edge: no GPU\n"
    assert main([*arguments, "--precision", "fp16"]) == 1
    assert "belong to --precision auto" in capsys.readouterr().err
    assert not built
    assert not plan.exists()
