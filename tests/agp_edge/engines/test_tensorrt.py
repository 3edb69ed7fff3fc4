"""Plans, the native modules and the bindings, on a machine whose CUDA driver is the fake one.

The driver (cpp/tests/fakes/fake_cuda.cpp) claims a GPU, so that the real TensorRT libraries are
opened and have to fail: each time in one sentence, with the process alive.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from agp_edge import _core
from agp_edge.engines.tensorrt import FLAVOURS, library_folders, plan_flavour
from agp_edge.errors import DeviceError, ModelError

if TYPE_CHECKING:
    from pathlib import Path

HAS_RTX_MODULE = "TensorRT for RTX" in _core.tensorrt_modules()


@pytest.fixture
def driver(fake_driver):
    return fake_driver


@pytest.fixture(scope="module")
def plan(tmp_path_factory, small_model):
    """A real plan of TensorRT for RTX, for SM 8.6."""
    from agp_edge.plan.build import plan_from_onnx

    path = tmp_path_factory.mktemp("plan") / "small.plan"
    plan_from_onnx(small_model, path, backend="rtx", targets=(86,))
    return path


def run_python(code: str, *arguments: object, driver: Path, **variables: str) -> str:
    """What the code prints; on its own, because what is tested may end the process."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "AGP_EDGE_CUDA_DRIVER": str(driver), **variables},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


OPEN = """
import sys
from agp_edge import Detector, Error
try:
    Detector(sys.argv[1])
except Error as error:
    print(type(error).__name__, error)
"""


def test_plans_say_what_they_were_built_for(plan):
    from agp_edge.manifest import read_manifest

    assert read_manifest(plan)["built_for"] == ["8.6"]
    assert plan_flavour(str(plan)) == "rtx"


def test_a_driver_older_than_tensorrt(plan, driver):
    """TensorRT for RTX itself refuses, since there is no CUDA behind the fake."""
    text = run_python(OPEN, plan, driver=driver, AGP_EDGE_FAKE_CUDA_SM="8.6")
    assert text.startswith(f"DeviceError the plan '{plan}' could not be loaded by TensorRT for RTX")
    assert "cudaError 35" in text
    assert "update the NVIDIA driver" in text
    if HAS_RTX_MODULE:
        assert "on Fake GPU 0 (SM 8.6, driver for CUDA 12.6)" in text
    else:
        assert "(Python bindings)" in text


def test_a_plan_for_another_gpu_names_both_and_the_command(plan, driver):
    text = run_python(OPEN, plan, driver=driver, AGP_EDGE_FAKE_CUDA_SM="8.7")
    assert text.startswith(f"ModelError the plan '{plan}' was built by TensorRT for RTX ")
    assert "for SM 8.6, this GPU is Fake GPU 0 (SM 8.7, driver for CUDA 12.6)" in text
    assert text.endswith(f"`agp-edge build MODEL.onnx -o {plan}`")


def test_a_truncated_plan_is_refused_by_tensorrt(plan, driver, tmp_path):
    cut = tmp_path / "cut.plan"
    whole = plan.read_bytes()
    cut.write_bytes(whole[: whole.index(b'{"agp_edge_manifest"') + 4096])
    text = run_python(OPEN, cut, driver=driver, AGP_EDGE_FAKE_CUDA_SM="8.6")
    assert text.startswith(f"ModelError the plan '{cut}'")
    assert "Serialization" in text


def test_a_file_that_is_no_plan_any_more(plan, driver, tmp_path):
    spoiled = tmp_path / "spoiled.plan"
    spoiled.write_bytes(b"????" + plan.read_bytes()[4:])
    text = run_python(OPEN, spoiled, driver=driver)
    assert text.startswith(f"ModelError '{spoiled}' does not start like a plan")


def test_a_driver_without_devices(plan, driver):
    text = run_python(OPEN, plan, driver=driver, AGP_EDGE_FAKE_CUDA_DEVICES="0")
    assert text.startswith(f"DeviceError '{plan}' is a TensorRT plan, and no NVIDIA GPU")


def test_the_lean_runtime_that_hands_out_null(plan, driver, tmp_path):
    """Where CUDA does not start it returns a base class's offset in place of an object."""
    assert FLAVOURS["lean"].find_module(), f"the tests need {FLAVOURS['lean'].install}"
    foreign = tmp_path / "foreign.plan"
    foreign.write_bytes(b"ftrt" + plan.read_bytes()[4:])
    text = run_python(OPEN, foreign, driver=driver, AGP_EDGE_FAKE_CUDA_SM="8.6")
    if "TensorRT 11" in _core.tensorrt_modules():
        assert text.startswith(f"DeviceError the plan '{foreign}' could not be loaded by Tensor")
        assert "update the NVIDIA driver, or install a TensorRT that fits it" in text
    else:
        assert text.startswith("DeviceError TensorRT lean runtime")


