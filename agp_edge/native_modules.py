"""The compiled TensorRT modules: which are in this build, and whether their libraries open here.

Looks where cpp/src/engine/tensorrt_modules.cpp looks, and in the same order.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from agp_edge.engines.tensorrt import library_folders
from agp_edge.errors import DependencyError

__all__ = ["MODULES", "NativeModule", "find_module", "open_library"]


@dataclass(frozen=True, kw_only=True)
class NativeModule:
    """One compiled module."""

    name: str
    """E.g. "_trt10"."""

    product: str
    """E.g. "TensorRT 10"."""

    libraries: tuple[str, ...]
    """Sonames, of which any does; the first is what most people have."""

    headers: str
    """Whose headers it is compiled with, for messages."""

    install: str
    """What brings a library, for messages."""


MODULES = (
    NativeModule(
        name="_trt11",
        product="TensorRT 11",
        libraries=("libnvinfer.so.11", "libnvinfer_lean.so.11"),
        headers="TensorRT 11",
        install="`pip install 'tensorrt>=11,<12'`",
    ),
    NativeModule(
        name="_trt10",
        product="TensorRT 10",
        libraries=("libnvinfer.so.10", "libnvinfer_lean.so.10"),
        headers="TensorRT 10",
        install="`pip install 'tensorrt>=10.3,<11'` (a Jetson has it from JetPack)",
    ),
    NativeModule(
        name="_trtrtx",
        product="TensorRT for RTX",
        libraries=("libtensorrt_rtx.so.1",),
        headers="TensorRT 11",
        install="`pip install 'agp-edge[rtx]'`",
    ),
)


def find_module(module: NativeModule) -> Path:
    """The module's file, which loads.

    Raises:
        DependencyError: this build has none, or it is damaged.
    """
    folders = [Path(os.environ["AGP_EDGE_MODULES"])] if os.environ.get("AGP_EDGE_MODULES") else []
    core = importlib.util.find_spec("agp_edge._core")
    if core is not None and core.origin is not None:
        own = Path(core.origin).resolve().parent
        folders += [own, own / "agp_edge"]
    for folder in folders:
        file = folder / f"{module.name}.so"
        if file.is_file():
            _check(file)
            return file
    raise DependencyError(
        f"the module {module.name} is not compiled in: when agp_edge was built, the headers of "
        f"{module.headers} or cuda_runtime_api.h were missing; build it again with "
        "AGP_EDGE_TENSORRT_HEADERS=FOLDER (one folder of headers per version), or install "
        "TensorRT's Python bindings, which open plans without it"
    )


def _check(file: Path) -> None:
    try:
        library = ctypes.CDLL(str(file))
    except OSError as error:
        raise DependencyError(
            f"the module '{file}' does not load ({error}): install agp_edge again"
        ) from error
    if not hasattr(library, "agp_edge_open_tensorrt"):
        raise DependencyError(
            f"the module '{file}' does not load (it has another content): install agp_edge again"
        )


def open_library(module: NativeModule) -> tuple[str, int]:
    """Open the library that the module would open: where it was found, and its version number.

    Nothing of it is started, so that it needs no GPU.

    Returns:
        Path, or soname where the system's loader found it; what `getInferLibVersion` says.

    Raises:
        DependencyError: none opens; says what the loader said of the first.
    """
    problem = ""
    for soname in module.libraries:
        inside = [str(Path(folder, soname)) for folder in library_folders()]
        for candidate in (*(path for path in inside if Path(path).is_file()), soname):
            try:
                library = ctypes.CDLL(candidate)
                return candidate, int(library.getInferLibVersion())
            except (OSError, AttributeError) as error:
                # a file that is there and does not open says more than one that is missing
                if not problem or candidate != soname:
                    problem = str(error)
    raise DependencyError(
        f"the module {module.name} is compiled in, and no {module.libraries[0]} opens here "
        f"({problem}): install it with {module.install}"
    )
