"""Frames in the GPU's memory through the detector: every way in, whose stream, and what is refused.

On a real GPU, and on the driver played on the CPU (test_on_the_played_driver.py), where pixels that
nobody waited for are not there.
"""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from agp_edge.errors import FrameError

from .cuda_memory import (
    IMAGES,
    KDL_CUDA,
    KDL_CUDA_HOST,
    KDL_CUDA_MANAGED,
    LEGACY,
    PER_THREAD,
    READ_ONLY,
    CudaInterface,
    DlpackProducer,
)

pytestmark = pytest.mark.gpu


def test_the_producers_stream_of_version_3(detector, expected, on_gpu):
    frame = on_gpu(IMAGES[0], gap=16)
    for image in IMAGES:
        frame.send(image)  # under way on the stream that the interface names
        assert detector.score(CudaInterface(frame)).score == expected(image)
    assert len({float(detector.score(image).score) for image in IMAGES}) == len(IMAGES)


@pytest.mark.parametrize("stream", [LEGACY, PER_THREAD])
def test_cudas_default_streams(stream, detector, expected, on_gpu):
    frame = on_gpu(IMAGES[0])
    for image in IMAGES:
        frame.send(image, stream)
        assert detector.score(CudaInterface(frame, stream=stream)).score == expected(image)


def test_version_2_is_of_the_default_stream(detector, expected, on_gpu):
    frame = on_gpu(IMAGES[0])
    for image in IMAGES:
        frame.send(image, LEGACY)
        interface = CudaInterface(frame, version=2)
        del interface.__cuda_array_interface__["stream"]
        assert detector.score(interface).score == expected(image)


def test_no_stream_means_that_the_pixels_are_there(detector, expected, on_gpu, cuda):
    frame = on_gpu(IMAGES[1])
    cuda.synchronize(frame.stream)
    for read_only in (False, True):
        interface = CudaInterface(frame, stream=None, data=(frame.address, read_only))
        assert detector.score(interface).score == expected(IMAGES[1])


def test_without_the_wait_the_frame_before_is_seen(detector, on_gpu, played):
    """So it is the wait that makes the tests above right."""
    frame = on_gpu(IMAGES[0])
    played.synchronize(frame.stream)
    before = detector.score(CudaInterface(frame)).score
    frame.send(IMAGES[3])
    assert detector.score(CudaInterface(frame, stream=None)).score == before
    assert detector.score(CudaInterface(frame)).score != before


@pytest.mark.parametrize("version", [None, (1, 0), (1, 3)])
@pytest.mark.parametrize("flags", [0, READ_ONLY])
def test_dlpack_of_each_version(version, flags, detector, expected, on_gpu):
    frame = on_gpu(IMAGES[0], gap=8)
    producer = DlpackProducer(frame, version=version, flags=flags, byte_offset=5)
    for count, image in enumerate(IMAGES, 1):
        frame.send(image)
        assert detector.score(producer).score == expected(image)
        assert producer.deleted == count  # given back once, when the frame was scored
    # On that stream the producer makes its consumer wait; nothing later than 1.0 is asked for.
    assert [asked["stream"] for asked in producer.asked] == [LEGACY] * len(IMAGES)
    assert all(asked.get("max_version", (1, 0)) == (1, 0) for asked in producer.asked)


@pytest.mark.parametrize("version", [None, (1, 0)])
def test_managed_memory(version, detector, expected, on_gpu):
    frame = on_gpu(IMAGES[0], managed=True)
    producer = DlpackProducer(frame, KDL_CUDA_MANAGED, version=version)
    for image in IMAGES:
        frame.send(image)
        assert detector.score(producer).score == expected(image)
    assert producer.deleted == len(IMAGES)


@pytest.mark.parametrize("version", [None, (1, 0)])
def test_pinned_memory_of_a_producer(version, detector, expected, on_gpu, cuda):
    """It is the host's: no stream is asked for, and it is uploaded from where it is."""
    frame = on_gpu(IMAGES[0])
    cuda.synchronize(frame.stream)
    producer = DlpackProducer(frame, KDL_CUDA_HOST, version=version, address=frame.pinned)
    for _ in range(3):
        assert detector.score(producer).score == expected(IMAGES[0])
    assert [asked["stream"] for asked in producer.asked] == [None] * 3
    if cuda.is_played:
        cuda.forget_calls()
        detector.score(producer)
        assert cuda.calls("cuGraphLaunch") == 1
        plain = np.ascontiguousarray(IMAGES[0])
        detector.score(plain)  # pageable: another geometry, which is staged
        assert cuda.calls("cuGraphLaunch") == 1


