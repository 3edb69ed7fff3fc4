"""The precision that was built, read back from the engine: asked of a played TensorRT and GPU."""

import json
import sys

import pytest

from agp_edge import ModelError, read_manifest
from agp_edge.cli import main
from agp_edge.plan.build import plan_from_onnx
from agp_edge.plan.precision import layers_precision

from .fake_tensorrt import FP16, FP32, GPU, INT8, VERSIONS, FakeTensorRt, layers


@pytest.fixture(params=VERSIONS)
def trt(request, monkeypatch):
    """A played TensorRT on a machine with a GPU of SM 8.6."""
    module = FakeTensorRt(request.param)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr("agp_edge.plan.build.find_gpus", lambda: (GPU,))
    monkeypatch.setattr("agp_edge.plan.targets.find_gpus", lambda: (GPU,))
    return module


def test_what_was_built_is_in_report_plan_and_info(trt, small_model, tmp_path, capfd):
    path = tmp_path / "m.plan"
    report = plan_from_onnx(small_model, path, backend="auto")
    assert report.backend == f"TensorRT {trt.__version__}"
    assert report.targets == ("8.6",)
    assert (report.precision, report.built) == ("fp32", "fp32")
    assert trt.verbosity == trt.ProfilingVerbosity.DETAILED
    assert trt.loaded[-1] == path.read_bytes()  # what is written was loaded
    assert report.plan_bytes == path.stat().st_size
    manifest = read_manifest(path)
    assert manifest["precision"] == {"asked": "fp32", "built": "fp32"}
    assert manifest["versions"]["tensorrt"] == trt.__version__
    capfd.readouterr()
    assert main(["info", str(path)]) == 0
    assert "precision       fp32 built, fp32 asked\n" in capfd.readouterr().out
    assert main(["build", str(small_model), "-o", str(path), "--backend", "tensorrt"]) == 0
    assert "fp32 asked, fp32 built, " in capfd.readouterr().out


NONSENSE = [
    "",
    "not JSON",
    "null",
    "[]",
    "{}",
    '{"Layers": null}',
    '{"Layers": 5}',
    '{"Layers": []}',
    '{"Layers": ["conv", "mean"]}',
    '{"Layers": [{"Name": "conv"}]}',
    '{"Layers": [{"Outputs": null}]}',
    '{"Layers": [{"Outputs": ["x"]}]}',
    '{"Layers": [{"Outputs": [{"Name": "x"}]}]}',
    '{"Layers": [{"Outputs": [{"Format/Datatype": null}]}]}',
    layers("a format of the future"),
    '{"Layers": ' + "[" * 100_000,
]


@pytest.mark.parametrize("text", NONSENSE, ids=lambda text: text[:40])
def test_text_that_does_not_tell(text):
    assert layers_precision(text) is None


@pytest.mark.parametrize(
    ("formats", "expected"),
    [
        ((FP32, FP32, FP16), "fp32"),
        ((FP16, FP16, FP32), "fp16"),
        ((FP32, FP32, INT8), "int8"),
        (("Half", "Float", "Half"), "fp16"),
        (("Float", "Int32", "Bool"), "fp32"),
        (("Row major linear BFloat16", "Row major linear BFloat16", FP32), "fp32"),
    ],
)
def test_the_type_that_the_layers_put_out(formats, expected):
    assert layers_precision(layers(*formats)) == expected


def raise_runtime_error():
    raise RuntimeError("a null pointer")


def not_utf8():
    return b"\x80".decode()


@pytest.mark.parametrize(
    "information",
    [None, raise_runtime_error, not_utf8, lambda: "", lambda: '{"Layers": ["names only"]}'],
    ids=["no inspector", "it raises", "not UTF-8", "empty", "names only"],
)
def test_an_inspector_that_does_not_tell(information, trt, small_model, tmp_path, capfd):
    """The plan is good, and says that only what was asked for is known."""
    trt.information = information
    path = tmp_path / "m.plan"
    assert plan_from_onnx(small_model, path, backend="tensorrt").built is None
    assert read_manifest(path)["precision"] == {"asked": "fp32", "built": None}
    assert main(["info", str(path)]) == 0
    assert "precision       fp32 asked (no GPU has read back" in capfd.readouterr().out


def test_a_plan_that_does_not_load_here(trt, small_model, tmp_path):
    trt.loads = lambda plan: False
    assert plan_from_onnx(small_model, tmp_path / "m.plan", backend="tensorrt").built is None
    assert read_manifest(tmp_path / "m.plan")["precision"]["built"] is None


def test_a_plan_that_may_not_be_changed_is_kept_as_it_was(trt, small_model, tmp_path):
    """As if TensorRT kept a checksum: the changed plan would reach no line."""
    trt.loads = lambda plan: plan == trt.loaded[0]
    path = tmp_path / "m.plan"
    assert plan_from_onnx(small_model, path, backend="tensorrt").built is None
    assert len(trt.loaded) == 2
    assert path.read_bytes() == trt.loaded[0]
    assert read_manifest(path)["precision"] == {"asked": "fp32", "built": None}


def test_a_key_that_looks_like_the_place_for_it(trt, write_model, tmp_path):
    """Two places: which of them is ours cannot be told, and a plan is no reason to guess."""
    model = write_model(tmp_path / "m.onnx", changes={"later": {"built": None}})
    report = plan_from_onnx(model, tmp_path / "m.plan", backend="tensorrt")
    manifest = read_manifest(tmp_path / "m.plan")
    assert manifest["later"] == {"built": None}
    assert manifest["precision"]["built"] == report.built


def test_a_plan_wider_than_asked_for_is_refused(trt, small_model, tmp_path, capfd):
    """Converted to FP16, and the engine's layers say FP32."""
    arguments = ["build", str(small_model), "-o", str(tmp_path / "m.plan")]
    assert main([*arguments, "--backend", "tensorrt", "--precision", "fp16"]) == 1
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert f"TensorRT {trt.__version__} compiled '" in error
    assert "in fp32 though the graph asks for fp16: nothing was written" in error
    assert list(tmp_path.iterdir()) == []
    trt.information = lambda: layers(FP16, FP16, FP32)
    assert main([*arguments, "--backend", "tensorrt", "--precision", "fp16"]) == 0
    precision = read_manifest(tmp_path / "m.plan")["precision"]
    assert (precision["asked"], precision["built"]) == ("fp16", "fp16")


def test_the_longest_manifest_counts_what_will_be_read_back(trt, write_model, tmp_path):
    """`built` grows by two bytes: they are kept free before anything is compiled."""
    model = write_model(tmp_path / "m.onnx")
    manifest = read_manifest(model)
    manifest["versions"]["tensorrt"] = trt.__version__
    manifest["built_for"] = ["8.6"]
    room = 4095 - len(json.dumps(manifest, separators=(",", ":"))) - 2
    model = write_model(model, changes={"name": manifest["name"] + "e" * room})
    assert plan_from_onnx(model, tmp_path / "m.plan", backend="tensorrt").built == "fp32"
    model = write_model(model, changes={"name": manifest["name"] + "e" * (room + 1)})
    with pytest.raises(ModelError, match="has 4096 bytes, and a plan holds at most 4095"):
        plan_from_onnx(model, tmp_path / "m.plan", backend="tensorrt")
