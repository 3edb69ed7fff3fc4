"""Memory, streams and DLPack capsules of a camera's producer, by the CUDA driver alone.

The driver is libcuda.so.1, or the one that AGP_EDGE_CUDA_DRIVER names: then the one played on the
CPU (cpp/tests/fakes), on which work is done when somebody waits for it, and not before.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

import numpy as np

HOST, DEVICE = 1, 2  # CUmemorytype
KDL_CUDA, KDL_CUDA_HOST, KDL_CUDA_MANAGED = 2, 3, 13  # DLDeviceType
READ_ONLY = 1  # DLPACK_FLAG_BITMASK_READ_ONLY
LEGACY, PER_THREAD = 1, 2  # CUDA's two default streams

# Four frames, uint8 (48, 80, 3), whose scores differ.
IMAGES = [
    np.random.default_rng(3).integers(0, top, (48, 80, 3), dtype=np.uint8)
    for top in (40, 90, 160, 255)
]


class Cuda:
    """The driver, with a GPU's primary context current on this thread."""

    def __init__(self, device: int = 0) -> None:
        self._library = ctypes.CDLL(os.environ.get("AGP_EDGE_CUDA_DRIVER") or "libcuda.so.1")
        self.is_played = hasattr(self._library, "fake_cuda_live")
        self._events: list[ctypes.c_void_p] = []
        self._call("cuInit", 0)
        self._device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(self._device), device)
        context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self._call("cuCtxPushCurrent_v2", context)

    def close(self) -> None:
        for stream in (LEGACY, PER_THREAD):
            self.synchronize(stream)
        for event in self._events:
            self._call("cuEventDestroy_v2", event)
        context = ctypes.c_void_p()
        self._call("cuCtxPopCurrent_v2", ctypes.byref(context))
        self._call("cuDevicePrimaryCtxRelease_v2", self._device)

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        assert status == 0, f"{name} returned {status}"

    def allocate(self, size: int, *, managed: bool = False) -> int:
        """Address of device memory."""
        address = ctypes.c_uint64()
        if managed:
            self._call("cuMemAllocManaged", ctypes.byref(address), ctypes.c_size_t(size), 1)
        else:
            self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value

    def free(self, address: int) -> None:
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def pinned(self, size: int) -> int:
        """Address of page-locked host memory, which the GPU can read too."""
        address = ctypes.c_void_p()
        self._call("cuMemHostAlloc", ctypes.byref(address), ctypes.c_size_t(size), 3)
        assert address.value is not None
        return address.value

    def free_pinned(self, address: int) -> None:
        self._call("cuMemFreeHost", ctypes.c_void_p(address))

    def stream(self) -> int:
        """A stream that does not wait for the legacy default stream."""
        stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(stream), 1)
        assert stream.value is not None
        return stream.value

    def destroy_stream(self, stream: int) -> None:
        self.synchronize(stream)
        self._call("cuStreamDestroy_v2", ctypes.c_void_p(stream))

    def synchronize(self, stream: int) -> None:
        self._call("cuStreamSynchronize", ctypes.c_void_p(stream))

    def upload(self, to: int, pinned: int, size: int, stream: int) -> None:
        """Begins a copy: it is done when somebody waits for the stream."""
        self._call(
            "cuMemcpyHtoDAsync_v2",
            *(ctypes.c_uint64(to), ctypes.c_void_p(pinned), ctypes.c_size_t(size)),
            ctypes.c_void_p(stream),
        )

    def copy(self, to: int, source: int, size: int, stream: int) -> None:
        """Begins a copy inside the GPU's memory."""
        self._call(
            "cuMemcpyDtoDAsync_v2",
            *(ctypes.c_uint64(to), ctypes.c_uint64(source), ctypes.c_size_t(size)),
            ctypes.c_void_p(stream),
        )

    def make_wait(self, waiting: int, until: int) -> None:
        """What comes on the stream `waiting` from now on waits for what `until` was given."""
        event = ctypes.c_void_p()
        self._call("cuEventCreate", ctypes.byref(event), 2)
        self._call("cuEventRecord", event, ctypes.c_void_p(until))
        self._call("cuStreamWaitEvent", ctypes.c_void_p(waiting), event, 0)
        self._events.append(event)

    def kind(self, address: int) -> int | None:
        """HOST (page-locked) or DEVICE; None: not known to the driver."""
        kind = ctypes.c_uint()
        status = self._library.cuPointerGetAttribute(
            ctypes.byref(kind), 2, ctypes.c_uint64(address)
        )
        return kind.value if status == 0 else None

    def calls(self, name: str) -> int:
        """How often the played driver's function was called."""
        return int(self._library.fake_cuda_calls(name.encode()))

    def forget_calls(self) -> None:
        self._library.fake_cuda_forget_calls()

    def live(self) -> int:
        """What the played driver has made and nobody has released."""
        return int(self._library.fake_cuda_live())


