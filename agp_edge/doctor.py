"""What this machine can run: each engine, where it was found, its version, or why it is missing."""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from agp_edge.dependencies import require
from agp_edge.engines import openvino
from agp_edge.engines.tensorrt import FLAVOURS, Flavour
from agp_edge.errors import DependencyError, DeviceError, Error
from agp_edge.gpu import find_gpus
from agp_edge.jetson import find_jetson
from agp_edge.native_modules import MODULES, NativeModule, find_module, open_library

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Finding", "examine", "require_engine"]

CPU_ENGINES = ("ONNX Runtime", "OpenVINO")
ROOT = Path("/")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One part of the machine."""

    name: str
    """E.g. "ONNX Runtime"."""

    usable: bool
    """Whether agp_edge can work with it here."""

    version: str | None = None
    """As the part itself says."""

    path: str | None = None
    """Of the library that is loaded, or would be."""

    runs: str = ""
    """What it is good for, e.g. ".onnx on the CPU"."""

    problem: str | None = None
    """Why it is not usable, and the command that helps; None when it is."""

    warnings: tuple[str, ...] = ()
    """What makes it slower than it could be, each with the command that helps."""


def examine() -> tuple[Finding, ...]:
    """Look at everything: our extension, CPU engines, TensorRT, its modules, GPUs, the Jetson.

    Loads the libraries that are installed to see that they do load; asks no GPU to compute.
    """
    gpu_problem, gpus = _gpus()
    return (
        _guarded("agp_edge extension", "preprocessing and postprocessing", _extension),
        _guarded(CPU_ENGINES[0], ".onnx on the CPU, INT8 by default", _onnxruntime),
        _guarded(CPU_ENGINES[1], ".onnx on the CPU, FP32 and FP16 by default", _openvino),
        *(_tensorrt(kind, flavour, gpu_problem) for kind, flavour in FLAVOURS.items()),
        *(_native_module(module, gpu_problem) for module in MODULES),
        *gpus,
        *_jetson(),
    )


def require_engine(findings: tuple[Finding, ...]) -> None:
    """Check that a model can be scored with what was found.

    Raises:
        DependencyError: our extension, or every engine, is missing; says what to install.
    """
    extension = findings[0]
    if extension.problem:
        raise DependencyError(extension.problem)
    if not any(finding.usable and finding.name in CPU_ENGINES for finding in findings):
        raise DependencyError(
            "no engine that scores a model is usable here: install ONNX Runtime with "
            "`pip install 'agp-edge[cpu]'`"
        )


def _guarded(name: str, runs: str, find: Callable[[], tuple[str, str]]) -> Finding:
    try:
        version, path = find()
    except Error as error:
        return Finding(name=name, usable=False, runs=runs, problem=str(error))
    return Finding(name=name, usable=True, version=version, path=path, runs=runs)


def _extension() -> tuple[str, str]:
    try:
        module = importlib.import_module("agp_edge._core")
    except ImportError as error:
        raise DependencyError(
            f"the compiled part of agp_edge does not load ({error}): install the package again "
            "with `pip install --force-reinstall agp-edge`"
        ) from error
    return metadata.version("agp-edge"), str(module.__file__)


def _onnxruntime() -> tuple[str, str]:
    runtime = require("onnxruntime", extra="cpu")
    path = _loaded_library("onnxruntime_pybind11_state") or runtime.__file__
    return runtime.__version__, str(path)


def _openvino() -> tuple[str, str]:
    folder = openvino.library_folder()
    library = next(iter(sorted(folder.glob("libopenvino_c.so*"))), None)
    if library is None:
        raise DependencyError(
            f"the OpenVINO package has no libopenvino_c in '{folder}': install it again with "
            "`pip install --force-reinstall openvino`"
        )
    return _openvino_version(library), str(library)


class _OpenVinoVersion(ctypes.Structure):
    """ov_version_t of openvino/c/ov_core.h."""

    _fields_ = (("build_number", ctypes.c_char_p), ("description", ctypes.c_char_p))


def _openvino_version(library: Path) -> str:
    try:
        api = ctypes.CDLL(str(library))
    except OSError as error:
        raise DependencyError(
            f"OpenVINO's library does not load ({error}): install it again with "
            "`pip install --force-reinstall openvino`"
        ) from error
    version = _OpenVinoVersion()
    api.ov_get_openvino_version(ctypes.byref(version))
    text = (version.build_number or b"").decode(errors="replace")
    api.ov_version_free(ctypes.byref(version))
    return text


def _tensorrt(kind: str, flavour: Flavour, gpu_problem: str | None) -> Finding:
    runs = "plans on an NVIDIA GPU"
    try:
        module = flavour.load()
    except DependencyError as error:
        return Finding(name=flavour.name, usable=False, runs=runs, problem=str(error))
    path = _loaded_library("libtensorrt_rtx.so" if kind == "rtx" else "libnvinfer")
    problem = gpu_problem
    if problem and kind == "rtx":  # its compiler needs no GPU
        problem = f"it compiles plans (`agp-edge build`) and cannot run them here: {problem}"
    return Finding(
        name=flavour.name,
        usable=kind == "rtx" or problem is None,
        version=module.__version__,
        path=path or module.__file__,
        runs=runs,
        problem=problem,
    )


def _native_module(module: NativeModule, gpu_problem: str | None) -> Finding:
    name = f"native module {module.name}"
    runs = f"plans of {module.product} on an NVIDIA GPU"
    file: Path | None = None
    try:
        file = find_module(module)
        library, number = open_library(module)
    except DependencyError as error:
        path = None if file is None else str(file)
        return Finding(name=name, usable=False, path=path, runs=runs, problem=str(error))
    version = f"{number // 10000}.{number // 100 % 100}.{number % 100}"
    if gpu_problem is not None:
        gpu_problem = f"it is compiled in and its library opens, but {gpu_problem}"
    return Finding(
        name=name,
        usable=gpu_problem is None,
        version=f"library {version}",
        path=library,
        runs=runs,
        problem=gpu_problem,
    )


def _gpus() -> tuple[str | None, tuple[Finding, ...]]:
    """Why there is no GPU, or None; and one finding per GPU, at least one."""
    runs = "TensorRT"
    try:
        gpus = find_gpus()
    except DeviceError as error:
        return str(error), (Finding(name="GPU", usable=False, runs=runs, problem=str(error)),)
    return None, tuple(
        Finding(
            name=f"GPU: {gpu.name}, compute capability {_dotted(gpu.compute_capability)}",
            usable=True,
            version=f"driver for CUDA {_dotted(gpu.driver_cuda)}",
            path=_loaded_library("libcuda.so"),
            runs=runs,
        )
        for gpu in gpus
    )


def _jetson() -> tuple[Finding, ...]:
    jetson = find_jetson(ROOT)
    if jetson is None:
        return ()
    return (
        Finding(
            name=f"Jetson: {jetson.model}",
            usable=True,
            version=None if jetson.release is None else f"Jetson Linux {jetson.release}",
            runs="power mode and clocks",
            warnings=jetson.warnings,
        ),
    )


def _dotted(pair: tuple[int, int]) -> str:
    return f"{pair[0]}.{pair[1]}"


def _loaded_library(fragment: str) -> str | None:
    """Path of a library of this process whose file name holds `fragment`; None off Linux."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return None
    for line in maps.read_text(errors="replace").splitlines():
        path = line.partition("/")[2]
        if fragment in path.rpartition("/")[2]:
            return "/" + path
    return None
