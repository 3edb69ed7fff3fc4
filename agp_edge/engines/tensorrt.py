"""TensorRT and TensorRT for RTX: which one is installed, and what can be said before touching it.

Without a GPU TensorRT does not fail well: one flavour returns None, another a wrapper of a null
pointer that segfaults at the next call. So the packages are looked up without importing them, and
the CUDA driver is asked first.
"""

from __future__ import annotations

import atexit
import ctypes.util
import functools
import importlib
import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agp_edge.errors import DependencyError, DeviceError
from agp_edge.gpu import find_gpus

if TYPE_CHECKING:
    from agp_edge import _core

__all__ = ["FLAVOURS", "Flavour", "library_folders", "make_logger", "open_plan", "plan_flavour"]

LOG = logging.getLogger("agp_edge.tensorrt")
# Without a handler Python would print errors on stderr that reach the caller as exceptions.
LOG.addHandler(logging.NullHandler())

# First bytes of a plan of TensorRT for RTX.
RTX_MAGIC = b"vtrt"
# Import names of the wheels that hold nothing but libraries.
LIBRARY_PACKAGES = ("tensorrt_libs", "tensorrt_rtx_libs", "tensorrt_lean_libs")


@dataclass(frozen=True)
class Flavour:
    """One product of the TensorRT family."""

    name: str
    modules: tuple[str, ...]  # import names, of which any does
    install: str

    def find_module(self) -> str | None:
        """The import name that is installed, or None; nothing is imported."""
        for module in self.modules:
            if importlib.util.find_spec(module) is not None:
                return module
        return None

    def load(self) -> Any:
        """Import the bindings.

        Raises:
            DependencyError: not installed, or the installation does not load.
        """
        module = self.find_module()
        if module is None:
            raise DependencyError(f"{self.name} is not installed: install it with {self.install}")
        try:
            return importlib.import_module(module)
        except Exception as error:  # bindings raise RuntimeError and OSError as well
            raise DependencyError(
                f"{self.name} is installed and does not load ({error}): install it again with "
                f"{self.install}"
            ) from error


FLAVOURS = {
    "tensorrt": Flavour(
        "TensorRT",
        ("tensorrt", "tensorrt_bindings"),
        "`pip install 'agp-edge[tensorrt]'` (a Jetson has it from JetPack)",
    ),
    "rtx": Flavour(
        "TensorRT for RTX",
        ("tensorrt_rtx", "tensorrt_rtx_bindings"),
        "`pip install 'agp-edge[rtx]'`",
    ),
    "lean": Flavour(
        "TensorRT lean runtime",
        ("tensorrt_lean", "tensorrt_lean_bindings"),
        "`pip install tensorrt-lean-cu13-bindings tensorrt-lean-cu13-libs`",
    ),
}


def open_plan(path: str, *, content: bytes | None = None) -> _core.Engine:
    """Load a plan on GPU 0: with the native module, else with TensorRT's Python bindings.

    Args:
        path: the plan.
        content: its bytes, when their hash was compared; None: the file is mapped.

    Raises:
        ModelError: not a plan, changed, or built for another GPU, TensorRT version or flavour.
        DependencyError: no TensorRT is installed, or none that runs this plan.
        DeviceError: no NVIDIA GPU, or its memory is exhausted.
    """
    from agp_edge import _core  # noqa: PLC0415  (kept out of `import agp_edge`)

    if not _is_installed():
        raise DependencyError(
            f"'{path}' is a TensorRT plan and no TensorRT is installed: install it with "
            f"{FLAVOURS['tensorrt'].install}, or {FLAVOURS['rtx'].install} for an RTX desktop GPU, "
            "or open the .onnx file on the CPU"
        )
    try:
        find_gpus()
    except DeviceError as error:
        raise DeviceError(f"'{path}' is a TensorRT plan, and {error}") from error
    _connect_log()
    try:
        return _core.open_tensorrt(path, library_folders=library_folders(), content=content)
    except DependencyError:
        flavours = ("rtx",) if plan_flavour(path, content) == "rtx" else ("tensorrt", "lean")
        for flavour in flavours:
            if FLAVOURS[flavour].find_module() is not None:
                from agp_edge.engines import tensorrt_bindings  # noqa: PLC0415  (only where needed)

                return tensorrt_bindings.open_plan(path, flavour, content=content)
        raise


def plan_flavour(path: str, content: bytes | None = None) -> str:
    """Which product's plan the file's first bytes belong to: "rtx" or "tensorrt".

    Args:
        path: the plan.
        content: its bytes; None: the file is read.
    """
    if content is not None:
        return "rtx" if content.startswith(RTX_MAGIC) else "tensorrt"
    with Path(path).open("rb") as file:
        return "rtx" if file.read(4) == RTX_MAGIC else "tensorrt"


def library_folders() -> list[str]:
    """Where installed wheels keep TensorRT's libraries; nothing is imported."""
    folders: list[str] = []
    for package in LIBRARY_PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is not None:
            folders.extend(spec.submodule_search_locations or ())
    return folders


def _is_installed() -> bool:
    if library_folders() or any(flavour.find_module() for flavour in FLAVOURS.values()):
        return True
    # A Jetson's virtual environment sees the system's libraries and not its Python packages.
    return any(ctypes.util.find_library(name) for name in ("nvinfer", "tensorrt_rtx"))


@functools.cache
def _connect_log() -> None:
    from agp_edge import _core  # noqa: PLC0415  (kept out of `import agp_edge`)

    _core.set_tensorrt_log(_log)
    atexit.register(_core.set_tensorrt_log, None)  # TensorRT's threads outlive the interpreter


def _log(level: int, message: bytes) -> None:
    LOG.log(level, "%s", message.decode(errors="replace"))


def make_logger(trt: Any) -> Any:
    """The TensorRT logger that hands messages to `logging` and remembers errors, none so far.

    There is one for the process: TensorRT keeps the first that it is given and ignores others.

    Args:
        trt: the bindings' module.

    Returns:
        An ILogger with the attributes `first_error` and `last_error`, empty while there was none;
        the first is the cause, where later ones are echoes.
    """
    logger = _process_logger(trt)
    logger.first_error = logger.last_error = ""
    return logger


@functools.cache
def _process_logger(trt: Any) -> Any:
    severities = trt.ILogger.Severity
    levels = {
        severities.INTERNAL_ERROR: logging.ERROR,
        severities.ERROR: logging.ERROR,
        severities.WARNING: logging.WARNING,
        severities.INFO: logging.INFO,
        severities.VERBOSE: logging.DEBUG,
    }

    class Logger(trt.ILogger):  # type: ignore[misc]  # its base exists only where TensorRT does
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.first_error = ""
            self.last_error = ""

        def log(self, severity: Any, message: str) -> None:
            level = levels.get(severity, logging.DEBUG)
            if level == logging.ERROR:
                self.first_error = self.first_error or message
                self.last_error = message
            LOG.log(level, "%s", message)

    return Logger()
