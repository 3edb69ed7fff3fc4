"""One of two models that are compared: a checkpoint of torch, an ONNX file or a plan, opened.

All of them run behind the preprocessing and postprocessing that serve the line.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agp_edge.dependencies import require
from agp_edge.detector import Detector
from agp_edge.manifest import read_manifest
from agp_edge.site import read_site

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from types import TracebackType

    from numpy.typing import NDArray

__all__ = ["OwnThreshold", "Side", "open_side", "own_threshold"]

CHECKPOINT_SUFFIXES = (".json", ".safetensors")

# A model's threshold and whose it is: "site file" or "model".
OwnThreshold = tuple[float, str]


def own_threshold(path: str | os.PathLike[str]) -> OwnThreshold | None:
    """The threshold that comes with a model, its site file's first; None where there is none."""
    if _is_checkpoint(path):
        return None
    site = read_site(path)
    if site is not None and site.threshold is not None:
        return site.threshold, "site file"
    threshold = read_manifest(path)["threshold"]
    return None if threshold is None else (float(threshold["value"]), "model")


def _is_checkpoint(path: str | os.PathLike[str]) -> bool:
    return Path(path).is_dir() or Path(path).suffix in CHECKPOINT_SUFFIXES


class Side:
    """One of the two models, open: name, engine, precision, threshold, score(frame)."""

    def __init__(self, name: str, detector: Any, engine: str, precision: str) -> None:
        self.name = name
        self.engine = engine
        self.precision = precision
        self._detector = detector

    @property
    def threshold(self) -> float:
        """The one in use."""
        return float(self._detector.threshold)

    def score(self, frame: NDArray[np.uint8]) -> Any:
        """The result: `score`, `is_anomalous`, `anomaly_map`, and what else the detector gives."""
        return self._detector.score(frame)

    def __enter__(self) -> Side:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._detector = None


def open_side(path: str | os.PathLike[str], threshold: float | None) -> Side:
    """Opens a model for comparing.

    Args:
        path: a checkpoint, an ONNX file or a plan.
        threshold: None: the model's own; one without any decides nothing.
    """
    if _is_checkpoint(path):
        return _open_checkpoint(path, threshold)
    manifest = read_manifest(path)
    if threshold is None and own_threshold(path) is None:
        threshold = 0.0  # its verdicts are not used
    detector = Detector(path, threshold=threshold, self_test=False)
    precision = manifest["precision"]
    return Side(str(path), detector, detector.engine_name, precision["built"] or precision["asked"])


def _open_checkpoint(path: str | os.PathLike[str], threshold: float | None) -> Side:
    """Torch between the stages that serve the line."""
    from agp_edge import _core  # noqa: PLC0415  (kept out of the import)

    torch = require("torch", extra="train")
    from agp_edge.trainer.checkpoint import load_model  # noqa: PLC0415  (torch is there)
    from agp_edge.trainer.export import checkpoint_manifest  # noqa: PLC0415

    model, info = load_model(Path(path))
    manifest = checkpoint_manifest(info, model)
    shapes = (
        (1, 3, manifest.input.height, manifest.input.width),
        (1, 1, manifest.output.height, manifest.output.width),
    )

    def run(stream: int, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        del stream
        with torch.no_grad():
            image = torch.from_numpy(_borrowed(inputs[0], shapes[0]))
            _borrowed(outputs[0], shapes[1])[:] = model(image).numpy()

    engine = _core.CallableEngine(
        f"torch {torch.__version__}",
        [(manifest.input.name, "float32", list(shapes[0]))],
        [(manifest.output.name, "float32", list(shapes[1]))],
        run,
    )
    detector = _core.Detector(
        manifest.to_json(), str(path), engine, threshold=0.0 if threshold is None else threshold
    )
    return Side(str(path), detector, detector.engine_name, "fp32")


def _borrowed(address: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Float32 memory of the pipeline as an array."""
    size = int(np.prod(shape))
    array = np.ctypeslib.as_array((ctypes.c_float * size).from_address(address))
    borrowed: NDArray[np.float32] = array.reshape(shape)
    return borrowed