BINDINGS = """
import sys
from agp_edge import Error
from agp_edge.engines import tensorrt_bindings
try:
    tensorrt_bindings.open_plan(sys.argv[1], sys.argv[2])
except Error as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("flavour", "start"),
    [
        ("lean", "DeviceError TensorRT lean runtime 11"),
        ("rtx", "DeviceError the plan '{}' could not be loaded by TensorRT for RTX 1"),
    ],
)
def test_the_bindings_without_a_gpu(flavour, start, plan, driver):
    assert FLAVOURS[flavour].find_module(), f"the tests need {FLAVOURS[flavour].install}"
    text = run_python(BINDINGS, plan, flavour, driver=driver)
    assert text.startswith(start.format(plan))
    assert "35" in text
    assert "NVIDIA driver" in text or "fits the driver" in text


LOGGED = """
import logging, sys
from agp_edge import Detector, Error
layout = "%(name)s %(levelname)s %(message)s"
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout, format=layout)
try:
    Detector(sys.argv[1])
except Error:
    print("refused")
"""


def test_messages_of_tensorrt_reach_logging(plan, driver):
    lines = run_python(LOGGED, plan, driver=driver, AGP_EDGE_FAKE_CUDA_SM="8.6").splitlines()
    assert any(line.startswith("agp_edge.tensorrt ERROR ") for line in lines)
    assert lines[-1] == "refused"


def test_libraries_are_found_without_importing_them(driver):
    code = """
import sys
from agp_edge.engines.tensorrt import library_folders
print(library_folders())
print([name for name in sys.modules if name.startswith("tensorrt")])
"""
    folders, imported = run_python(code, driver=driver).splitlines()
    assert "tensorrt_rtx_libs" in folders
    assert imported == "[]"


def test_a_callable_engine_in_device_memory(small_model, driver):
    """Addresses and stream are the driver's, not the host's."""
    code = """
import ctypes, os, json, sys
import numpy as np
from agp_edge import _core
fake = ctypes.CDLL(os.environ["AGP_EDGE_CUDA_DRIVER"])
fake.fake_cuda_host.restype = ctypes.c_void_p
fake.fake_cuda_host.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
seen = []
def function(stream, inputs, outputs):
    assert stream != 0
    assert fake.fake_cuda_host(inputs[0], 4 * 3 * 64 * 64)
    assert not fake.fake_cuda_host(inputs[0], 4 * 3 * 64 * 64 + 1)
    assert fake.fake_cuda_host(outputs[0], 4 * 8 * 8)
    seen.append((stream, *inputs, *outputs))
    raise KeyError("from the function")
engine = _core.CallableEngine("mine", [("image", "float32", (1, 3, 64, 64))],
                              [("distance", "float32", (1, 1, 8, 8))], function, memory="device")
detector = _core.Detector(sys.argv[1], "test", engine, threshold=1.0)
for _ in range(2):
    try:
        detector.score(np.zeros((50, 40), np.uint8))
    except KeyError as error:
        print(error)
assert len(seen) == 2 and seen[0] == seen[1]
del detector, engine
print(fake.fake_cuda_live())
"""
    manifest = _core.read_manifest_json(str(small_model))
    text = run_python(code, manifest, driver=driver)
    assert text.splitlines() == ["'from the function'"] * 2 + ["0"]


def test_an_unknown_memory():
    with pytest.raises(ModelError, match="'host' or 'device' is expected"):
        _core.CallableEngine("x", [], [], print, memory="disk")


@pytest.mark.gpu
def test_a_plan_on_this_gpu_agrees_with_the_cpu(small_model, tmp_path, good_frame, bad_frame):
    """Compiled here for this GPU, opened natively and through the bindings."""
    from agp_edge import Detector
    from agp_edge.engines.tensorrt_bindings import open_plan
    from agp_edge.plan.build import plan_from_onnx

    path = tmp_path / "small.plan"
    report = plan_from_onnx(small_model, path)
    flavour = "rtx" if "RTX" in report.backend else "tensorrt"
    manifest = _core.read_manifest_json(str(path))
    bindings = _core.Detector(manifest, str(path), open_plan(str(path), flavour))
    with Detector(small_model, device="cpu") as cpu, Detector(path) as native:
        for frame in (good_frame, bad_frame):
            expected = cpu.score(frame)
            for actual in (native.score(frame), bindings.score(frame)):
                np.testing.assert_allclose(actual.score, expected.score, rtol=1e-4)
                np.testing.assert_allclose(
                    actual.anomaly_map, expected.anomaly_map, rtol=1e-3, atol=1e-4
                )


@pytest.mark.gpu
def test_closing_gives_device_memory_back(small_model, tmp_path):
    from agp_edge import Detector
    from agp_edge.plan.build import plan_from_onnx

    path = tmp_path / "small.plan"
    plan_from_onnx(small_model, path)
    for _ in range(50):
        Detector(path).close()
    with pytest.raises(DeviceError, match="was asked for"):
        _core.open_tensorrt(str(path), library_folders=library_folders(), device=99)
