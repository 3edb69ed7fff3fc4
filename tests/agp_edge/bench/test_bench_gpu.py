"""The command on a GPU that is played: device memory, and stages by CUDA events."""

import json
import os
import subprocess
import sys

import pytest

# The engine only fills its output, which is work for the stream.
BENCH = """
import ctypes, os, sys
import agp_edge.detector
from agp_edge import _core
from agp_edge.cli import main
driver = ctypes.CDLL(os.environ["AGP_EDGE_CUDA_DRIVER"])
pointer = ctypes.c_void_p
driver.cuMemsetD32Async.argtypes = [pointer, ctypes.c_uint, ctypes.c_size_t, pointer]
def function(stream, inputs, outputs):
    assert driver.cuMemsetD32Async(outputs[0], 0x3F000000, 64, stream) == 0
def engine(*_, **__):
    return _core.CallableEngine(
        "played GPU", [("image", "float32", (1, 3, 64, 64))],
        [("distance", "float32", (1, 1, 8, 8))], function, memory="device", clone=lambda: function)
agp_edge.detector.open_engine = engine
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def run(small_model, fake_driver, tmp_path_factory):
    """What the command printed, and its document."""
    path = tmp_path_factory.mktemp("gpu") / "bench.json"
    options = ["--size=320x240", "--duration=0.5", "--rate=20", "--inflight=1,2", "--warm-up=0.5"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BENCH, "bench", small_model, *options,
         f"--json={path}", f"--html={path.with_suffix('.html')}"],
        capture_output=True, text=True, check=False,
        env={**os.environ, "AGP_EDGE_CUDA_DRIVER": str(fake_driver)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout, json.loads(path.read_text())


def test_every_stage_is_measured(run):
    said, document = run
    for found in document["measurements"]:
        stages = found["stages_ms"]
        for stage in ("copy", "preprocess", "execute", "postprocess", "copy_back"):
            assert stages[stage]["minimum"] > 0
        total = sum(s["mean"] for s in stages.values() if s is not None)
        assert total == pytest.approx(found["end_to_end_ms"]["mean"], rel=1e-6)
        assert min(found["samples_ns"]["copy_back"]) > 0
    assert "n/a" not in said


def test_the_most_device_memory_is_recorded(run):
    """The fake driver counts the pipeline's own buffers, and has no other users."""
    said, document = run
    most = [found["machine"]["peak_device_bytes"] for found in document["measurements"]]
    frame, tensors = 320 * 240 * 3, 4 * (3 * 64 * 64 + 64)
    assert all(frame + tensors < size < 8 * (frame + tensors) for size in most)
    assert most[2] > most[0]  # two frames in flight have two sets of buffers
    assert "the GPU, of all programs " in said
