"""anomalib's own inferencers, with models that its export wrote."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agp_edge.bench.against.way import Way
from agp_edge.dependencies import require
from agp_edge.errors import Error

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["open_anomalib"]

RUNTIMES = ("torch", "openvino", "onnx")


def open_anomalib(path: str | os.PathLike[str], *, threads: int) -> Way:
    """The inferencer that fits the file: .pt for PyTorch, .xml or .onnx for OpenVINO.

    Args:
        path: what `Engine.export` or `model.to_torch`, `to_openvino` wrote.
        threads: of inference; 0: the library's choice.

    Raises:
        DependencyError: anomalib is not installed.
        Error: another kind of file, or anomalib refuses it.
    """
    file = Path(path)
    deploy = require("anomalib.deploy")
    logging.getLogger("anomalib").setLevel(logging.ERROR)
    # its export calls every file weights/<runtime>/model
    folders = [part.name for part in file.parents if part.name not in ("weights", *RUNTIMES)]
    name = folders[0] if file.stem == "model" and folders else file.stem
    try:
        if file.suffix in (".pt", ".pth"):
            return _torch(deploy, file, name, threads)
        if file.suffix in (".xml", ".onnx"):
            return _openvino(deploy, file, name, threads)
    except (ValueError, KeyError, RuntimeError, OSError) as error:
        raise Error(
            f"anomalib cannot open '{path}' ({str(error).partition(chr(10))[0]})"
        ) from error
    raise Error(f"'{path}' is no model of anomalib's: expected .pt, .xml or .onnx")


def _torch(deploy: Any, file: Path, name: str, threads: int) -> Way:
    torch = require("torch")
    if threads:
        torch.set_num_threads(threads)
    inferencer = deploy.TorchInferencer(file, device="cpu")

    def score(frame: NDArray[Any]) -> float:
        with torch.inference_mode():
            return float(np.squeeze(inferencer.predict(_rgb(frame)).pred_score))

    return Way(name=f"anomalib {name}, PyTorch", score=score, same_graph=False)


def _openvino(deploy: Any, file: Path, name: str, threads: int) -> Way:
    cv2 = require("cv2", extra="images")
    file, before = file.resolve(), Path.cwd()
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)  # it writes a cache into the current folder
        try:
            inferencer = deploy.OpenVINOInferencer(
                file, device="CPU", config={"INFERENCE_NUM_THREADS": threads} if threads else None
            )
        finally:
            os.chdir(before)
    batch, height, width = _input_size(inferencer.model)
    if batch > 1:
        raise Error(
            f"'{file.name}' of {name} was exported for batches of {batch} images, one is expected: "
            "export it again"
        )

    def score(frame: NDArray[Any]) -> float:
        # the exported graph may have a fixed input size, and the inferencer does not resize
        image = _rgb(frame)
        if height and width:
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        return float(np.squeeze(inferencer.predict(image).pred_score))

    return Way(name=f"anomalib {name}, OpenVINO", score=score, same_graph=False)


def _input_size(model: Any) -> tuple[int, int, int]:
    """Batch, height and width of the graph's input; 0 where it takes any."""
    shape = model.input(0).partial_shape
    sides = [0 if shape[axis].is_dynamic else shape[axis].get_length() for axis in (0, 2, 3)]
    return sides[0], sides[1], sides[2]


def _rgb(frame: NDArray[Any]) -> NDArray[Any]:
    if frame.ndim == 2:
        return np.repeat(frame[:, :, None], 3, axis=2)
    return np.ascontiguousarray(frame[:, :, ::-1])
