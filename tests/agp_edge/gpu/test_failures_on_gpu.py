"""CUDA fails, at the opening or in the middle of a frame: one error, and the process goes on.

Each call of the driver in turn is made to fail by cpp/tests/test_pipeline_cuda_faults.cpp; here is
what Python sees of it.
"""

from __future__ import annotations

import numpy as np
import pytest

from agp_edge.errors import DeviceError

from .cuda_memory import IMAGES, CudaInterface

pytestmark = pytest.mark.gpu


def test_out_of_memory_at_the_opening_and_at_a_large_frame(
    played, monkeypatch, open_detector, expected
):
    monkeypatch.setenv("AGP_EDGE_FAKE_CUDA_MEMORY", "1000")
    with pytest.raises(
        DeviceError, match=r"allocating \d+ bytes on Fake GPU 0 failed .*OUT_OF_MEM"
    ):
        open_detector()
    monkeypatch.delenv("AGP_EDGE_FAKE_CUDA_MEMORY")
    detector = open_detector()
    assert detector.score(IMAGES[0]).score == expected(IMAGES[0])
    large = np.zeros((1500, 1500, 3), np.uint8)
    monkeypatch.setenv("AGP_EDGE_FAKE_CUDA_MEMORY", "1000000")
    for _ in range(2):
        with pytest.raises(DeviceError, match="OUT_OF_MEMORY"):
            detector.score(large)
        assert detector.score(IMAGES[0]).score == expected(IMAGES[0])
    monkeypatch.delenv("AGP_EDGE_FAKE_CUDA_MEMORY")
    assert detector.score(large).score == expected(large)


@pytest.mark.parametrize("in_flight", [0, 2])
def test_an_error_in_the_middle_of_a_frame(in_flight, played, monkeypatch, open_detector, expected):
    detector = open_detector(in_flight=in_flight)
    assert detector.score(IMAGES[0]).score == expected(IMAGES[0])
    buffer = detector.frame_buffer(48, 80)
    buffer[:] = IMAGES[1]
    played.forget_calls()
    monkeypatch.setenv("AGP_EDGE_FAKE_CUDA_FAIL", "cuEventQuery:1:sticky")
    with pytest.raises(DeviceError, match="the work on the GPU failed with CUDA_ERROR_ILLEGAL_ADD"):
        detector.score(IMAGES[0])
    monkeypatch.delenv("AGP_EDGE_FAKE_CUDA_FAIL")
    for _ in range(2):
        with pytest.raises(
            DeviceError, match=r"is broken since an earlier error .* open the model"
        ):
            detector.score(IMAGES[0])
    detector.close()
    fresh = open_detector(in_flight=in_flight)
    for _ in range(2):
        assert fresh.score(buffer).score == expected(IMAGES[1])
        assert fresh.submit(IMAGES[2]).result(60).score == expected(IMAGES[2])


def test_an_error_that_leaves_the_gpu_working(played, monkeypatch, detector, expected, on_gpu):
    frame = on_gpu(IMAGES[0])
    assert detector.score(CudaInterface(frame)).score == expected(IMAGES[0])
    for name in ("cuGraphLaunch", "cuEventQuery"):
        played.forget_calls()
        monkeypatch.setenv("AGP_EDGE_FAKE_CUDA_FAIL", name)
        with pytest.raises(DeviceError, match="CUDA_ERROR_"):
            detector.score(CudaInterface(frame))
        monkeypatch.delenv("AGP_EDGE_FAKE_CUDA_FAIL")
        frame.send(IMAGES[1])
        assert detector.score(CudaInterface(frame)).score == expected(IMAGES[1])
        frame.send(IMAGES[0])
        assert detector.score(CudaInterface(frame)).score == expected(IMAGES[0])
