"""The timing cache, with a played TensorRT that measures; the file and its lock are real."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import filelock
import pytest

from agp_edge import DataError, Error, read_manifest
from agp_edge.cli import main
from agp_edge.plan import timing_cache
from agp_edge.plan.build import plan_from_onnx

from .fake_tensorrt import GPU, VERSIONS, FakeTensorRt


@pytest.fixture
def trt(request, monkeypatch):
    module = FakeTensorRt(getattr(request, "param", VERSIONS[1]))
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr("agp_edge.plan.build.find_gpus", lambda: (GPU,))
    monkeypatch.setattr("agp_edge.plan.targets.find_gpus", lambda: (GPU,))
    monkeypatch.setattr(timing_cache, "LOCK_SECONDS", 0.2)
    return module


@pytest.fixture
def build(trt, small_model, tmp_path):
    def run(cache):
        plan = tmp_path / "plans" / "m.plan"
        report = plan_from_onnx(small_model, plan, backend="tensorrt", timing_cache=cache)
        assert read_manifest(plan)["name"] == "small"
        return report

    return run


@pytest.mark.parametrize("trt", VERSIONS, indirect=True)
def test_the_second_build_measures_nothing(trt, build, tmp_path):
    path = tmp_path / "new folder" / "timing.cache"
    assert build(path).timing_cache_problem is None
    assert trt.measured == {"conv", "mul"}
    assert path.read_bytes() == trt.header.encode() + b"\nconv\nmul"
    trt.kernels = {"conv", "mul", "add"}
    build(path)
    assert trt.measured == {"add"}
    assert path.read_bytes() == trt.header.encode() + b"\nadd\nconv\nmul"


def test_an_unchanged_cache_is_not_written(build, tmp_path):
    path = tmp_path / "timing.cache"
    build(path)
    os.utime(path, ns=(1, 1))
    before = path.stat()
    build(path)
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\x01\xff garbage",
        b"cache 1",
        b"cache 10.9.0 SM 8.6\nmul",
        b"cache 10.3.0 SM 9.0\nmul",
    ],
    ids=["empty", "corrupt", "cut", "another version", "another GPU"],
)
def test_a_cache_that_does_not_fit_is_replaced(content, strict, trt, build, tmp_path):
    trt.strict = strict
    path = tmp_path / "timing.cache"
    path.write_bytes(content)
    assert build(path).timing_cache_problem is None
    assert trt.measured == {"conv", "mul"}
    assert path.read_bytes() == trt.header.encode() + b"\nconv\nmul"


def test_what_another_build_wrote_meanwhile_is_kept(trt, build, tmp_path):
    path = tmp_path / "timing.cache"
    trt.while_it_builds = lambda: path.write_bytes(trt.header.encode() + b"\nsoftmax")
    build(path)
    assert path.read_bytes() == trt.header.encode() + b"\nconv\nmul\nsoftmax"
    # unless it is of another TensorRT
    trt.while_it_builds = lambda: path.write_bytes(b"cache 10.9.0 SM 8.6\nsoftmax")
    build(path)
    assert path.read_bytes() == trt.header.encode() + b"\nconv\nmul\nsoftmax"


def test_two_builds_at_once(trt, build, small_model, tmp_path):
    """The second one runs, start to end, while the first compiles."""
    path = tmp_path / "timing.cache"

    def second():
        trt.while_it_builds = lambda: None
        trt.kernels = {"conv", "matmul"}
        plan_from_onnx(small_model, tmp_path / "2.plan", backend="tensorrt", timing_cache=path)

    def run_second():
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()

    trt.while_it_builds = run_second
    build(path)
    assert path.read_bytes() == trt.header.encode() + b"\nconv\nmatmul\nmul"


SAVES = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from fake_tensorrt import Config, FakeTensorRt
from agp_edge.plan.timing_cache import load_timing_cache, save_timing_cache
path = Path(sys.argv[1])
for turn in range(20):
    config = Config(None, FakeTensorRt())
    loaded = load_timing_cache(config, path)
    config.cache.entries.add(f"{sys.argv[2]}-{turn}")
    assert save_timing_cache(config, path, loaded) is None
"""


