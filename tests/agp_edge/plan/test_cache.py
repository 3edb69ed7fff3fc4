"""Plans built on the spot: one build per key, whole files only, and a sentence for services.

TensorRT for RTX compiles for real here; what a machine without a GPU cannot do is run the plan.
"""

import json
import logging
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import pytest

from agp_edge import DataError, DependencyError, Detector, DeviceError, Error, ModelError
from agp_edge.cli import main
from agp_edge.plan.build import plan_from_onnx
from agp_edge.plan.cache import Target, cache_folder, cached_plan, plan_key

TARGET = Target(
    compiler="TensorRT 10.3.0", compute_capability="8.7", gpu="Orin", driver="540.4; CUDA 12.6"
)


class Compiler:
    """Compiles with TensorRT for RTX and counts how often."""

    def __init__(self, model):
        self.model = model
        self.calls = 0

    def __call__(self, path):
        self.calls += 1
        plan_from_onnx(self.model, path, backend="rtx", targets=(86,))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


def names(folder):
    return sorted(path.suffix for path in folder.iterdir())


def test_built_once_then_reused(small_model, folder):
    compiler = Compiler(small_model)
    first = cached_plan(small_model, TARGET, compiler, folder=folder)
    assert first.read_bytes()[:4] == b"vtrt"
    before = first.stat().st_mtime_ns
    second = cached_plan(small_model, TARGET, compiler, folder=folder)
    assert (second, compiler.calls) == (first, 1)
    assert first.stat().st_mtime_ns == before
    record = json.loads(first.with_suffix(".json").read_text())
    assert record["target"] == asdict(TARGET)
    assert record["model"] == str(small_model)
    assert names(folder) == [".json", ".lock", ".plan"]
    # a service takes it too
    assert cached_plan(small_model, TARGET, compiler, folder=folder, build=False) == first


def test_the_key_holds_everything(small_model, tmp_path, write_model):
    keys = {plan_key(small_model, TARGET)}
    for change in (
        {"compiler": "TensorRT 10.3.1"},
        {"compute_capability": "8.6"},
        {"gpu": "Orin Nano"},
        {"driver": "540.5; CUDA 12.6"},
    ):
        keys.add(plan_key(small_model, replace(TARGET, **change)))
    keys.add(plan_key(small_model, TARGET, {"precision": "fp16"}))
    keys.add(plan_key(small_model, TARGET, {"precision": "fp32"}))
    keys.add(plan_key(write_model(tmp_path / "b.onnx", changes={"name": "b"}), TARGET))
    assert len(keys) == 8
    assert all(len(key) == 32 and set(key) <= set("0123456789abcdef") for key in keys)
    # and nothing but: the same file elsewhere, in another process, another day
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(small_model.read_bytes())
    assert plan_key(copy, TARGET) in keys


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "record", "no record", "hash"])
def test_damaged_entries_are_built_again(damage, small_model, folder, caplog):
    compiler = Compiler(small_model)
    plan = cached_plan(small_model, TARGET, compiler, folder=folder)
    record, whole = plan.with_suffix(".json"), plan.read_bytes()
    if damage == "flip":
        plan.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    elif damage == "truncate":
        plan.write_bytes(whole[:100])
    elif damage == "remove":
        plan.unlink()
    elif damage == "record":
        record.write_text("{")
    elif damage == "no record":
        record.unlink()
    else:
        record.write_text(json.dumps({"plan_sha256": None}))
    if damage != "no record":
        with (
            caplog.at_level(logging.WARNING, "agp_edge.plan.cache"),
            pytest.raises(ModelError, match="build=False"),
        ):
            cached_plan(small_model, TARGET, compiler, folder=folder, build=False)
        assert "compiled again" in caplog.text
    assert cached_plan(small_model, TARGET, compiler, folder=folder) == plan
    assert compiler.calls == 2
    assert cached_plan(small_model, TARGET, compiler, folder=folder) == plan
    assert compiler.calls == 2
    assert plan.read_bytes()[:4] == b"vtrt"


def test_a_builder_that_fails_leaves_nothing(small_model, folder):
    def half(path):
        path.write_bytes(b"vtrt, half of a plan")
        raise ModelError("the compiler refuses")

    with pytest.raises(ModelError, match="the compiler refuses"):
        cached_plan(small_model, TARGET, half, folder=folder)
    assert names(folder) == [".lock"]
    # the lock is free again
    compiler = Compiler(small_model)
    cached_plan(small_model, TARGET, compiler, folder=folder)
    assert compiler.calls == 1

    # a failed rebuild of a damaged entry must not make the damaged one look whole
    plan = next(folder.glob("*.plan"))
    plan.write_bytes(b"damaged")
    with pytest.raises(ModelError, match="the compiler refuses"):
        cached_plan(small_model, TARGET, half, folder=folder)
    with pytest.raises(ModelError, match="build=False"):
        cached_plan(small_model, TARGET, compiler, folder=folder, build=False)


def test_services_get_a_sentence(small_model, folder):
    with pytest.raises(ModelError, match=r"is not compiled yet for Orin \(TensorRT 10\.3\.0\).*"):
        cached_plan(small_model, TARGET, Compiler(small_model), folder=folder, build=False)
    assert not folder.exists()  # only looked


