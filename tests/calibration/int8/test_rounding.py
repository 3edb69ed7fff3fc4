"""Rounding of weights that keeps what a layer computes."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from agp_edge.calibration.graph.run_graph import open_graph
from agp_edge.calibration.int8.qdq_graph import (
    ROUNDED,
    calibrated_tensors,
    only_layers,
    quantised_graph,
    with_half_scales,
)
from agp_edge.calibration.int8.ranges import collect_ranges
from agp_edge.calibration.int8.rounding import input_moments, levels_of, round_weights
from agp_edge.calibration.int8.work import Work

from .conftest import IMAGES, picture


def test_an_edge_filter_keeps_its_sum():
    """Its nine inputs are nearly equal; weights that cancel have to go on cancelling."""
    random = np.random.default_rng(0)
    weights = random.normal(size=(40, 1, 9))
    weights -= weights.mean(axis=2, keepdims=True)
    values = random.normal(size=(5000, 1)) + 0.05 * random.normal(size=(5000, 9))
    moments = np.repeat((values.T @ values)[None], 40, axis=0)
    scales = np.abs(weights).max(axis=2) / 127
    levels = levels_of(weights, scales, moments)
    nearest = np.clip(np.rint(weights / scales[:, :, None]), -127, 127)
    assert levels.dtype == np.int8
    assert np.abs(levels - nearest).max() <= 3
    drift = [np.abs((x * scales[:, :, None]).sum(axis=2)).mean() for x in (levels, nearest)]
    assert drift[0] < 0.5 * drift[1]


@pytest.mark.parametrize("size", [30, 150])
def test_products_lose_less_than_with_the_nearest_levels(size):
    """Also beyond one block of columns, and where calibration saw fewer vectors than weights."""
    random = np.random.default_rng(1)
    mixing = random.normal(size=(size // 3, size))
    values = random.normal(size=(100, size // 3)) @ mixing + 0.1 * random.normal(size=(100, size))
    fresh = random.normal(size=(500, size // 3)) @ mixing + 0.1 * random.normal(size=(500, size))
    weights = random.normal(size=(1, 20, size))
    scales = np.abs(weights).max(axis=2) / 127
    levels = levels_of(weights, scales, (values.T @ values)[None])
    nearest = np.rint(weights / scales[:, :, None])
    errors = [
        float((((x * scales[:, :, None] - weights)[0] @ fresh.T) ** 2).mean())
        for x in (levels, nearest)
    ]
    assert errors[0] < 0.5 * errors[1]


def test_layers_of_both_families(family):
    """Every layer is rounded, what it computes is nearer, and layers left out get theirs back."""
    work = Work(str(family), False, True)
    layers = work.layers()
    inputs = [work.input_of_frame(picture(seed)) for seed in range(IMAGES, IMAGES + 6)]
    ranges = collect_ranges(work.model, calibrated_tensors(layers), inputs, method="minmax")
    alive = [layer for layer in layers if ranges[layer.activation] > 0.0]
    nearest = with_half_scales(quantised_graph(work.model, alive, ranges))
    full = onnx.ModelProto()
    full.CopyFrom(nearest)
    moments = input_moments(work.model, alive, inputs)
    assert moments.keys() == {layer.name for layer in alive}
    round_weights(full, alive, moments)
    names = {layer.name for layer in alive}
    tensors = {t.name: numpy_helper.to_array(t) for t in full.graph.initializer}
    for node in full.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in tensors:
            assert node.input[0].endswith(ROUNDED)
            original = tensors[node.input[0].removesuffix(ROUNDED)]
            assert tensors[node.input[0]].shape == original.shape
    exact = open_graph(work.model)(inputs[0])[0]
    none = only_layers(full, alive, ())
    assert not any(t.name.endswith(ROUNDED) for t in none.graph.initializer)
    np.testing.assert_array_equal(open_graph(none)(inputs[0])[0], exact)

    def loss(graph):
        """Of weights alone: the pairs of activations are taken out."""
        copy = only_layers(graph, alive, names)
        constants = {t.name for t in copy.graph.initializer}
        sources = {n.output[0]: n for n in copy.graph.node}
        for node in copy.graph.node:
            for index, name in enumerate(node.input):
                pair = sources.get(name)
                if pair is not None and pair.op_type == "DequantizeLinear":
                    before = sources[pair.input[0]].input[0]
                    if before not in constants:
                        node.input[index] = before
        run, whole = open_graph(copy), open_graph(work.model)
        frames = [work.input_of_frame(picture(seed)) for seed in range(4)]
        return sum(float(((run(x)[0] - whole(x)[0]) ** 2).sum()) for x in frames)

    assert loss(full) < 0.7 * loss(nearest)
