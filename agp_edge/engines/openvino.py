"""OpenVINO on a CPU: the native engine, with the libraries of the Python wheel."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from agp_edge.errors import DependencyError

if TYPE_CHECKING:
    from agp_edge import _core

__all__ = ["is_available", "library_folder", "open_onnx"]


def library_folder() -> Path | None:
    """Where the wheel keeps libopenvino_c; None when the package is not installed."""
    spec = importlib.util.find_spec("openvino")  # finds it without importing it
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "libs"


def is_available() -> bool:
    """Whether this build has the engine and the wheel is installed."""
    from agp_edge import _core  # noqa: PLC0415  (kept out of `import agp_edge`)

    return _core.has_openvino() and library_folder() is not None


def open_onnx(path: str, *, threads: int = 0) -> _core.Engine:
    """Load an ONNX file into OpenVINO's CPU plugin.

    Args:
        path: the file.
        threads: of inference; 0: OpenVINO's own choice.

    Raises:
        DependencyError: the engine is not in this build, or the package is not installed.
        ModelError: OpenVINO refuses the file.
    """
    from agp_edge import _core  # noqa: PLC0415  (kept out of `import agp_edge`)

    if not _core.has_openvino():
        raise DependencyError(
            "this build of agp_edge has no OpenVINO engine, because OpenVINO's headers were not "
            "there when it was compiled: use engine='onnxruntime', or install agp_edge again with "
            "the openvino wheel present"
        )
    folder = library_folder()
    if folder is None:
        raise DependencyError(
            "the Python package 'openvino' is needed here and is not installed: "
            "install it with `pip install 'agp-edge[openvino]'`"
        )
    return _core.open_openvino(path, library_folder=str(folder), threads=threads)
