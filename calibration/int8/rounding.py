"""Rounding of weights that keeps what a layer computes: GPTQ (Frantar et al. 2022), at eight bits.

To the nearest level is the best choice for each weight and not for their sum. An edge filter of a
depthwise convolution has large weights that cancel: rounded one by one they no longer do, and its
output drifts with the brightness. Here weights are rounded one after the other, and each error is
made up for by those that follow, as the second moments of the layer's input on calibration images
say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import numpy_helper

from agp_edge.calibration.graph.run_graph import open_graph
from agp_edge.calibration.int8.qdq_graph import ROUNDED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto, TensorProto

    from agp_edge.calibration.int8.qdq_graph import Layer

__all__ = ["input_moments", "levels_of", "round_weights"]

LEVELS = 127
POSITIONS = 256  # of an image and a layer at most, drawn at random
BLOCK = 64  # columns between two updates of all that follow
# Of the mean second moment, added to each: an input that never varied may vary later.
DAMPING = 0.01


def input_moments(
    model: ModelProto, layers: Sequence[Layer], inputs: Iterable[NDArray[np.float32]]
) -> dict[str, NDArray[np.float64]]:
    """Second moments of what each layer multiplies with its weights, by the layer's name.

    Args:
        model: FP32.
        layers: of the model.
        inputs: (1, 3, H, W) each.

    Returns:
        Sums of x x' over places and images, (G, K, K) each, of K values for each of G groups. A
        convolution with dilation, or with groups of several channels, is left out.
    """
    nodes = {node.name: node for node in model.graph.node}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    wanted = [layer for layer in layers if _is_plain(nodes[layer.name], layer)]
    tensors = list({layer.activation: None for layer in wanted})
    run = open_graph(model, tensors)
    random = np.random.default_rng(0)
    moments: dict[str, NDArray[np.float64]] = {}
    for image in inputs:
        values = dict(zip(tensors, run(image), strict=True))
        for layer in wanted:
            node = nodes[layer.name]
            columns = _columns(
                values[layer.activation], node, constants[node.input[1]], layer, random
            )
            found = (columns @ columns.transpose(0, 2, 1)).astype(np.float64)
            moments[layer.name] = moments.get(layer.name, 0.0) + found
    return moments


def levels_of(
    weights: NDArray[np.float64], scales: NDArray[np.float64], moments: NDArray[np.float64]
) -> NDArray[np.int8]:
    """Levels of the weights, such that the mean square error of their products is small.

    Args:
        weights: (G, R, K), of R outputs for each of G groups.
        scales: (G, R), positive.
        moments: (G, K, K), of `input_moments`.

    Returns:
        (G, R, K), -127 to 127.
    """
    size = weights.shape[2]
    damping = np.maximum(DAMPING * np.trace(moments, axis1=1, axis2=2) / size, 1e-12)
    inverse = np.linalg.inv(moments + damping[:, None, None] * np.eye(size))
    # row i: how the weights from i on make up for an error of the i-th
    factors = np.linalg.cholesky(inverse).transpose(0, 2, 1)
    left = np.array(weights, np.float64)
    levels = np.zeros(weights.shape, np.int8)
    for start in range(0, size, BLOCK):
        end = min(start + BLOCK, size)
        errors = np.zeros((*weights.shape[:2], end - start))
        for place in range(start, end):
            now = np.clip(np.rint(left[:, :, place] / scales), -LEVELS, LEVELS)
            levels[:, :, place] = now
            error = (left[:, :, place] - now * scales) / factors[:, place, place, None]
            left[:, :, place:end] -= error[:, :, None] * factors[:, None, place, place:end]
            errors[:, :, place - start] = error
        left[:, :, end:] -= errors @ factors[:, start:end, end:]
    return levels


def round_weights(
    full: ModelProto, layers: Sequence[Layer], moments: Mapping[str, NDArray[np.float64]]
) -> None:
    """Puts weights that lie on their levels before the pairs of a graph.

    The original ones stay in the graph, for `qdq_graph.only_layers`.

    Args:
        full: of `qdq_graph.quantised_graph`, its scales final; changed.
        layers: of the graph.
        moments: of `input_moments`; layers that are not among them are left as they are.
    """
    tensors = {tensor.name: tensor for tensor in full.graph.initializer}
    nodes = {node.name: node for node in full.graph.node}
    producers = {output: node for node in full.graph.node for output in node.output}
    for layer in layers:
        if layer.name not in moments:
            continue
        node = nodes[layer.name]
        quantize = producers[producers[node.input[1]].input[0]]
        weights = numpy_helper.to_array(tensors[quantize.input[0]]).astype(np.float64)
        scales = numpy_helper.to_array(tensors[quantize.input[1]]).astype(np.float64)
        across = node.op_type != "Conv" and not _is_transposed(node)  # (K, R)
        groups = len(moments[layer.name])
        rows = (weights.T if across else weights).reshape(groups, len(scales) // groups, -1)
        steps = scales.reshape(groups, -1)
        found = (levels_of(rows, steps, moments[layer.name]) * steps[:, :, None]).reshape(
            weights.T.shape if across else weights.shape
        )
        name = quantize.input[0] + ROUNDED
        on_levels = np.ascontiguousarray(found.T if across else found, np.float32)
        full.graph.initializer.append(numpy_helper.from_array(on_levels, name))
        quantize.input[0] = name


def _is_transposed(node: NodeProto) -> bool:
    return node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)


def _is_plain(node: NodeProto, layer: Layer) -> bool:
    attributes = {a.name: a for a in node.attribute}
    if node.op_type == "Gemm":
        return not attributes.keys() & {"transA", "alpha"}
    if node.op_type != "Conv":
        return True
    dilated = "dilations" in attributes and set(attributes["dilations"].ints) != {1}
    grouped = "group" in attributes and attributes["group"].i > 1
    padded = "auto_pad" in attributes and attributes["auto_pad"].s not in (b"", b"NOTSET")
    return not dilated and not padded and (not grouped or layer.op == "depthwise Conv")


def _columns(
    values: NDArray[np.float32],
    node: NodeProto,
    weight: TensorProto,
    layer: Layer,
    random: np.random.Generator,
) -> NDArray[np.float32]:
    """(G, K, N): at N places the K values that are multiplied with weights, for each group."""
    if node.op_type != "Conv":
        rows = values.reshape(-1, values.shape[-1])
        return np.ascontiguousarray(rows[_places(len(rows), random)].T)[None]
    attributes = {a.name: list(a.ints) for a in node.attribute}
    height, width = weight.dims[2:]
    top, left, bottom, right = attributes.get("pads", [0] * 4)
    down, along = attributes.get("strides", [1, 1])
    padded = np.pad(values[0], ((0, 0), (top, bottom), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    windows = windows[:, ::down, ::along]
    lines, columns = np.divmod(
        _places(windows.shape[1] * windows.shape[2], random), windows.shape[2]
    )
    patches = windows[:, lines, columns].reshape(len(windows), len(lines), height * width)
    groups = len(windows) if layer.op == "depthwise Conv" else 1
    size = len(windows) * height * width // groups
    return np.ascontiguousarray(patches.transpose(0, 2, 1)).reshape(groups, size, -1)


def _places(count: int, random: np.random.Generator) -> NDArray[np.intp]:
    if count <= POSITIONS:
        return np.arange(count)
    return np.sort(random.choice(count, POSITIONS, replace=False))
