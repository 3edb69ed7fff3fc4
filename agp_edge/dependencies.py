"""What each optional package is for, and the command that installs it."""

from __future__ import annotations

import importlib
from typing import Any

from agp_edge.errors import DependencyError

__all__ = ["EXTRA_OF_MODULE", "missing_module_error", "require"]

# Top-level import name -> extra of pyproject.toml that brings it.
EXTRA_OF_MODULE = {
    "cryptography": "sign",
    "cv2": "images",
    "filelock": "cache",
    "elpv_dataset": "demo",
    "hdrh": "bench",
    "jinja2": "eval",
    "matplotlib": "train",
    "onnx": "train",
    "onnxruntime": "cpu",
    "onnxscript": "train",
    "openvino": "openvino",
    "safetensors": "train",
    "scipy": "eval",
    "sklearn": "eval",
    "timm": "train",
    "torch": "train",
    "torchvision": "train",
}


def require(module: str, *, extra: str | None = None) -> Any:
    """Import `module`, or say how to install it.

    Args:
        module: dotted import name, e.g. "onnxruntime".
        extra: extra of agp-edge that brings it; None looks it up in `EXTRA_OF_MODULE`.

    Raises:
        DependencyError: `module` is not installed, or is installed and does not load.
    """
    top = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] == top:
            raise missing_module_error(top, extra=extra) from error
        raise _broken_module_error(top, error) from error
    except ImportError as error:
        raise _broken_module_error(top, error) from error


def missing_module_error(module: str, *, extra: str | None = None) -> DependencyError:
    """The sentence for a top-level `module` that is not installed."""
    extra = extra or EXTRA_OF_MODULE.get(module)
    package = f"'agp-edge[{extra}]'" if extra else module
    return DependencyError(
        f"the Python package '{module}' is needed here and is not installed: "
        f"install it with `pip install {package}`"
    )


def _broken_module_error(module: str, error: ImportError) -> DependencyError:
    return DependencyError(
        f"the Python package '{module}' is installed and does not load ({error}): "
        f"install it again with `pip install --force-reinstall {module}`"
    )
