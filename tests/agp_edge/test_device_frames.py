"""Frames by DLPack and `__cuda_array_interface__`, and frame buffers: what needs no GPU."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

from agp_edge import Detector
from agp_edge.errors import Error, FrameError

KDL_CPU, KDL_CUDA, KDL_VULKAN = 1, 2, 7


class DLPackOnly:
    """An array that offers nothing but DLPack."""

    def __init__(self, array: np.ndarray, versions: bool = True) -> None:
        self._array = array
        self._versions = versions
        self.streams: list[Any] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return KDL_CPU, 0

    def __dlpack__(self, *, stream: Any = None, **options: Any) -> Any:
        if not self._versions and options:
            raise TypeError("unexpected keyword argument 'max_version'")
        self.streams.append(stream)
        return self._array.__dlpack__(stream=stream, **options)


class OnGpu:
    """A DLPack producer that says it is somewhere else, and has to be asked no further."""

    def __init__(self, kind: int) -> None:
        self._kind = kind

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._kind, 0

    def __dlpack__(self, **options: Any) -> Any:
        raise AssertionError


class CudaInterface:
    def __init__(self, **changes: Any) -> None:
        interface = {
            "shape": (96, 128, 3),
            "typestr": "|u1",
            "data": (0x7F0000000000, True),
            "strides": None,
            "stream": None,
            "version": 3,
        }
        interface.update(changes)
        self.__cuda_array_interface__ = {k: v for k, v in interface.items() if v != "missing"}


@pytest.fixture(scope="module")
def detector(small_model):
    with Detector(small_model, engine="onnxruntime") as opened:
        yield opened


@pytest.mark.parametrize("versions", [True, False])
def test_host_memory_by_dlpack_scores_the_same(detector, bad_frame, versions):
    expected = detector.score(bad_frame)
    producer = DLPackOnly(bad_frame, versions)
    given = detector.score(producer)
    assert given.score == expected.score
    assert given.roi == expected.roi == (0, 0, 128, 96)
    assert producer.streams == [None]  # memory of the host has none
    mono = DLPackOnly(np.ascontiguousarray(bad_frame[..., 0]), versions)
    assert detector.score(mono).score == detector.score(bad_frame[..., 0]).score
    wide = DLPackOnly(bad_frame[8:80, 16:112], versions)  # rows with gaps between them
    assert detector.score(wide).score == detector.score(bad_frame[8:80, 16:112]).score


def test_the_producers_array_is_held_during_the_call_and_no_longer(detector, bad_frame):
    frame = bad_frame.copy()
    gone = weakref.ref(frame)
    detector.score(DLPackOnly(frame))
    del frame
    gc.collect()
    assert gone() is None


def test_torch_tensors_of_the_host(detector, bad_frame):
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(bad_frame.copy())
    assert detector.score(tensor).score == detector.score(bad_frame).score
    with pytest.raises(FrameError, match=r"do not lie side by side: make it contiguous"):
        detector.score(tensor.permute(2, 0, 1).contiguous().permute(1, 2, 0))
    with pytest.raises(FrameError, match=r"the frame is float32 \(96, 128, 3\), uint8"):
        detector.score(tensor.float())
    with pytest.raises(FrameError, match=r"the frame is int16 \(96, 128\)"):
        detector.score(tensor[..., 0].to(torch.int16))


def test_other_devices_are_refused(detector):
    with pytest.raises(FrameError, match="on a device of DLPack's type 7, memory of the host or"):
        detector.score(OnGpu(KDL_VULKAN))


def test_a_capsule_is_used_once(detector, bad_frame):
    class Twice(DLPackOnly):
        capsule = None

        def __dlpack__(self, **options: Any) -> Any:
            self.capsule = self.capsule or super().__dlpack__(**options)
            return self.capsule

    producer = Twice(bad_frame)
    detector.score(producer)
    with pytest.raises(FrameError, match="capsule was used before"):
        detector.score(producer)
    producer.capsule = "no capsule"
    with pytest.raises(FrameError, match=r"returned a builtins\.str, a capsule is expected"):
        detector.score(producer)


def test_what_a_producer_raises_comes_out(detector, bad_frame):
    class Broken(DLPackOnly):
        def __dlpack__(self, **options: Any) -> Any:
            raise BufferError("it is in use")

    with pytest.raises(BufferError, match="it is in use"):
        detector.score(Broken(bad_frame))


def test_a_cpu_engine_refuses_frames_of_a_gpu(detector):
    for frame in (CudaInterface(), CudaInterface(version=2, stream="missing")):
        with pytest.raises(
            FrameError,
            match=r"the frame is in the memory of a GPU, and the frames of ONNX Runtime .* are "
            r"read by the CPU: copy it to host memory",
        ):
            detector.score(frame)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"typestr": "|i1"}, r"the frame is int8 \(96, 128, 3\), uint8"),
        ({"typestr": ">u2", "shape": (4, 4)}, r"format='mono10'"),
        ({"typestr": "nonsense"}, "__cuda_array_interface__ cannot be read|has no usable typestr"),
        ({"typestr": "missing"}, "__cuda_array_interface__ cannot be read"),
        ({"data": None}, "__cuda_array_interface__ cannot be read"),
        ({"data": (0, False)}, "has no data"),
        ({"shape": (96, 0, 3)}, "expected both sides to be at least 1"),
        ({"shape": (96, 128)}, "is in the memory of a GPU"),
        ({"shape": (96, 128, 4)}, r"the frame is uint8 \(96, 128, 4\)"),
        ({"strides": (400, 3, 1)}, "is in the memory of a GPU"),
        ({"strides": (128, 1, 12288)}, "do not lie side by side"),
        ({"strides": (3, 1)}, "has 2 strides and 3 sides"),
        ({"stream": 0}, "names the stream 0, which is ambiguous"),
        ({"stream": "a"}, "__cuda_array_interface__ cannot be read"),
        ({"mask": object()}, "has a mask"),
        ({"version": "missing"}, "__cuda_array_interface__ cannot be read"),
    ],
)
def test_interface_is_checked(detector, changes, message):
    with pytest.raises(FrameError, match=message):
        detector.score(CudaInterface(**changes))


def test_frame_buffer_is_filled_and_scored(detector, bad_frame):
    buffer = detector.frame_buffer(96, 128)
    assert buffer.shape == (96, 128, 3)
    assert buffer.dtype == np.uint8
    assert buffer.flags.c_contiguous
    assert buffer.flags.writeable
    assert not buffer.any()
    assert buffer.ctypes.data % 4096 == 0
    buffer[:] = bad_frame
    assert detector.score(buffer).score == detector.score(bad_frame).score
    assert detector.score(buffer[8:80]).score == detector.score(bad_frame[8:80]).score


@pytest.mark.parametrize(
    ("format", "shape", "dtype"),
    [
        ("rgb8", (96, 128, 3), "uint8"),
        ("mono8", (96, 128), "uint8"),
        ("mono12", (96, 128), "uint16"),
        ("bayer_rggb8", (96, 128), "uint8"),
        ("nv12", (144, 128), "uint8"),
    ],
)
def test_frame_buffer_of_each_layout(detector, format, shape, dtype):
    buffer = detector.frame_buffer(96, 128, format)
    assert buffer.shape == shape
    assert buffer.dtype == dtype
    assert detector.score(buffer, format=format).roi == (0, 0, 128, 96)


def test_frame_buffer_outlives_its_detector(small_model, bad_frame):
    detector = Detector(small_model, engine="onnxruntime")
    buffer = detector.frame_buffer(96, 128)
    part = buffer[10:20]
    detector.close()
    del buffer
    gc.collect()
    part[:] = 7  # the view keeps the memory
    assert (part == 7).all()
    with pytest.raises(Error, match="is closed: open the model again"):
        detector.score(part)
    with pytest.raises(Error, match="is closed: open the model again"):
        detector.frame_buffer(96, 128)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 128), "expected both sides to be at least 1"),
        ((96, -5), "expected both sides to be at least 1"),
        ((95, 127, "nv12"), "expected even sides"),
        ((96, 128, "bgra8"), 'pixel format is "bgra8"'),
    ],
)
def test_frame_buffers_that_cannot_be(detector, arguments, message):
    with pytest.raises(FrameError, match=message):
        detector.frame_buffer(*arguments)


def test_wait_and_geometries_are_checked(small_model):
    with pytest.raises(Error, match="wait is 'sleep': 'spin' or 'block' is expected"):
        Detector(small_model, engine="onnxruntime", wait="sleep")
    with pytest.raises(Error, match="frame geometries to keep is 0, 1 or more is expected"):
        Detector(small_model, engine="onnxruntime", geometries=0)
    with Detector(small_model, engine="onnxruntime", wait="block", geometries=1) as detector:
        assert detector.score(np.zeros((8, 8), np.uint8)).score >= 0