SLOW_BUILD = """
import sys, time
from pathlib import Path
from agp_edge.plan.build import plan_from_onnx
from agp_edge.plan.cache import Target, cached_plan

model, folder, started = sys.argv[1:]

def compile_plan(path):
    Path(started).touch()
    time.sleep(1.5)
    plan_from_onnx(model, path, backend="rtx", targets=(86,))
    print("built", flush=True)

target = Target(compiler="TensorRT 10.3.0", compute_capability="8.7", gpu="Orin",
                driver="540.4; CUDA 12.6")
print(cached_plan(model, target, compile_plan, folder=folder))
"""


def start(model, folder, started):
    return subprocess.Popen(
        [sys.executable, "-c", SLOW_BUILD, str(model), str(folder), str(started)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(path):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_processes_build_once(small_model, folder, tmp_path):
    first = start(small_model, folder, tmp_path / "1")
    wait_for(tmp_path / "1")  # it holds the lock
    second = start(small_model, folder, tmp_path / "2")
    outputs = [process.communicate(timeout=120) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], outputs
    assert outputs[0][0].startswith("built\n")
    assert "built" not in outputs[1][0]
    assert outputs[0][0].splitlines()[-1] == outputs[1][0].splitlines()[-1]
    assert not (tmp_path / "2").exists()


def test_a_killed_build_holds_nobody_up(small_model, folder, tmp_path):
    first = start(small_model, folder, tmp_path / "1")
    wait_for(tmp_path / "1")
    first.kill()
    first.communicate()
    compiler = Compiler(small_model)
    plan = cached_plan(small_model, TARGET, compiler, folder=folder)
    assert compiler.calls == 1
    assert plan.read_bytes()[:4] == b"vtrt"


def test_two_threads_build_once(small_model, folder):
    compiler = Compiler(small_model)
    plans = []
    threads = [
        threading.Thread(
            target=lambda: plans.append(cached_plan(small_model, TARGET, compiler, folder=folder))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(plans), len(set(plans)), compiler.calls) == (4, 1, 1)


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.delenv("AGP_EDGE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "agp-edge" / "plans"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "agp-edge" / "plans"
    monkeypatch.setenv("AGP_EDGE_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_a_folder_that_cannot_be_written(small_model, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"the plan cache '.*file/x' cannot be written.*AGP_EDGE"):
        cached_plan(small_model, TARGET, Compiler(small_model), folder=tmp_path / "file" / "x")


def test_weights_in_other_files(write_model, tmp_path):
    model = write_model(tmp_path / "m.onnx", external_data=True)
    with pytest.raises(ModelError, match=r"weights in another file, 'weights\.bin'"):
        plan_key(model, TARGET)


def test_without_filelock(small_model, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "filelock", None)
    with pytest.raises(DependencyError, match=r"pip install 'agp-edge\[cache\]'"):
        cached_plan(small_model, TARGET, Compiler(small_model), folder=folder)


@pytest.fixture
def no_gpu():
    from agp_edge.gpu import find_gpus

    try:
        find_gpus()
    except DeviceError:
        return
    pytest.skip("this machine has a GPU")


@pytest.mark.usefixtures("no_gpu")
def test_no_gpu_is_said_first(small_model, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("AGP_EDGE_CACHE", str(tmp_path / "cache"))
    for options in ({"device": "cuda"}, {"engine": "tensorrt"}, {"device": "cuda", "build": False}):
        with pytest.raises(DeviceError, match="no NVIDIA GPU can be used here"):
            Detector(small_model, **options)
    assert main(["score", str(small_model), "x.png", "--device", "cuda"]) == 1
    stderr = capfd.readouterr().err
    assert stderr.count("\n") == 1
    assert "no NVIDIA GPU" in stderr
    assert not (tmp_path / "cache").exists()


def test_engines_and_devices_that_do_not_fit(small_model):
    for options in (
        {"engine": "tensorrt", "device": "cpu"},
        {"engine": "onnxruntime", "device": "cuda"},
    ):
        with pytest.raises(Error, match="do not go together"):
            Detector(small_model, **options)


def test_the_whole_way_to_the_engine(small_model, tmp_path, monkeypatch):
    """All but the last step, which needs the GPU that is only said to be there."""
    import agp_edge.plan.cache
    from agp_edge.engines import tensorrt
    from agp_edge.gpu import Gpu

    gpu = Gpu(name="RTX A2000", compute_capability=(8, 6), driver_cuda=(13, 0))
    monkeypatch.setattr(agp_edge.plan.cache, "find_gpus", lambda: (gpu,))
    monkeypatch.setenv("AGP_EDGE_CACHE", str(tmp_path / "cache"))
    opened = []

    def open_plan(path, *, content):
        assert content is None  # the plan's hash is nobody's
        opened.append(path)
        raise DeviceError("this is where the GPU is needed")

    monkeypatch.setattr(tensorrt, "open_plan", open_plan)
    with pytest.raises(ModelError, match=r"is not compiled yet for RTX A2000 .TensorRT for RTX 1"):
        Detector(small_model, device="cuda", build=False)
    for _ in range(2):
        with pytest.raises(DeviceError, match="this is where"):
            Detector(small_model, device="cuda")
    assert len(set(opened)) == 1
    from agp_edge import read_manifest

    assert read_manifest(opened[0])["built_for"] == ["8.6"]
    assert read_manifest(opened[0])["name"] == "small"
