"""OpenVINO on a CPU: the native engine, with the libraries of the Python wheel."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from agp_edge.errors import DependencyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agp_edge import _core

__all__ = ["library_folder", "open_onnx"]


def open_onnx(
    path: str,
    *,
    threads: int = 0,
    content: bytes | None = None,
    streams: int = 1,
    cpus: Sequence[int] = (),
    bfloat16: bool = False,
) -> _core.Engine:
    """Load an ONNX file into OpenVINO's CPU plugin.

    Args:
        path: the file.
        threads: of inference; 0: OpenVINO's own choice, or one per given CPU.
        content: the file's bytes, where they were read already; None: the file is read.
        streams: frames that its clones run at a time, at most one per core, on a share of the
            threads each.
        cpus: the only ones to use; none: as the process's.
        bfloat16: compute in it; its scores differ from FP32's in the third digit.

    Raises:
        DependencyError: the engine is not in this build, or the package is not installed.
        ModelError: OpenVINO refuses the file.
        DeviceError: bfloat16, and this CPU has no instructions for it.
    """
    from agp_edge import _core  # noqa: PLC0415  (kept out of `import agp_edge`)

    return _core.open_openvino(
        path,
        library_folder=str(library_folder()),
        threads=threads,
        content=content,
        streams=streams,
        cpus=list(cpus),
        bfloat16=bfloat16,
    )


def library_folder() -> Path:
    """Where the wheel keeps libopenvino_c; the package is looked up, not imported.

    Raises:
        DependencyError: the engine is not in this build, or the package is not installed.
    """
    from agp_edge import _core  # noqa: PLC0415  (kept out of `import agp_edge`)

    if not _core.has_openvino():
        raise DependencyError(
            "this build of agp_edge has no OpenVINO engine, because OpenVINO's headers were not "
            "there when it was compiled: use ONNX Runtime (`pip install 'agp-edge[cpu]'`), or "
            "install agp_edge again with the openvino wheel present"
        )
    spec = importlib.util.find_spec("openvino")
    if spec is None or spec.origin is None:
        raise DependencyError(
            "the Python package 'openvino' is needed here and is not installed: "
            "install it with `pip install 'agp-edge[openvino]'`"
        )
    return Path(spec.origin).parent / "libs"