class GpuFrame:
    """An array's pixels in the GPU's memory, each row `gap` bytes longer; `send` fills it."""

    def __init__(self, cuda: Cuda, array: np.ndarray, *, gap: int = 0, managed: bool = False):
        self.cuda = cuda
        self.shape, self.dtype = array.shape, array.dtype
        self.pitch = array[0].nbytes + gap
        self.size = self.pitch * len(array)
        self.address = cuda.allocate(self.size, managed=managed)
        self._pinned = cuda.pinned(self.size)
        self._stream = cuda.stream()
        self.is_managed = managed

    def send(self, array: np.ndarray, stream: int | None = None) -> None:
        """Puts the pixels on their way, by this producer's own stream unless told otherwise."""
        rows = np.zeros((len(array), self.pitch), np.uint8)
        rows[:, : array[0].nbytes] = array.reshape(len(array), -1).view(np.uint8)
        ctypes.memmove(
            self.address if self.is_managed else self._pinned, rows.ctypes.data, rows.nbytes
        )
        if not self.is_managed:
            self.cuda.upload(
                self.address, self._pinned, self.size, self._stream if stream is None else stream
            )

    @property
    def stream(self) -> int:
        return self._stream

    @property
    def pinned(self) -> int:
        """Address of the page-locked memory that `send` fills first."""
        return self._pinned

    @property
    def strides(self) -> tuple[int, ...]:
        inner = (3, 1) if len(self.shape) == 3 else (self.dtype.itemsize,)
        return (self.pitch, *inner)

    def release(self) -> None:
        self.cuda.destroy_stream(self._stream)
        self.cuda.free(self.address)
        self.cuda.free_pinned(self._pinned)


class CudaInterface:
    """A frame with `__cuda_array_interface__`; `changes` replace its entries."""

    def __init__(self, frame: GpuFrame, **changes: Any) -> None:
        self.__cuda_array_interface__ = {
            "shape": frame.shape,
            "typestr": frame.dtype.str,
            "data": (frame.address, False),
            "strides": frame.strides,
            "stream": frame.stream,
            "version": 3,
            **changes,
        }


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _DELETER))


class _Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", _DELETER),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


class DlpackProducer:
    """A frame behind DLPack: says where it is, and keeps count of what a consumer does.

    Args:
        frame: the pixels, in device or managed memory; or `address`, in page-locked memory.
        version: of the structure, e.g. (1, 1); None: the one from before versions.
    """

    def __init__(
        self,
        frame: GpuFrame,
        kind: int = KDL_CUDA,
        *,
        version: tuple[int, int] | None = (1, 0),
        flags: int = 0,
        device_id: int = 0,
        address: int | None = None,
        byte_offset: int = 0,
    ) -> None:
        self._frame, self._kind, self._device_id = frame, kind, device_id
        self._version, self._flags = version, flags
        self._address = frame.address if address is None else address
        self._byte_offset = byte_offset
        self.asked: list[dict[str, Any]] = []
        self.deleted = 0

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._kind, self._device_id

    def __dlpack__(self, **options: Any) -> Any:
        if self._version is None and "max_version" in options:
            raise TypeError("unexpected keyword argument 'max_version'")
        self.asked.append(options)
        if options.get("stream") is not None:  # the consumer's, which waits for the pixels
            self._frame.cuda.make_wait(options["stream"], self._frame.stream)
        frame = self._frame
        sides = (ctypes.c_int64 * len(frame.shape))(*frame.shape)
        items = [stride // frame.dtype.itemsize for stride in frame.strides]
        strides = (ctypes.c_int64 * len(items))(*items)
        tensor = _Tensor(
            self._address - self._byte_offset, self._kind, self._device_id, len(frame.shape), 1,
            8 * frame.dtype.itemsize, 1, sides, strides, self._byte_offset,
        )  # fmt: skip

        def delete(_: int) -> None:
            self.deleted += 1

        deleter = _DELETER(delete)
        if self._version is None:
            managed: Any = _Managed(tensor, None, deleter)
            name = b"dltensor"
        else:
            managed = _Versioned(*self._version, None, deleter, self._flags, tensor)
            name = b"dltensor_versioned"
        self._alive = (sides, strides, deleter, managed, name)  # as long as the producer
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = (
            ctypes.py_object,
            [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p],
        )
        return new(ctypes.addressof(managed), name, None)
