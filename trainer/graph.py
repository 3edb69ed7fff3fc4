"""The ONNX graph of a network: inference branch only, static shapes, no left-over bookkeeping."""

from __future__ import annotations

import io
import logging
import sys
import warnings
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING

import onnx
import torch

from agp_edge.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agp_edge.trainer.model import AgpNet

__all__ = ["INPUT_NAME", "OPSET", "OUTPUT_NAME", "check_graph", "graph_from_model"]

INPUT_NAME = "image"
OUTPUT_NAME = "distance"
# The newest that TensorRT 10.3 (JetPack 6) reads; has Gelu and LayerNormalization as operators.
OPSET = 20
# What a static graph of floats has no use for; strongly typed TensorRT networks refuse some of it.
_LEFT_OVERS = frozenset(
    {"Cast", "ConstantOfShape", "If", "Loop", "NonZero", "Range", "Scan", "Shape", "Size"}
)


def graph_from_model(model: AgpNet, height: int, width: int) -> onnx.ModelProto:
    """Traces the network for one input (1, 3, height, width) with torch's dynamo exporter.

    Args:
        model: in inference mode, on the CPU.
        height: pixels.
        width: pixels.

    Returns:
        A checked graph, float32 "image" (1, 3, height, width) -> "distance" (1, 1, gh, gw).

    Raises:
        ModelError: the backbone cannot be exported, or the graph is not clean.
    """
    example = torch.zeros(1, 3, height, width)
    try:
        with _quiet():
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                verbose=False,
            )
    except Exception as error:  # the exporter wraps whatever went wrong in its own classes
        raise ModelError(
            f"the network cannot be exported to ONNX ({type(error).__name__}: "
            f"{str(error).strip().splitlines()[0]}); choose another backbone"
        ) from error
    if program is None:
        raise ModelError("the ONNX exporter gave no graph; choose another backbone")
    _fold_constants(program)
    graph = program.model_proto
    _strip(graph)
    check_graph(graph)
    return graph


def check_graph(graph: onnx.ModelProto) -> None:
    """Refuses a graph with left-over bookkeeping, dynamic shapes or other types than float32.

    Raises:
        ModelError: names the operator or tensor.
    """
    onnx.checker.check_model(graph)
    left = sorted({node.op_type for node in graph.graph.node} & _LEFT_OVERS)
    if left:
        raise ModelError(
            f"the exported graph holds {', '.join(left)}; expected static shapes and one type: "
            "choose another backbone or input size"
        )
    for value in [*graph.graph.input, *graph.graph.output]:
        tensor = value.type.tensor_type
        if tensor.elem_type != onnx.TensorProto.FLOAT or any(
            dim.dim_value < 1 for dim in tensor.shape.dim
        ):
            raise ModelError(f"tensor '{value.name}' of the exported graph is not static float32")


def _fold_constants(program: torch.onnx.ONNXProgram) -> None:
    """Computes now what does not depend on the image, whatever its size.

    The exporter stops at a size. A matrix computed in the graph is no weight to a quantiser.
    """
    from onnxscript import optimizer  # noqa: PLC0415  (heavy)

    unlimited = sys.maxsize
    optimizer.optimize(program.model, input_size_limit=unlimited, output_size_limit=unlimited)


def _strip(graph: onnx.ModelProto) -> None:
    """Drops what the exporter notes for debugging: stack traces with paths of this machine."""
    del graph.metadata_props[:]
    graph.doc_string = ""
    graph.producer_name, graph.producer_version = "agp-edge", ""
    graph.graph.doc_string = ""
    graph.graph.name = "agp_edge"
    for node in graph.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in [*graph.graph.input, *graph.graph.output, *graph.graph.value_info]:
        del value.metadata_props[:]
        value.doc_string = ""
    for tensor in graph.graph.initializer:
        del tensor.metadata_props[:]
        tensor.doc_string = ""


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports its progress in prints, logs and deprecations of its own insides."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
