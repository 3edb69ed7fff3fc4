"""The CUDA kernels compile for a Jetson of JetPack 6: SM 8.7 with CUDA 12.6's NVRTC, from PyPI.

What is compiled is not run here. nvcc's own run over every architecture is the CMake preset `cuda`.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import re
import struct
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "cpp/src"
CUDA_MACHINE = 190  # EM_CUDA in an ELF header
KERNELS = {
    "preprocess/preprocess_cuda.cu": {"colour8", "mono8", "mono16", "bayer8", "bayer16", "nv12"},
    "postprocess/postprocess_cuda.cu": {
        "smooth",
        "smooth_half",
        "top_count",
        "top_sum",
        "power_sum",
        "finish",
    },
}


@pytest.fixture(scope="module")
def nvrtc() -> ctypes.CDLL:
    package = importlib.metadata.distribution("nvidia-cuda-nvrtc-cu12")
    assert package.version.startswith("12.6."), "the version that JetPack 6.2 has"
    (library,) = (
        package.locate_file(file) for file in package.files or () if file.name == "libnvrtc.so.12"
    )
    return ctypes.CDLL(str(library))


def compiled(nvrtc: ctypes.CDLL, source: Path) -> bytes:
    def check(code: int) -> None:
        if code != 0:
            length = ctypes.c_size_t()
            nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(length))
            log = ctypes.create_string_buffer(length.value)
            nvrtc.nvrtcGetProgramLog(program, log)
            pytest.fail(f"NVRTC returned {code} for {source.name}: {log.value.decode()}")

    program = ctypes.c_void_p()
    text = source.read_bytes()
    check(
        nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, source.name.encode(), 0, None, None)
    )
    options = [b"--std=c++17", b"--gpu-architecture=sm_87", b"-I" + str(SOURCES).encode()]
    array = (ctypes.c_char_p * len(options))(*options)
    check(nvrtc.nvrtcCompileProgram(program, len(options), array))
    size = ctypes.c_size_t()
    check(nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)))
    cubin = ctypes.create_string_buffer(size.value)
    check(nvrtc.nvrtcGetCUBIN(program, cubin))
    check(nvrtc.nvrtcDestroyProgram(ctypes.byref(program)))
    return cubin.raw


@pytest.mark.parametrize("name", KERNELS)
def test_cubin_for_jetpack_6(nvrtc: ctypes.CDLL, name: str) -> None:
    cubin = compiled(nvrtc, SOURCES / name)
    assert cubin[:4] == b"\x7fELF"
    assert struct.unpack_from("<H", cubin, 18) == (CUDA_MACHINE,)
    found = set(re.findall(rb"\.text\.agp_edge_(?:preprocess_)?(\w+)", cubin))
    assert {kernel.decode() for kernel in found} == KERNELS[name]
