"""`Detector.frame_buffer` on a GPU: page-locked, scored without a copy by the CPU, and its end."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from agp_edge.errors import DeviceError, Error

from .cuda_memory import HOST, IMAGES

pytestmark = pytest.mark.gpu


def test_it_is_page_locked_and_scores_the_same(detector, expected, cuda):
    buffer = detector.frame_buffer(48, 80)
    assert cuda.kind(buffer.ctypes.data) == HOST
    assert cuda.kind(np.zeros(100_000, np.uint8).ctypes.data) is None
    for image in IMAGES:
        buffer[:] = image
        assert detector.score(buffer).score == expected(image)
    assert detector.score(buffer[4:40, 8:72]).score == expected(IMAGES[-1][4:40, 8:72])


@pytest.mark.parametrize(
    ("format", "shape", "dtype"),
    [("mono8", (48, 80), "uint8"), ("mono12", (48, 80), "uint16"), ("nv12", (72, 80), "uint8")],
)
def test_each_layout(format, shape, dtype, detector, expected):
    buffer = detector.frame_buffer(48, 80, format)
    assert (buffer.shape, buffer.dtype) == (shape, np.dtype(dtype))
    buffer[:] = np.random.default_rng(1).integers(0, 256, shape)
    for _ in range(2):
        assert detector.score(buffer, format=format).score == expected(np.array(buffer), format)


@pytest.mark.parametrize("integrated", [False, True])
def test_how_the_gpu_gets_the_pixels(integrated, played, monkeypatch, open_detector, expected):
    """A desktop GPU uploads them from the buffer; an integrated one reads them where they are."""
    monkeypatch.setenv("AGP_EDGE_FAKE_CUDA_INTEGRATED", str(int(integrated)))
    detector = open_detector()
    buffers = [detector.frame_buffer(48, 80) for _ in range(2)]
    for index, image in enumerate(IMAGES):
        buffer = buffers[index % 2]
        buffer[:] = image
        played.forget_calls()
        assert detector.score(buffer).score == expected(image)
        if index == 0:
            continue  # in order, and recorded
        assert played.calls("cuGraphLaunch") == 1
        assert played.calls("cuGraphExecMemcpyNodeSetParams") == int(not integrated)
        assert played.calls("cuGraphExecKernelNodeSetParams_v2") == int(integrated)


def test_it_outlives_its_detector(open_detector, expected, cuda):
    first, second = open_detector(), open_detector()
    buffer = first.frame_buffer(48, 80)
    part = buffer[8:40]
    first.close()
    with pytest.raises(Error, match="is closed: open the model again"):
        first.score(buffer)
    with pytest.raises(Error, match="is closed: open the model again"):
        first.frame_buffer(48, 80)
    address = buffer.ctypes.data
    buffer[:] = IMAGES[2]
    assert cuda.kind(address) == HOST  # locked as long as an array of it lives
    assert second.score(buffer).score == expected(IMAGES[2])
    del buffer
    gc.collect()
    part[:] = IMAGES[3][8:40]
    assert second.score(part).score == expected(IMAGES[3][8:40])
    del part
    gc.collect()
    assert cuda.kind(address) is None


def test_in_flight(open_detector, expected):
    detector = open_detector(in_flight=2)
    buffers = []
    for image in IMAGES:
        buffers.append(detector.frame_buffer(48, 80))
        buffers[-1][:] = image
    assert [each.score for each in detector.score_batch(buffers)] == [expected(i) for i in IMAGES]


def test_memory_that_cannot_be_locked(played, monkeypatch, detector, expected):
    played.forget_calls()
    monkeypatch.setenv("AGP_EDGE_FAKE_CUDA_FAIL", "cuMemHostRegister_v2")
    with pytest.raises(
        DeviceError, match=r"page-locking 11520 bytes for the GPU failed with CUDA_"
    ):
        detector.frame_buffer(48, 80)
    monkeypatch.delenv("AGP_EDGE_FAKE_CUDA_FAIL")
    assert detector.score(IMAGES[0]).score == expected(IMAGES[0])


def test_everything_is_given_back(played, open_detector):
    before = played.live()
    detector = open_detector(in_flight=2)
    buffer = detector.frame_buffer(48, 80)
    buffer[:] = IMAGES[0]
    detector.score(buffer)
    detector.submit(buffer).result(60)
    assert played.live() > before
    detector.close()
    del detector, buffer
    # The fixture keeps the closed detector; what it had on the GPU is gone with close().
    gc.collect()
    assert played.live() == before
