"""Which precision a model is asked in, and which one the compiler really gave it.

Precision lives in the graph: FP16 tensors, or Q/DQ pairs. So "fp16" converts an FP32 graph before
it is compiled, "int8" takes a graph that is quantised already, and what the manifest claims is
compared with the parsed network, and on a GPU with the layers of the built engine.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agp_edge.errors import Error, ModelError
from agp_edge.manifest import read_manifest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agp_edge.calibration.fp16 import Fp16Report

__all__ = [
    "BUILT_PLACEHOLDER",
    "PRECISIONS",
    "check_built",
    "check_network",
    "engine_precision",
    "graph_of_precision",
    "layers_precision",
    "stamp_built",
]

PRECISIONS = ("fp32", "fp16", "int8")
# As long as any precision in quotes: what was read back takes its place in the compiled plan.
BUILT_PLACEHOLDER = '"built":null  '


def graph_of_precision(
    source: str, precision: str | None, folder: Path, images: Sequence[str | os.PathLike[str]] = ()
) -> tuple[str, Fp16Report | None]:
    """The ONNX file to compile: `source` itself, or its FP16 version, written into `folder`.

    Args:
        source: an ONNX file of ours.
        precision: one of `PRECISIONS`; None: what `source` is.
        folder: for the converted file, which is named like `source`.
        images: for the check of the conversion; empty: synthetic frames.

    Returns:
        The file, and how well the conversion went; None where there was none.

    Raises:
        ModelError: the file is of another precision, or FP16 loses too much.
        Error: unknown precision.
    """
    asked = read_manifest(source)["precision"]["asked"]
    if precision not in (None, *PRECISIONS):
        raise Error(f"unknown precision '{precision}': expected one of {', '.join(PRECISIONS)}")
    if precision in (None, asked):
        return source, None
    if (asked, precision) == ("fp32", "fp16"):
        # torch is not needed, onnx and onnxruntime are
        from agp_edge.calibration.fp16 import fp16_from_onnx  # noqa: PLC0415

        target = folder / Path(source).name
        return str(target), fp16_from_onnx(source, target, images=images)
    if precision == "int8":
        raise ModelError(
            f"'{source}' is an {asked} graph and int8 was asked for: precision lives in the graph, "
            "so give an ONNX file that is quantised already (with QuantizeLinear and "
            "DequantizeLinear nodes)"
        )
    raise ModelError(
        f"'{source}' is an {asked} graph and {precision} was asked for: give the fp32 file that "
        "`agp-edge export` wrote"
    )


def check_network(trt: Any, network: Any, asked: str, source: str) -> None:
    """Compare the parsed network with what its manifest says.

    Raises:
        ModelError: they differ.
    """
    found = _network_precision(trt, network)
    if found != asked:
        raise ModelError(
            f"'{source}' holds an {found} graph and its manifest says {asked}: a plan would "
            "claim a precision that it has not; export or convert the model again"
        )


def _network_precision(trt: Any, network: Any) -> str:
    """By the operands of the layers with weights, and by Q/DQ layers."""
    kinds = trt.LayerType
    weighted = (kinds.CONVOLUTION, kinds.DECONVOLUTION, kinds.MATRIX_MULTIPLY)
    half = total = 0
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type in (kinds.QUANTIZE, kinds.DEQUANTIZE):
            return "int8"
        if layer.type in weighted:
            total += 1
            half += layer.get_input(0).dtype == trt.DataType.HALF
    return "fp16" if 2 * half > total else "fp32"


def layers_precision(information: str) -> str | None:
    """The precision that an engine's layers work in; None where the text does not say it.

    Args:
        information: JSON of TensorRT's engine inspector, built with detailed verbosity.

    Returns:
        "int8" where any tensor is INT8, "fp16" where most tensors are half, else "fp32".
    """
    try:
        layers = json.loads(information)["Layers"]
    except (ValueError, KeyError, TypeError):
        return None
    counts = {"int8": 0, "fp16": 0, "fp32": 0}
    for layer in layers:
        if not isinstance(layer, dict):  # names only: built without detailed verbosity
            return None
        for tensor in layer.get("Outputs", []):
            words = str(tensor.get("Format/Datatype", tensor.get("Datatype", ""))).lower()
            for name, spellings in (
                ("int8", ("int8",)),
                ("fp16", ("half", "fp16", "float16")),
                ("fp32", ("float", "fp32")),
            ):
                if any(spelling in words for spelling in spellings):
                    counts[name] += 1
                    break
    if not any(counts.values()):
        return None
    if counts["int8"]:
        return "int8"
    return "fp16" if counts["fp16"] >= counts["fp32"] else "fp32"


def engine_precision(trt: Any, plan: Any, logger: Any) -> str | None:
    """Read the precision back from a compiled plan; the caller knows that a GPU is there."""
    runtime = trt.Runtime(logger)
    engine = None if runtime is None else runtime.deserialize_cuda_engine(plan)
    if engine is None:  # compiled for another GPU than this machine's
        return None
    inspector = engine.create_engine_inspector()
    if inspector is None:
        return None
    return layers_precision(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def check_built(asked: str, built: str | None, source: str, title: str) -> None:
    """Refuse a plan that fell back to a wider type than was asked for.

    Raises:
        ModelError: it did.
    """
    widths = {"fp32": 4, "fp16": 2, "int8": 1}
    if built is not None and widths[built] > widths[asked]:
        raise ModelError(
            f"{title} compiled '{source}' in {built} though the graph asks for {asked}: nothing "
            "was written; look at the graph's types, or build with another precision"
        )


def stamp_built(plan: bytearray, built: str) -> None:
    """Writes what was read back into the manifest inside a compiled plan, in place.

    Raises:
        ModelError: the plan does not hold the placeholder just once.
    """
    old = BUILT_PLACEHOLDER.encode()
    new = f'"built":"{built}"'.encode()
    if plan.count(old) != 1 or len(new) != len(old):
        raise ModelError(
            f"the compiled plan has {plan.count(old)} places for the precision that was built, one "
            "is expected: build it again"
        )
    start = plan.index(old)
    plan[start : start + len(old)] = new
