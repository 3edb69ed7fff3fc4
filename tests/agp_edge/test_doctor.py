import json

import pytest

from agp_edge import DependencyError, DeviceError, doctor
from agp_edge.cli import main
from agp_edge.engines.tensorrt import FLAVOURS
from agp_edge.gpu import find_gpus


@pytest.fixture(scope="module")
def findings():
    return {finding.name: finding for finding in doctor.examine()}


def test_what_is_installed_is_found_with_version_and_library(findings):
    import onnxruntime
    import openvino
    import tensorrt_rtx_bindings

    from agp_edge import _core

    assert findings["agp_edge extension"].path == _core.__file__
    runtime = findings["ONNX Runtime"]
    assert (runtime.usable, runtime.version) == (True, onnxruntime.__version__)
    assert runtime.path.endswith(".so")
    vino = findings["OpenVINO"]
    assert vino.usable
    assert vino.version.startswith(openvino.__version__.partition("-")[0][:6])
    assert "libopenvino_c.so" in vino.path
    rtx = findings["TensorRT for RTX"]
    assert rtx.version == tensorrt_rtx_bindings.__version__
    assert "libtensorrt_rtx.so" in rtx.path


def test_what_is_missing_names_the_command(findings):
    for finding in findings.values():
        assert finding.usable or finding.problem
    missing = [f for name, f in findings.items() if name == "TensorRT" and not f.version]
    for finding in missing:
        assert "pip install 'agp-edge[tensorrt]'" in finding.problem


def test_the_gpu_line_is_what_the_driver_says(findings):
    gpus = [finding for finding in findings.values() if finding.name.startswith("GPU")]
    if gpus[0].usable:
        assert len(find_gpus()) == len(gpus)
        return
    with pytest.raises(DeviceError, match=r"libcuda|CUDA error|lists no device") as caught:
        find_gpus()
    assert gpus[0].problem == str(caught.value)


def test_the_command(capfd):
    assert main(["doctor"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert "yes  ONNX Runtime: .onnx on the CPU" in out
    assert main(["doctor", "--json"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    names = [finding["name"] for finding in json.loads(out)]
    assert names[:3] == ["agp_edge extension", "ONNX Runtime", "OpenVINO"]
    assert {flavour.name for flavour in FLAVOURS.values()} <= set(names)


def test_no_engine_at_all_is_an_error(monkeypatch, capfd):
    def missing():
        raise DependencyError("not installed: install it with `pip install x`")

    monkeypatch.setattr(doctor, "_onnxruntime", missing)
    monkeypatch.setattr(doctor, "_openvino", missing)
    assert main(["doctor"]) == 1
    out, err = capfd.readouterr()
    assert " no  OpenVINO" in out
    assert "no engine that scores a model is usable here" in err
    assert err.count("\n") == 1


def test_what_does_not_load_is_reported(monkeypatch):
    def broken(name):
        raise ImportError("undefined symbol: x")

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    findings = doctor.examine()
    usable = {finding.name: finding.usable for finding in findings}
    assert not usable["agp_edge extension"]
    assert not usable["ONNX Runtime"]
    with pytest.raises(DependencyError, match=r"compiled part .*undefined symbol"):
        doctor.require_engine(findings)
