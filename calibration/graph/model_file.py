"""Model files on this stage: an FP32 graph read and checked, a converted one scored and stamped."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from agp_edge.dependencies import require
from agp_edge.engines import is_plan
from agp_edge.engines.onnxruntime import open_onnx
from agp_edge.errors import ModelError
from agp_edge.manifest import MANIFEST_KEY, MANIFEST_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray
    from onnx import ModelProto

    from agp_edge import _core

__all__ = ["load_fp32", "preprocessor_of", "scorer", "set_manifest", "with_names"]


def load_fp32(source: str, manifest: Mapping[str, Any]) -> ModelProto:
    """The graph of an FP32 model, each node with a name of its own.

    Args:
        source: an ONNX file of ours.
        manifest: its manifest.

    Raises:
        ModelError: the file is a plan, unreadable, or holds FP16 or quantised weights.
        DependencyError: onnx is not installed.
    """
    onnx = require("onnx", extra="train")
    if is_plan(source):
        raise ModelError(f"'{source}' is a plan: pass the .onnx file that it was made from")
    asked = manifest.get("precision", {}).get("asked", "fp32")
    if asked != "fp32":
        raise ModelError(
            f"'{source}' is of precision {asked} already: pass the fp32 file, or leave its "
            "precision as it is"
        )
    try:
        model: ModelProto = onnx.load(source)
    except Exception as error:  # protobuf's and the file system's
        raise ModelError(f"'{source}' cannot be read as ONNX ({error}): export it again") from error
    operators = {node.op_type for node in model.graph.node}
    types = {tensor.data_type for tensor in model.graph.initializer}
    if "DequantizeLinear" in operators or onnx.TensorProto.FLOAT16 in types:
        raise ModelError(
            f"'{source}' holds quantised or FP16 weights though its manifest says fp32: "
            "export the model again"
        )
    return with_names(model)


def with_names(model: ModelProto) -> ModelProto:
    """The model itself, each node with a name of its own: choices of nodes go by names."""
    taken: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"node_{index}_{node.op_type}"
        taken.add(node.name)
    return model


def preprocessor_of(manifest: Mapping[str, Any]) -> _core.Preprocessor:
    """What makes the network's input of a frame, as on the line."""
    from agp_edge import _core  # noqa: PLC0415  (kept out of the import)

    spec = manifest["input"]
    roi = spec["roi"]
    return _core.Preprocessor(
        height=spec["height"],
        width=spec["width"],
        mean=spec["mean"],
        std=spec["std"],
        channels=spec["channels"],
        resize=spec["resize"],
        roi=None if roi is None else tuple(roi),
    )


def scorer(
    text: str, path: str, source: str
) -> Callable[[NDArray[np.uint8]], tuple[float, NDArray[np.float32]]]:
    """Frame -> score and anomaly map, through the stages of the line and ONNX Runtime.

    Args:
        text: the manifest as JSON.
        path: the ONNX file.
        source: its name in messages.
    """
    from agp_edge import _core  # noqa: PLC0415  (kept out of the import)

    # any threshold will do for scores and maps
    detector = _core.Detector(text, source, open_onnx(path), threshold=0.0, outputs=1)

    def score(frame: NDArray[np.uint8]) -> tuple[float, NDArray[np.float32]]:
        result = detector.score(frame)
        if result.anomaly_map is None:
            raise ModelError(f"the pipeline of '{source}' gave no anomaly map")
        return result.score, result.anomaly_map

    return score


def set_manifest(model: ModelProto, manifest: Mapping[str, Any]) -> None:
    """Writes the manifest into the graph.

    Raises:
        ModelError: it is longer than a plan can hold.
    """
    onnx = require("onnx", extra="train")
    text = json.dumps(manifest, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    if len(text.encode()) > MANIFEST_LIMIT:
        raise ModelError(
            f"the manifest of '{manifest['name']}' takes {len(text.encode())} bytes; a plan holds "
            f"{MANIFEST_LIMIT}: shorten its class names and export the model again"
        )
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {MANIFEST_KEY: text})
