"""Graphs in half precision: FP32 graph -> FP16 graph of uniform types -> what FP16 storage does.

The conversion is ONNX Runtime's; what stands here is the choice of the nodes that stay FP32, the
clean-up that strongly typed TensorRT networks need, and a graph that shows the rounding: ONNX
Runtime's CPU kernels compute FP16 graphs in FP32 and drop the roundings between two nodes, so that
neither the error nor an overflow of real FP16 storage is seen when the FP16 graph itself runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from agp_edge.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from onnx import GraphProto, ModelProto, NodeProto

__all__ = [
    "HALF_MAXIMUM",
    "REDUCTION_OPS",
    "distance_tail",
    "entrance",
    "float_tensors",
    "half_graph",
    "out_of_range_nodes",
    "peak_graph",
    "rounded_graph",
    "sort_nodes",
]

HALF_MAXIMUM = 65504.0
HALF_SMALLEST_NORMAL = 6.104e-5
# Operators that sum over many values or stretch small differences.
REDUCTION_OPS = frozenset(
    {
        "Exp", "GroupNormalization", "InstanceNormalization", "LayerNormalization",
        "LpNormalization", "Pow", "ReduceL1", "ReduceL2", "ReduceMean", "ReduceSum",
        "ReduceSumSquare", "Reciprocal", "Softmax", "Sqrt",
    }
)  # fmt: skip
# Operators that only move values, or pick one of them: a rounded value stays what it is.
MOVING_OPS = frozenset(
    {
        "Clip", "Concat", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Neg", "Pad",
        "Relu", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
# What may stand between the last weights and the distance map.
TAIL_OPS = frozenset(
    {
        "Abs", "Add", "Clip", "Div", "Expand", "Flatten", "Identity", "Max", "Mul", "Neg",
        "Pow", "ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare", "Reciprocal", "Reshape",
        "Resize", "Slice", "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze",
    }
)  # fmt: skip


def half_graph(model: ModelProto, keep: Iterable[str]) -> ModelProto:
    """The graph with FP16 weights and activations; inputs and outputs stay float32.

    Args:
        model: a float32 graph whose nodes have unique names; not changed.
        keep: names of the nodes that stay FP32.

    Returns:
        A checked graph in topological order, without casts that undo each other.

    Raises:
        ModelError: the converted graph does not pass ONNX's own type checks.
    """
    # heavy, and part of the wheel that runs the check anyway
    from onnxruntime.transformers.float16 import convert_float_to_float16  # noqa: PLC0415

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    half: ModelProto = convert_float_to_float16(
        copy, keep_io_types=True, op_block_list=[], node_block_list=sorted(keep)
    )
    _join_casts(half.graph)
    sort_nodes(half.graph)
    del half.graph.value_info[:]
    try:
        half = onnx.shape_inference.infer_shapes(half, check_type=True, strict_mode=True)
        onnx.checker.check_model(half, full_check=True)
    except Exception as error:  # two modules with an exception class each, and ValueError
        raise ModelError(
            f"the FP16 graph mixes types ({str(error).strip().splitlines()[0]}): "
            "build with precision fp32"
        ) from error
    return half


def distance_tail(graph: GraphProto) -> set[str]:
    """Names of the nodes between the last weights and the output: difference, square, mean, root.

    Differences of nearly equal numbers lose their leading digits, and the epsilon under the root is
    below the smallest FP16 number.
    """
    producers = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name for tensor in graph.initializer}
    tail: set[str] = set()
    pending = [output.name for output in graph.output]
    while pending:
        node = producers.get(pending.pop())
        if node is None or node.name in tail or node.op_type not in TAIL_OPS:
            continue
        if node.op_type == "Add" and _is_bias(node, producers, constants):
            continue  # belongs to its matrix product
        tail.add(node.name)
        pending.extend(node.input)
    return tail


def entrance(graph: GraphProto, share: float) -> set[str]:
    """Names of the first nodes, up to those that hold `share` of all weights.

    The first layers of a CNN have few weights and every later layer inherits their rounding.

    Args:
        graph: in topological order.
        share: of the number of weights, 0 to 1; stacks of matrices, which belong to the distance,
            are not counted.
    """
    sizes = {
        tensor.name: int(np.prod(tensor.dims))
        for tensor in graph.initializer
        if len(tensor.dims) != 3
    }
    total = sum(sizes.values())
    seen, names = 0, set()
    for node in graph.node:
        seen += sum(sizes.pop(name, 0) for name in node.input)
        if seen > share * total:
            break
        names.add(node.name)
    return names


def _is_bias(node: NodeProto, producers: Mapping[str, NodeProto], constants: set[str]) -> bool:
    others = [name for name in node.input if name not in constants]
    return (
        len(others) == 1
        and others[0] in producers
        and producers[others[0]].op_type in ("MatMul", "Conv", "Gemm")
    )


def float_tensors(model: ModelProto) -> list[str]:
    """Names of the float32 tensors that nodes compute, in the order of the nodes."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in [*inferred.value_info, *inferred.output]
    }
    return [
        output
        for node in model.graph.node
        for output in node.output
        if types.get(output) == TensorProto.FLOAT
    ]


