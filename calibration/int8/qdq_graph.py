"""Explicit Q/DQ graphs: FP32 graph and ranges -> graph whose layers work in INT8.

ONNX Runtime's quantiser places the pairs, in the form that TensorRT fuses: symmetric, zero-points
0, one scale per output channel of a weight, inputs of layers only, biases left alone. Where a
convolution's result is added to a shortcut, the shortcut gets a pair as well, since TensorRT fuses
the addition into an INT8 convolution only then.

A layer is a Conv, Gemm or MatMul with constant weights. Normalisations, softmax, products of two
activations and the distance itself are never quantised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper

from agp_edge.calibration.fp16.half_graph import distance_tail, sort_nodes
from agp_edge.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from onnx import GraphProto, ModelProto, NodeProto

__all__ = [
    "FP16_OPSET",
    "LAYER_OPS",
    "ROUNDED",
    "Layer",
    "calibrated_tensors",
    "layers_of",
    "only_layers",
    "quantised_graph",
    "with_half_scales",
]

LAYER_OPS = ("Conv", "Gemm", "MatMul")
# The first opset whose QuantizeLinear takes FP16 tensors and scales.
FP16_OPSET = 19
SMALLEST_HALF = 2.0**-24
# Ends the names of weights that were rounded before their pair; without it, the original's name.
ROUNDED = "_on_levels"


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer that can work in INT8."""

    name: str
    op: str
    """"Conv", "depthwise Conv", "Gemm" or "MatMul"."""

    weights: int
    """How many, without the bias."""

    activation: str
    """The tensor it reads."""

    shortcut: str | None
    """The tensor that is added to a convolution's result; None where there is none."""


def layers_of(model: ModelProto) -> list[Layer]:
    """The layers of an FP32 graph, in the order of its nodes, those of the distance left out.

    Args:
        model: its nodes have unique names.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    tail = distance_tail(graph)
    shortcuts = _shortcuts(graph, constants)
    found = []
    for node in graph.node:
        if node.op_type not in LAYER_OPS or node.name in tail or len(node.input) < 2:
            continue
        if node.input[1] not in constants or node.input[0] in constants:
            continue
        shape = list(constants[node.input[1]].dims)
        # a vector has no channels, a stack of matrices (the regions) no scales for each of them
        if len(shape) < 2 or (node.op_type == "MatMul" and len(shape) != 2):
            continue
        found.append(
            Layer(
                name=node.name,
                op="depthwise Conv" if _is_depthwise(node, shape) else node.op_type,
                weights=int(np.prod(shape)),
                activation=node.input[0],
                shortcut=shortcuts.get(node.name),
            )
        )
    return found


def calibrated_tensors(layers: Iterable[Layer]) -> list[str]:
    """Names of the tensors whose ranges are needed, each once, in the order of the layers."""
    names: dict[str, None] = {}
    for layer in layers:
        names[layer.activation] = None
        if layer.shortcut is not None:
            names[layer.shortcut] = None
    return list(names)


def quantised_graph(
    model: ModelProto, layers: Iterable[Layer], ranges: Mapping[str, float]
) -> ModelProto:
    """The graph with every one of the layers in INT8; weights stay floats behind their pairs.

    Args:
        model: FP32; not changed.
        layers: of `layers_of`.
        ranges: the largest absolute value that each tensor of `calibrated_tensors` can show;
            larger ones are clipped.

    Raises:
        ModelError: a range is not positive and finite.
    """
    # heavy, and needed here only
    from onnxruntime.quantization import CalibrationMethod, QuantType  # noqa: PLC0415
    from onnxruntime.quantization.calibrate import TensorsData  # noqa: PLC0415
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer  # noqa: PLC0415

    chosen = list(layers)
    for name in calibrated_tensors(chosen):
        if not 0.0 < ranges[name] < float("inf"):
            raise ModelError(
                f"tensor '{name}' has the range {ranges[name]} on the calibration images, a "
                "positive number is expected: calibrate on images that are not blank"
            )
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    limits = {name: (np.float32(-peak), np.float32(peak)) for name, peak in ranges.items()}
    quantizer = QDQQuantizer(
        copy,
        True,  # per channel
        False,  # all of the eight bits
        QuantType.QInt8,
        QuantType.QInt8,
        TensorsData(CalibrationMethod.MinMax, limits),
        [layer.name for layer in chosen],
        [],
        list(LAYER_OPS),
        {
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "AddQDQPairToWeight": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": list(LAYER_OPS),
            "QDQKeepRemovableActivations": True,
        },
    )
    quantizer.quantize_model()
    full: ModelProto = quantizer.model.model
    _release_others(full.graph, chosen)
    _quantise_shortcuts(full.graph, chosen, ranges)
    sort_nodes(full.graph)
    return full


def only_layers(full: ModelProto, layers: Iterable[Layer], keep: Collection[str]) -> ModelProto:
    """The fully quantised graph with the layers in `keep` in INT8 and the others as they were.

    Args:
        full: of `quantised_graph`; not changed.
        layers: all of them.
        keep: names of the layers that stay INT8.
    """
    model = onnx.ModelProto()
    model.CopyFrom(full)
    graph = model.graph
    producers = {output: node for node in graph.node for output in node.output}
    nodes = {node.name: node for node in graph.node}
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for layer in layers:
        if layer.name in keep:
            continue
        node = nodes[layer.name]
        for index in (0, 1):
            node.input[index] = _before_pair(node.input[index], producers).removesuffix(ROUNDED)
        if layer.shortcut is not None:
            addition = readers[node.output[0]][0]
            for index, name in enumerate(addition.input):
                addition.input[index] = _before_pair(name, producers)
    _remove_unread(graph)
    return model


def with_half_scales(model: ModelProto) -> ModelProto:
    """The graph with every scale rounded to a number that FP16 holds, and never to zero."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensors = {tensor.name: tensor for tensor in copy.graph.initializer}
    for node in copy.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            tensor = tensors[node.input[1]]
            values = numpy_helper.to_array(tensor)
            half = np.maximum(values.astype(np.float16).astype(np.float32), SMALLEST_HALF)
            tensor.CopyFrom(numpy_helper.from_array(half.astype(np.float32), tensor.name))
    return copy


