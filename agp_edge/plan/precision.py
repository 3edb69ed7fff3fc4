"""Which precision a model is asked in, and which one the compiler really gave it.

Precision lives in the graph: FP16 tensors, or Q/DQ pairs. So "fp16" converts an FP32 graph before
it is compiled, "int8" takes a graph that is quantised already, and what the manifest claims is
compared with the parsed network, and on a GPU with the layers of the built engine.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agp_edge.errors import Error, ModelError
from agp_edge.manifest import read_manifest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agp_edge.calibration.fp16.convert import Fp16Report

__all__ = [
    "BUILT_PLACEHOLDER",
    "PRECISIONS",
    "check_built",
    "check_network",
    "engine_precision",
    "graph_of_precision",
    "layers_precision",
    "stamped_plan",
]

PRECISIONS = ("fp32", "fp16", "int8")
# As long as any precision in quotes: what was read back takes its place in the compiled plan.
BUILT_PLACEHOLDER = '"built":null  '
# Words of the inspector's formats, e.g. "Channel major FP16 format where channel % 8 == 0".
_DATA_TYPES = {
    "int8": "int8",
    "half": "fp16",
    "fp16": "fp16",
    "float16": "fp16",
    "float": "fp32",
    "fp32": "fp32",
    "float32": "fp32",
}


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
        from agp_edge.calibration.fp16.convert import fp16_from_onnx  # noqa: PLC0415

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
        tensors = [tensor for layer in layers for tensor in layer.get("Outputs", ())]
        formats = [
            str(tensor.get("Format/Datatype", tensor.get("Datatype", ""))) for tensor in tensors
        ]
    # names only, where it was built without detailed verbosity; or a layout that is not known
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    counts = {"int8": 0, "fp16": 0, "fp32": 0}
    for text in formats:
        for word in re.findall(r"[a-z0-9]+", text.lower()):
            if word in _DATA_TYPES:
                counts[_DATA_TYPES[word]] += 1
                break
    if not any(counts.values()):
        return None
    if counts["int8"]:
        return "int8"
    return "fp16" if counts["fp16"] >= counts["fp32"] else "fp32"


def engine_precision(trt: Any, plan: bytes, logger: Any) -> str | None:
    """Read the precision back from a compiled plan; the caller knows that a GPU is there.

    Returns:
        None where the engine does not load here (compiled for another GPU) or does not tell.
    """
    engine = _engine(trt, plan, logger)
    inspector = None if engine is None else engine.create_engine_inspector()
    if inspector is None:
        return None
    try:
        information = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    except (RuntimeError, UnicodeDecodeError):  # pybind11's: a null pointer, text that is none
        return None
    return layers_precision(information)


def _engine(trt: Any, plan: bytes, logger: Any) -> Any:
    runtime = trt.Runtime(logger)
    return None if runtime is None else runtime.deserialize_cuda_engine(plan)


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


def stamped_plan(trt: Any, plan: bytes, built: str, logger: Any) -> bytes | None:
    """The plan with what was read back in its manifest, loaded once more to see that it may.

    Returns:
        None where the plan does not hold the placeholder just once, or does not load any more:
        then the plan as it was is the one to keep.
    """
    old = BUILT_PLACEHOLDER.encode()
    new = f'"built":"{built}"'.encode()
    if plan.count(old) != 1 or len(new) != len(old):
        return None
    stamped = plan.replace(old, new)
    return None if _engine(trt, stamped, logger) is None else stamped
