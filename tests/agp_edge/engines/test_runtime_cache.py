"""The runtime cache of TensorRT for RTX: real plan and files, a played runtime."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agp_edge import Detector
from agp_edge.engines.runtime_cache import MAGIC, cache_path, context_with_cache

from .fake_rtx import Engine, FakeRtx

PLAN = b"vtrt a plan"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("AGP_EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def start(**settings):
    """A process that opens the plan and scores two frames: which kernels it compiled, its cache."""
    trt = FakeRtx()
    for name, value in settings.items():
        setattr(trt, name, value)
    context, cache = context_with_cache(trt, Engine(trt, "name"), PLAN, gpu="Fake GPU 0")
    assert context is not None
    trt.run_on_stream = lambda stream, work: True
    for _ in range(2):
        assert context.execute_async_v3(0)
        if cache is not None:
            cache.save()
    return trt, cache


def test_the_second_start_compiles_nothing(folder):
    first, _ = start()
    assert first.compiled == [b"conv", b"mul", b"mean"]
    (file,) = folder.iterdir()
    assert file.suffix == ".runtime"
    assert file.read_bytes().startswith(MAGIC)
    assert file.read_bytes().endswith(b"\nconv\nmean\nmul")
    before = file.stat()
    second, cache = start()
    assert second.compiled == []
    assert cache is not None
    assert second.deserialized == [b"RTX 1.7.1, Fake GPU 0\nconv\nmean\nmul"]
    after = file.stat()  # an unchanged cache is not written
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_what_stops_before_the_first_frame_has_kept_something(folder):
    trt = FakeRtx()
    context_with_cache(trt, Engine(trt, "name"), PLAN, gpu="Fake GPU 0")
    assert start()[0].compiled == [b"mean"]


def test_plan_version_and_gpu_name_the_file(folder):
    one = {"version": "1.7.1", "gpu": "Fake GPU 0"}
    path = cache_path(PLAN, **one)
    assert path.parent == folder
    others = {
        cache_path(PLAN + b"x", **one),
        cache_path(PLAN, version="1.7.2", gpu="Fake GPU 0"),
        cache_path(PLAN, version="1.7.1", gpu="Fake GPU 1"),
    }
    assert len(others | {path}) == 4
    assert cache_path(memoryview(PLAN), **one) == path


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: b"",
        lambda file: file[:10],
        lambda file: file[:-1],
        lambda file: file + b"x",
        lambda file: file[:50] + bytes([file[50] ^ 1]) + file[51:],
        lambda file: file[-20:],
        lambda file: os.urandom(5000),
    ],
    ids=["empty", "head", "cut", "longer", "bit", "tail", "random"],
)
def test_a_damaged_file_never_reaches_tensorrt(damage, folder, caplog):
    start()
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    again, cache = start()
    assert again.deserialized == []
    assert again.compiled == [b"conv", b"mul", b"mean"]
    assert cache is not None
    assert "is damaged: compiling again" in caplog.text
    assert file.read_bytes() == whole


def test_a_cache_of_another_driver_is_replaced(folder):
    start()
    other, _ = start(environment=b"RTX 1.7.1, Fake GPU 0, another driver")
    assert other.compiled == [b"conv", b"mul", b"mean"]
    assert b"another driver\nconv" in next(folder.iterdir()).read_bytes()


@pytest.mark.parametrize(
    "trouble",
    [
        "no configuration",
        "no cache",
        "set refuses",
        "no context",
        "deserialize raises",
        "serialize gives null",
    ],
)
def test_trouble_costs_no_engine(trouble, folder):
    start()  # so that there is something to deserialize
    trt, cache = start(trouble=trouble)
    assert (cache is None) == (trouble != "serialize gives null")
    assert trt.compiled == ([] if cache is not None else [b"conv", b"mul", b"mean"])
    assert start()[0].compiled == []  # the file has not suffered


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("AGP_EDGE_CACHE", str(tmp_path / "file" / "cache"))
    assert start()[0].compiled == [b"conv", b"mul", b"mean"]
    assert "the next start compiles again; make the folder writable" in caplog.text


def test_a_file_that_is_a_folder(folder, caplog):
    path = cache_path(PLAN, version=FakeRtx().__version__, gpu="Fake GPU 0")
    path.mkdir(parents=True)
    assert start()[0].compiled == [b"conv", b"mul", b"mean"]
    assert "cannot be read (Is a directory)" in caplog.text


def test_a_tensorrt_without_runtime_caches(folder):
    """TensorRT itself compiles when it builds."""

    class Trt:
        __version__ = "10.16.2"

    trt = FakeRtx()
    context, cache = context_with_cache(Trt(), Engine(trt, "name"), PLAN, gpu="Fake GPU 0")
    assert context is not None
    assert cache is None
    assert not folder.exists()


SCORES = """
import json, sys
import numpy as np
import onnxruntime
sys.path.insert(0, sys.argv[3])
from fake_rtx import FakeRtx
trt = sys.modules["tensorrt_rtx"] = FakeRtx()
session = onnxruntime.InferenceSession(sys.argv[2], providers=["CPUExecutionProvider"])
trt.model = lambda image: session.run(None, {"image": image})[0]
from agp_edge import _core
from agp_edge.engines.tensorrt_bindings import open_plan
path = sys.argv[1]
detector = _core.Detector(_core.read_manifest_json(path), path, open_plan(path, "rtx"))
name = detector.engine_name
rng = np.random.default_rng(0)
scores = [detector.score(rng.integers(0, 256, (90, 70, 3), np.uint8)).score for _ in range(3)]
print(json.dumps([name, scores, len(trt.compiled), trt.plans[0] == open(path, "rb").read()]))
"""


def test_the_bindings_engine_scores_and_keeps_its_kernels(
    small_model, tmp_path, folder, fake_driver
):
    """Frame to verdict through the bindings engine, twice: the same scores as on the CPU."""
    from agp_edge.plan.build import plan_from_onnx

    plan = tmp_path / "small.plan"
    plan_from_onnx(small_model, plan, backend="rtx", targets=(86,))
    answers = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", SCORES, plan, small_model, Path(__file__).parent],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "AGP_EDGE_CUDA_DRIVER": str(fake_driver)},
        )
        assert done.returncode == 0, done.stderr
        answers.append(json.loads(done.stdout))
    title = "TensorRT for RTX 1.7.1.116 (Python bindings)"
    rng = np.random.default_rng(0)
    with Detector(small_model) as detector:
        frames = [rng.integers(0, 256, (90, 70, 3), np.uint8) for _ in range(3)]
        expected = [detector.score(frame).score for frame in frames]
    for (name, scores, compiled, is_plan), kernels in zip(answers, (3, 0), strict=True):
        assert (name, compiled, is_plan) == (title, kernels, True)
        np.testing.assert_allclose(scores, expected, rtol=1e-6)