def peak_graph(model: ModelProto, tensors: Iterable[str]) -> ModelProto:
    """The graph with the largest absolute value of each tensor as its outputs, in that order."""
    graph = onnx.ModelProto()
    graph.CopyFrom(model)
    del graph.graph.output[:]
    for index, name in enumerate(tensors):
        size, peak = f"agp_edge_abs_{index}", f"agp_edge_peak_{index}"
        graph.graph.node.extend(
            [
                helper.make_node("Abs", [name], [size]),
                helper.make_node("ReduceMax", [size], [peak], keepdims=0),
            ]
        )
        graph.graph.output.append(helper.make_tensor_value_info(peak, TensorProto.FLOAT, []))
    return graph


def out_of_range_nodes(graph: GraphProto, peaks: Mapping[str, float]) -> set[str]:
    """Names of the nodes that FP16 cannot hold.

    Those with a value beyond half of FP16's range on the images (the other half is for images that
    were not seen), a weight beyond it, or a constant like an epsilon that FP16 would lose.

    Args:
        graph: the FP32 graph.
        peaks: largest absolute value seen of each tensor.
    """
    weights = {tensor.name: tensor for tensor in graph.initializer}
    lost = {name for name, tensor in weights.items() if _is_lost(tensor)}
    return {
        node.name
        for node in graph.node
        if any(name in lost for name in node.input)
        or any(not peaks.get(name, 0.0) <= HALF_MAXIMUM / 2 for name in [*node.input, *node.output])
    }


def _is_lost(tensor: TensorProto) -> bool:
    if tensor.data_type != TensorProto.FLOAT:
        return False
    values = np.abs(numpy_helper.to_array(tensor))
    if values.size == 0:
        return False
    if float(values.max()) > HALF_MAXIMUM:
        return True
    return bool(values.size == 1 and 0.0 < float(values.max()) < HALF_SMALLEST_NORMAL)


def rounded_graph(half: ModelProto) -> ModelProto:
    """An FP32 graph that computes what FP16 storage leaves: each FP16 tensor is rounded.

    Weights are rounded, sums are taken in FP32 (as tensor cores do), and every result goes through
    a cast to FP16 and back, so that a value out of range becomes infinite.
    """
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in [*half.graph.value_info, *half.graph.input, *half.graph.output]
    }
    model = onnx.ModelProto()
    model.CopyFrom(half)
    graph = model.graph
    del graph.value_info[:]
    for tensor in graph.initializer:
        _widen(tensor)
    nodes: list[NodeProto] = []
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _widen(attribute.t)
        target = _cast_target(node)
        if target is not None:
            if target == TensorProto.FLOAT16:
                nodes.extend(_rounding(node.input[0], node.output[0]))
            elif target == TensorProto.FLOAT:
                nodes.append(helper.make_node("Identity", list(node.input), list(node.output)))
            else:
                nodes.append(node)
            continue
        nodes.append(node)
        if node.op_type in MOVING_OPS:
            continue
        for index, name in enumerate(node.output):
            if types.get(name) == TensorProto.FLOAT16:
                exact = f"{name}_exact"
                node.output[index] = exact
                nodes.extend(_rounding(exact, name))
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def _rounding(source: str, target: str) -> list[NodeProto]:
    half = f"{target}_half"
    return [
        helper.make_node("Cast", [source], [half], to=TensorProto.FLOAT16),
        helper.make_node("Cast", [half], [target], to=TensorProto.FLOAT),
    ]


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT16:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _cast_target(node: NodeProto) -> int | None:
    if node.op_type != "Cast":
        return None
    return next(int(attribute.i) for attribute in node.attribute if attribute.name == "to")


def _join_casts(graph: GraphProto) -> None:
    """Lets FP32 nodes that follow each other hand over FP32, without a rounding between them."""
    producers = {output: node for node in graph.node for output in node.output}
    outputs = {output.name for output in graph.output}
    renamed: dict[str, str] = {}
    joined: set[int] = set()
    for index, node in enumerate(graph.node):
        if _cast_target(node) != TensorProto.FLOAT:
            continue
        narrow = producers.get(node.input[0])
        if narrow is None or _cast_target(narrow) != TensorProto.FLOAT16:
            continue
        wide, result = narrow.input[0], node.output[0]
        if result not in outputs:
            renamed[result] = wide
        elif wide in producers:  # the graph's output keeps its name, its producer takes it over
            renamed[wide] = result
        else:
            continue
        joined.add(index)
    kept = []
    for index, node in enumerate(graph.node):
        if index in joined:
            continue
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                names[position] = renamed.get(name, name)
        kept.append(node)
    del graph.node[:]
    graph.node.extend(_read_by_somebody(kept, outputs))


def _read_by_somebody(nodes: list[NodeProto], outputs: set[str]) -> list[NodeProto]:
    """The nodes without those casts whose result is used no more."""
    read = outputs | {name for node in nodes for name in node.input}
    return [
        node
        for node in nodes
        if _cast_target(node) is None or any(name in read for name in node.output)
    ]


def sort_nodes(graph: GraphProto) -> None:
    """Topological order that keeps the given order where it can: converters append their casts."""
    producers: dict[str, int] = {
        output: index for index, node in enumerate(graph.node) for output in node.output
    }
    order: list[int] = []
    done: set[int] = set()
    for start in range(len(graph.node)):
        stack = [start]
        while stack:
            index = stack[-1]
            if index in done:
                stack.pop()
                continue
            needed = [
                producers[name]
                for name in graph.node[index].input
                if name in producers and producers[name] not in done
            ]
            if needed:
                stack.extend(needed)
            else:
                done.add(index)
                order.append(index)
                stack.pop()
    nodes = [graph.node[index] for index in order]
    del graph.node[:]
    graph.node.extend(nodes)