def _is_depthwise(node: NodeProto, shape: list[int]) -> bool:
    group = next((int(a.i) for a in node.attribute if a.name == "group"), 1)
    return node.op_type == "Conv" and group > 1 and shape[1] == 1


def _shortcuts(graph: GraphProto, constants: Collection[str]) -> dict[str, str]:
    """By the name of a convolution: what is added to its result, where only that reads it."""
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {output.name for output in graph.output}
    convolved = {node.output[0] for node in graph.node if node.op_type == "Conv"}
    taken: set[str] = set()
    found: dict[str, str] = {}
    for node in graph.node:
        if node.op_type != "Conv" or node.output[0] in outputs:
            continue
        following = readers.get(node.output[0], [])
        if len(following) != 1 or following[0].op_type != "Add" or following[0].name in taken:
            continue
        others = [name for name in following[0].input if name != node.output[0]]
        # Of two convolutions that are added up, one is fused; the other's result is its shortcut.
        if len(others) == 1 and others[0] not in constants and node.output[0] in convolved:
            found[node.name] = others[0]
            taken.add(following[0].name)
    return found


def _release_others(graph: GraphProto, layers: Iterable[Layer]) -> None:
    """Lets everything that is no layer read the tensors as they were.

    The quantiser hands a quantised tensor to all its readers: the features that are compared with
    their reconstruction, normalisations and poolings would get eight bits for nothing in return.
    """
    names = {layer.name for layer in layers}
    producers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        for index, name in enumerate(node.input):
            if node.name not in names or index > 1:
                node.input[index] = _before_pair(name, producers)


def _quantise_shortcuts(
    graph: GraphProto, layers: Iterable[Layer], ranges: Mapping[str, float]
) -> None:
    """Reads each shortcut through a Q/DQ pair, the one that other layers read if there is one."""
    nodes = {node.name: node for node in graph.node}
    pairs = {node.input[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    zero = "agp_edge_zero_point"
    for layer in layers:
        if layer.shortcut is None:
            continue
        quantize = pairs.get(layer.shortcut)
        if quantize is None:
            if zero not in {tensor.name for tensor in graph.initializer}:
                graph.initializer.append(numpy_helper.from_array(np.int8(0), zero))
            scale = f"{layer.shortcut}_scale"
            value = np.float32(ranges[layer.shortcut] / 127.0)
            graph.initializer.append(numpy_helper.from_array(np.asarray(value), scale))
            names = (f"{layer.shortcut}_QuantizeLinear", f"{layer.shortcut}_DequantizeLinear")
            quantize = helper.make_node(
                "QuantizeLinear",
                [layer.shortcut, scale, zero],
                [f"{names[0]}_Output"],
                name=names[0],
            )
            dequantize = helper.make_node(
                "DequantizeLinear",
                [quantize.output[0], scale, zero],
                [f"{names[1]}_Output"],
                name=names[1],
            )
            graph.node.extend([quantize, dequantize])
            pairs[layer.shortcut] = quantize
            readers[quantize.output[0]] = [dequantize]
        result = readers[quantize.output[0]][0].output[0]
        addition = readers[nodes[layer.name].output[0]][0]
        for index, name in enumerate(addition.input):
            if name == layer.shortcut:
                addition.input[index] = result


def _before_pair(name: str, producers: Mapping[str, NodeProto]) -> str:
    dequantize = producers.get(name)
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return name
    return producers[dequantize.input[0]].input[0]


def _remove_unread(graph: GraphProto) -> None:
    """Drops Q/DQ nodes and constants that nothing reads any more."""
    outputs = {output.name for output in graph.output}
    nodes = list(graph.node)
    while True:
        read = outputs | {name for node in nodes for name in node.input}
        kept = [
            node
            for node in nodes
            if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or node.output[0] in read
        ]
        if len(kept) == len(nodes):
            break
        nodes = kept
    tensors = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)