@pytest.mark.parametrize(
    ("format", "shape"),
    [
        ("rgb8", (40, 52, 3)),
        ("mono8", (40, 52)),
        ("mono12", (40, 52)),
        ("bayer_grbg8", (41, 53)),
        ("bayer_rggb12", (40, 52)),
        ("nv12", (60, 52)),
    ],
)
def test_formats(format, shape, detector, expected, on_gpu):
    top, dtype = (4096, np.uint16) if "12" in format.removeprefix("nv12") else (256, np.uint8)
    array = np.random.default_rng(5).integers(0, top, shape).astype(dtype)
    frame = on_gpu(array, gap=4)
    for _ in range(2):
        frame.send(array)
        assert detector.score(CudaInterface(frame), format=format).score == expected(array, format)
        frame.send(array)
        assert detector.score(DlpackProducer(frame), format=format).score == expected(array, format)


def test_the_wrong_gpu(detector, on_gpu):
    frame = on_gpu(IMAGES[0])
    producer = DlpackProducer(frame, KDL_CUDA, device_id=1)
    with pytest.raises(FrameError, match=r"in the memory of GPU 1 and the detector works on GPU 0"):
        detector.score(producer)
    assert producer.deleted == 1


def test_memory_that_is_really_on_another_gpu(played, monkeypatch, detector, on_gpu):
    """Whatever the producer says: the driver knows."""
    monkeypatch.setenv("AGP_EDGE_FAKE_CUDA_DEVICES", "2")
    other = type(played)(device=1)
    try:
        address = other.allocate(IMAGES[0].nbytes)
        interface = CudaInterface(on_gpu(IMAGES[0]), data=(address, False), stream=None)
        with pytest.raises(FrameError, match=r"in the memory of GPU 1 and the detector works on"):
            detector.score(interface)
        other.free(address)
    finally:
        other.close()


def test_memory_that_is_not_there(detector, expected, on_gpu, cuda):
    address = cuda.allocate(IMAGES[0].nbytes)
    cuda.free(address)
    frame = on_gpu(IMAGES[0])
    with pytest.raises(
        FrameError, match=r"the CUDA driver does not know .* keep the frame's memory"
    ):
        detector.score(CudaInterface(frame, data=(address, False), stream=None))
    with pytest.raises(FrameError, match="check its size and row pitch"):
        detector.score(CudaInterface(frame, shape=(48_000, 80, 3)))
    frame.send(IMAGES[2])
    assert detector.score(CudaInterface(frame)).score == expected(IMAGES[2])


def test_a_dlpack_of_the_future_is_given_back(detector, on_gpu):
    producer = DlpackProducer(on_gpu(IMAGES[0]), version=(2, 0))
    with pytest.raises(FrameError, match=r"comes as DLPack 2\.0, version 1 is expected"):
        detector.score(producer)
    assert producer.deleted == 1


def test_pixels_apart_are_refused(detector, on_gpu):
    frame = on_gpu(IMAGES[0])
    with pytest.raises(FrameError, match="do not lie side by side: make it contiguous"):
        detector.score(CudaInterface(frame, strides=(80, 1, 48 * 80)))


def test_frames_in_flight(open_detector, expected, on_gpu):
    detector = open_detector(in_flight=2)
    frames = [on_gpu(image) for image in IMAGES]
    with pytest.raises(FrameError, match="copy=True copies arrays of NumPy"):
        detector.submit(CudaInterface(frames[0]), copy=True)
    futures = [detector.submit(CudaInterface(frame)) for frame in frames]
    assert [future.result(60).score for future in futures] == [expected(each) for each in IMAGES]
    for frame, image in zip(frames, IMAGES, strict=True):
        frame.send(image)
    producers = [DlpackProducer(frame) for frame in frames]
    results = detector.score_batch(producers)
    assert [result.score for result in results] == [expected(image) for image in IMAGES]
    detector.close()
    assert [producer.deleted for producer in producers] == [1] * len(IMAGES)


def test_a_frame_is_held_until_its_future_is_done(open_detector, expected, on_gpu):
    detector = open_detector(in_flight=1)
    interface = CudaInterface(on_gpu(IMAGES[1]))
    gone = weakref.ref(interface)
    future = detector.submit(interface)
    del interface
    assert future.result(60).score == expected(IMAGES[1])
    detector.close()
    gc.collect()
    assert gone() is None


def test_a_replay_copies_no_pixel_and_waits_once(played, detector, on_gpu):
    frames = [on_gpu(IMAGES[0]), on_gpu(IMAGES[1])]
    detector.score(CudaInterface(frames[0]))  # in order, then recorded
    for frame in (frames[1], frames[0]):
        played.forget_calls()
        detector.score(CudaInterface(frame))
        assert played.calls("cuGraphLaunch") == 1
        assert played.calls("cuGraphExecKernelNodeSetParams_v2") == 1  # the other address
        assert played.calls("cuStreamWaitEvent") == 1  # for the producer, on the GPU
        for name in ("cuMemcpyHtoDAsync_v2", "cuMemAlloc_v2", "cuMemHostAlloc", "cuLaunchKernel",
                     "cuStreamSynchronize", "cuCtxSynchronize"):  # fmt: skip
            assert played.calls(name) == 0, name
