"""Where a measurement comes from: the model, versions, the machine and its state."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agp_edge.bench.system import System

__all__ = ["model_record", "provenance"]

DISTRIBUTIONS = (
    "agp-edge", "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt",
    "opencv-python-headless", "opencv-python", "scipy", "anomalib", "torch",
)  # fmt: skip
# Variables that change how many threads work, and where.
VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "CUDA_VISIBLE_DEVICES")


def provenance(system: System) -> dict[str, Any]:
    """Date, versions and machine as a JSON object; neither host name nor paths."""
    versions = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions,
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "machine": system.describe(),
    }


def model_record(path: str | os.PathLike[str], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """File name, SHA-256, and what of the manifest decides how much work a frame is."""
    with Path(path).open("rb") as file:
        digest = _sha256(file)
    spec = manifest["input"]
    return {
        "file": Path(path).name,
        "sha256": digest,
        "name": manifest["name"],
        "backbone": manifest["backbone"],
        "created": manifest["created"],
        "precision": manifest.get("precision"),
        "input": [spec["width"], spec["height"]],
        "resize": spec["resize"],
    }


def _sha256(file: Any) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