def test_processes_that_save_at_once_lose_nothing(tmp_path):
    path = tmp_path / "timing.cache"
    processes = [
        subprocess.Popen([sys.executable, "-c", SAVES, path, name, Path(__file__).parent])
        for name in ("a", "b")
    ]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    entries = path.read_text().split("\n")[1:]
    assert sorted(entries) == sorted(f"{name}-{turn}" for name in "ab" for turn in range(20))


def test_a_locked_cache_is_refused_before_building(trt, build, tmp_path):
    path = tmp_path / "timing.cache"
    with (
        filelock.FileLock(f"{path}.lock"),
        pytest.raises(DataError, match=r"timing\.cache' cannot be used \(another process has held"),
    ):
        build(path)
    assert trt.verbosity is None  # nothing was built
    build(path)


@pytest.mark.parametrize("what", ["a folder", "below a file"])
def test_a_file_that_cannot_be_used_is_refused_before_building(what, trt, small_model, tmp_path):
    path = tmp_path / "timing.cache"
    if what == "a folder":
        path.mkdir()
    else:
        path.write_text("a file")
        path = path / "timing.cache"
    with pytest.raises(DataError, match=r"cannot be used \(.+\): make the file readable"):
        plan_from_onnx(small_model, tmp_path / "m.plan", backend="tensorrt", timing_cache=path)
    assert trt.verbosity is None
    assert not (tmp_path / "m.plan").exists()


@pytest.mark.parametrize("trouble", ["locked", "disk full", "no cache"])
def test_a_cache_that_cannot_be_kept_costs_no_plan(trouble, trt, small_model, tmp_path, request):
    monkeypatch, capfd = (request.getfixturevalue(name) for name in ("monkeypatch", "capfd"))
    path = tmp_path / "timing.cache"
    path.write_bytes(trt.header.encode())
    lock = filelock.FileLock(f"{path}.lock", thread_local=False)

    def full(_):
        raise OSError(28, "No space left on device")

    if trouble == "locked":
        trt.while_it_builds = lock.acquire
        expected = "another process has held its lock for 0.2 s"
    elif trouble == "disk full":
        monkeypatch.setattr(timing_cache, "write_aside", full)
        expected = "No space left on device"
    else:
        trt.hands_out_cache = False
        expected = "TensorRT handed out no timing cache"
    plan = tmp_path / "m.plan"
    command = ["build", str(small_model), "-o", str(plan), "--timing-cache", str(path)]
    assert main(command) == 0
    lock.release()
    out, err = capfd.readouterr()
    assert err == ""
    assert expected in out.splitlines()[-1]
    assert read_manifest(plan)["name"] == "small"
    assert path.read_bytes() == trt.header.encode()
    trt.while_it_builds = lambda: None
    assert main([*command, "--json"]) == 0
    problem = json.loads(capfd.readouterr().out)["timing_cache_problem"]
    assert (problem is None) == (trouble == "locked")


def test_messages_about_the_cache_are_no_reason_for_a_failure(trt, build, tmp_path, monkeypatch):
    """TensorRT logs an error for a cache that it cannot read; the model fails for another cause."""
    from agp_edge.engines.tensorrt import make_logger

    real = trt.Builder

    class Failing:
        def __init__(self, logger):
            self.builder = real(logger)

        def __getattr__(self, name):
            return getattr(self.builder, name)

        def create_builder_config(self):
            config = self.builder.create_builder_config()
            create = config.create_timing_cache

            def complain(data):
                make_logger(trt).log(trt.ILogger.Severity.ERROR, "the cache is corrupt")
                return create(data)

            config.__dict__["create_timing_cache"] = complain
            return config

        def build_serialized_network(self, network, config):
            return None

    monkeypatch.setattr(trt, "Builder", Failing)
    with pytest.raises(Error, match=r"cannot compile .*\(it gave no reason\)"):
        build(tmp_path / "timing.cache")


def test_tensorrt_for_rtx_has_none(small_model, tmp_path):
    with pytest.raises(Error, match="measures nothing and has no timing cache: leave it out"):
        plan_from_onnx(
            small_model, tmp_path / "m.plan", backend="rtx", timing_cache=tmp_path / "timing.cache"
        )
