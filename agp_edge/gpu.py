"""What the CUDA driver says of this machine, asked through libcuda and nothing else."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass

from agp_edge.errors import DeviceError

__all__ = ["Gpu", "device_memory_in_use", "find_gpus"]

# Constants of cuda.h.
COMPUTE_CAPABILITY_MAJOR = 75
COMPUTE_CAPABILITY_MINOR = 76


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One CUDA device."""

    name: str
    """As the driver calls it, e.g. "Orin"."""

    compute_capability: tuple[int, int]
    """major, minor, e.g. (8, 7)."""

    driver_cuda: tuple[int, int]
    """Newest CUDA version that the driver runs, e.g. (12, 6)."""


def find_gpus() -> tuple[Gpu, ...]:
    """The CUDA devices of this machine; at least one.

    Raises:
        DeviceError: no driver, a driver that does not start, or no device.
    """
    driver = _open_driver()
    count = ctypes.c_int()
    _check(driver, driver.cuDeviceGetCount(ctypes.byref(count)), "cuDeviceGetCount")
    if count.value == 0:
        raise DeviceError(
            "no NVIDIA GPU can be used here: the driver runs and lists no device; check nvidia-smi "
            "and CUDA_VISIBLE_DEVICES"
        )
    version = ctypes.c_int()
    _check(driver, driver.cuDriverGetVersion(ctypes.byref(version)), "cuDriverGetVersion")
    driver_cuda = (version.value // 1000, version.value % 1000 // 10)
    return tuple(_describe(driver, index, driver_cuda) for index in range(count.value))


def device_memory_in_use() -> int:
    """Bytes of the first GPU's memory that are in use, by all programs; on a Jetson of its DRAM.

    The driver counts per device, not per process. The GPU's context is taken as it is and is
    started where nobody did.

    Raises:
        DeviceError: as `find_gpus`, or the driver does not say.
    """
    driver = _open_driver()
    device, context = ctypes.c_int(), ctypes.c_void_p()
    _check(driver, driver.cuDeviceGet(ctypes.byref(device), 0), "cuDeviceGet")
    _check(
        driver,
        driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device),
        "cuDevicePrimaryCtxRetain",
    )
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    try:
        _check(driver, driver.cuCtxPushCurrent_v2(context), "cuCtxPushCurrent")
        try:
            status = driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
            _check(driver, status, "cuMemGetInfo")
        finally:
            driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
    finally:
        driver.cuDevicePrimaryCtxRelease_v2(device)
    return total.value - free.value


def _open_driver() -> ctypes.CDLL:
    file = os.environ.get("AGP_EDGE_CUDA_DRIVER") or "libcuda.so.1"  # as cuda_driver.cpp
    try:
        driver = ctypes.CDLL(file)
    except OSError as error:
        raise DeviceError(
            f"no NVIDIA GPU can be used here: the driver's library {file} was not found; "
            "run on a machine with an NVIDIA GPU and driver, or open the .onnx file on the CPU"
        ) from error
    _check(driver, driver.cuInit(0), "cuInit")
    return driver


def _describe(driver: ctypes.CDLL, index: int, driver_cuda: tuple[int, int]) -> Gpu:
    device = ctypes.c_int()
    _check(driver, driver.cuDeviceGet(ctypes.byref(device), index), "cuDeviceGet")
    name = ctypes.create_string_buffer(256)
    _check(driver, driver.cuDeviceGetName(name, len(name), device), "cuDeviceGetName")

    def attribute(number: int) -> int:
        value = ctypes.c_int()
        _check(
            driver,
            driver.cuDeviceGetAttribute(ctypes.byref(value), number, device),
            "cuDeviceGetAttribute",
        )
        return value.value

    capability = (attribute(COMPUTE_CAPABILITY_MAJOR), attribute(COMPUTE_CAPABILITY_MINOR))
    return Gpu(
        name=name.value.decode(errors="replace"),
        compute_capability=capability,
        driver_cuda=driver_cuda,
    )


def _check(driver: ctypes.CDLL, status: int, call: str) -> None:
    if status == 0:
        return
    text = ctypes.c_char_p()
    driver.cuGetErrorString(status, ctypes.byref(text))
    reason = text.value.decode(errors="replace") if text.value else "unknown"
    raise DeviceError(
        f"no NVIDIA GPU can be used here: {call} failed with CUDA error {status} ({reason}); "
        "check the driver with nvidia-smi, or open the .onnx file on the CPU"
    )
