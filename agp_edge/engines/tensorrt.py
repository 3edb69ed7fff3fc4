"""TensorRT and TensorRT for RTX: which one is installed, and what can be said before touching it.

Without a GPU TensorRT does not fail well: one flavour returns None, another a wrapper of a null
pointer that segfaults at the next call. So the packages are looked up without importing them, and
the CUDA driver is asked first.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from agp_edge.errors import DependencyError, DeviceError
from agp_edge.gpu import find_gpus

if TYPE_CHECKING:
    from agp_edge import _core

__all__ = ["MODULES", "installed_modules", "open_plan"]

# Import names, the full runtime first; value: what it is.
MODULES = {
    "tensorrt": "TensorRT",
    "tensorrt_lean": "TensorRT lean runtime",
    "tensorrt_rtx": "TensorRT for RTX",
    "tensorrt_rtx_bindings": "TensorRT for RTX",
}


def installed_modules() -> list[str]:
    """The import names of `MODULES` that are installed; nothing is imported."""
    return [name for name in MODULES if importlib.util.find_spec(name) is not None]


def open_plan(path: str) -> _core.Engine:
    """Load a plan.

    Raises:
        DependencyError: no TensorRT package is installed, or this version cannot run plans yet.
        DeviceError: no NVIDIA GPU.
    """
    modules = installed_modules()
    if not modules:
        raise DependencyError(
            f"'{path}' is a TensorRT plan and no TensorRT is installed: install it with "
            "`pip install 'agp-edge[tensorrt]'` (for an RTX desktop GPU `pip install "
            "'agp-edge[rtx]'`; a Jetson has it from JetPack), or open the .onnx file on the CPU"
        )
    try:
        find_gpus()
    except DeviceError as error:
        raise DeviceError(f"'{path}' is a TensorRT plan, and {error}") from error
    raise DependencyError(
        f"'{path}' is a TensorRT plan, and this version of agp_edge has no TensorRT engine: "
        "open the .onnx file on the CPU"
    )
