"""A model file that is swapped after its hash was compared: what was approved is what runs."""

import os
import sys

import numpy as np
import pytest

import agp_edge.detector
from agp_edge import Detector, DeviceError, ModelError, _core
from agp_edge.engines import tensorrt, tensorrt_bindings
from agp_edge.gpu import Gpu
from agp_edge.plan.build import plan_from_onnx
from agp_edge.site import file_sha256, read_approved, write_site
from agp_edge.site_document import Site

from .engines.fake_rtx import FakeRtx

GPU = Gpu(name="RTX A2000", compute_capability=(8, 6), driver_cuda=(13, 0))


def by_rename(path, content):
    aside = path.with_suffix(".new")
    aside.write_bytes(content)
    aside.replace(path)


def in_place(path, content):
    """The same inode, so that an open descriptor and a mapping show the new bytes."""
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()


def remove(path, content):
    path.unlink()


SWAPS = [by_rename, in_place, remove]


@pytest.fixture
def model(tmp_path, write_model):
    """A model with a site file."""
    path = write_model(tmp_path / "m.onnx")
    write_site(path, Site(model_sha256=file_sha256(path), threshold=0.25))
    return path


@pytest.fixture
def other(tmp_path, write_model):
    """Another model's bytes: every score of it is 5 larger, and so is its threshold."""
    path = write_model(tmp_path / "o" / "m.onnx", poison=5.0, changes={"name": "other"})
    return path.read_bytes()


@pytest.fixture(autouse=True)
def folder_of_the_other(tmp_path):
    (tmp_path / "o").mkdir()


def swap_after_the_hash(monkeypatch, path, content, swap):
    """Right between the comparison and the first byte that is read for anything else."""

    def compared(*arguments):
        result = read_approved(*arguments)
        swap(path, content)
        return result

    monkeypatch.setattr("agp_edge.site.read_approved", compared)


@pytest.fixture(params=["onnxruntime", "openvino"])
def engine(request):
    return request.param


@pytest.mark.parametrize("swap", SWAPS)
def test_the_approved_model_scores(swap, model, other, engine, request):
    bad_frame, monkeypatch = (request.getfixturevalue(n) for n in ("bad_frame", "monkeypatch"))
    with Detector(model, engine=engine) as detector:
        expected = detector.score(bad_frame)
    swap_after_the_hash(monkeypatch, model, other, swap)
    with Detector(model, engine=engine) as detector:
        assert detector.manifest["name"] == "small"
        result = detector.score(bad_frame)
    assert result.score == expected.score
    np.testing.assert_array_equal(result.anomaly_map, expected.anomaly_map)
    monkeypatch.undo()
    if swap is not remove:  # the next start sees it
        with pytest.raises(ModelError, match="is not the file that"):
            Detector(model, engine=engine)


@pytest.fixture
def plan(model, tmp_path):
    path = tmp_path / "m.plan"
    plan_from_onnx(model, path, backend="rtx", targets=(86,))
    write_site(path, Site(model_sha256=file_sha256(path), threshold=0.25))
    return path


@pytest.mark.parametrize("swap", SWAPS)
def test_the_approved_plan_reaches_the_bindings(swap, plan, tmp_path, monkeypatch):
    """Up to the pipeline, which needs the GPU that is only said to be there."""
    approved = plan.read_bytes()
    trt = FakeRtx()
    monkeypatch.setenv("AGP_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", trt)
    monkeypatch.setattr(tensorrt, "find_gpus", lambda: (GPU,))
    monkeypatch.setattr(tensorrt_bindings, "find_gpus", lambda: (GPU,))
    offered = []

    def no_module(path, *, library_folders, content):
        offered.append(bytes(content))
        raise agp_edge.DependencyError("no module")

    monkeypatch.setattr(_core, "open_tensorrt", no_module)
    swap_after_the_hash(monkeypatch, plan, b"vtrt" + os.urandom(5000), swap)
    with pytest.raises(DeviceError, match="no NVIDIA GPU"):
        Detector(plan)
    assert offered == [approved]
    assert trt.plans == [approved]


@pytest.mark.parametrize("swap", [by_rename, remove])
def test_a_mapped_plan_without_a_site_file_is_one_file(swap, plan, tmp_path, monkeypatch):
    """Nobody approved it, but manifest and engine still come from one file."""
    whole = plan.read_bytes()
    trt = FakeRtx()
    monkeypatch.setenv("AGP_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", trt)
    monkeypatch.setattr(tensorrt_bindings, "find_gpus", lambda: (GPU,))
    load = trt._load

    def load_and_swap(content):
        engine = load(content)
        swap(plan, b"vtrt" + os.urandom(5000))
        return engine

    monkeypatch.setattr(trt, "_load", load_and_swap)
    engine = tensorrt_bindings.open_plan(str(plan), "rtx")
    assert engine.name.startswith("TensorRT for RTX")
    assert trt.plans == [whole]


@pytest.mark.parametrize("swap", SWAPS)
def test_the_approved_model_is_compiled(swap, model, other, tmp_path, monkeypatch):
    """device="cuda": key and plan are those of the bytes whose hash was compared."""
    monkeypatch.setattr("agp_edge.plan.cache.find_gpus", lambda: (GPU,))
    monkeypatch.setenv("AGP_EDGE_CACHE", str(tmp_path / "cache"))
    opened = []

    def open_plan(path, *, content):
        opened.append(_core.read_manifest_json(path))
        raise DeviceError("this is where the GPU is needed")

    monkeypatch.setattr(tensorrt, "open_plan", open_plan)
    swap_after_the_hash(monkeypatch, model, other, swap)
    with pytest.raises(DeviceError, match="this is where"):
        Detector(model, device="cuda")
    assert '"name":"small"' in opened[0]


def test_a_copy_is_compiled_and_the_file_is_named(tmp_path, monkeypatch, write_model):
    model = write_model(tmp_path / "m.onnx", changes={"precision.asked": "fp16"})
    write_site(model, Site(model_sha256=file_sha256(model)))
    monkeypatch.setattr("agp_edge.plan.cache.find_gpus", lambda: (GPU,))
    monkeypatch.setenv("AGP_EDGE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ModelError) as caught:
        Detector(model, device="cuda")
    assert f"'{model}' holds an fp32 graph and its manifest says fp16" in str(caught.value)
