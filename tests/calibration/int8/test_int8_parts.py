"""The parts of quantisation by themselves: ranges, choice of images, paired losses, Q/DQ graphs."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from agp_edge import ModelError
from agp_edge.calibration.graph.run_graph import open_graph
from agp_edge.calibration.int8.diversity import far_out, k_centre
from agp_edge.calibration.int8.paired import OverlapTable, aupro_loss, auroc_loss, resampled_weights
from agp_edge.calibration.int8.qdq_graph import (
    calibrated_tensors,
    layers_of,
    only_layers,
    quantised_graph,
    with_half_scales,
)
from agp_edge.calibration.int8.ranges import RANGES, Histogram, collect_ranges, range_from_histogram
from agp_edge.metrics import PixelScores, aupro, image_auroc


def histogram_of(*batches):
    histogram = Histogram()
    for batch in batches:
        histogram.add(np.asarray(batch, np.float32))
    return histogram


def test_a_histogram_grows_and_forgets_nothing():
    random = np.random.default_rng(0)
    batches = [random.normal(0, 10.0**power, 1000) for power in (-3, 0, 2, -1)]
    histogram = histogram_of(*batches)
    every = np.abs(np.concatenate(batches)).astype(np.float32)
    assert histogram.peak == every.max() <= histogram.limit < 2 * every.max()
    expected, _ = np.histogram(every, len(histogram.counts), (0, histogram.limit))
    np.testing.assert_array_equal(histogram.counts, expected)
    blank = histogram_of(np.zeros(5))
    assert all(range_from_histogram(blank, method) == 0.0 for method in RANGES)
    with pytest.raises(ModelError, match="not finite"):
        histogram.add(np.array([1.0, np.nan], np.float32))


def test_ranges_clip_what_is_rare_and_only_that():
    values = np.random.default_rng(1).normal(0, 1.0, 200_000)
    outlier = np.append(values, 300.0)
    histogram = histogram_of(outlier)
    found = {method: range_from_histogram(histogram, method) for method in RANGES}
    assert found["minmax"] == 300.0
    assert found["percentile"] == pytest.approx(np.quantile(np.abs(values), 0.9999), abs=0.2)
    assert 3.0 < found["mse"] < 300.0
    # nothing in the grid does better by the definition itself

    def error(limit):
        step = limit / 127
        return float(np.mean((outlier - step * np.clip(np.rint(outlier / step), -127, 127)) ** 2))

    assert error(found["mse"]) <= 1.02 * min(error(limit) for limit in np.linspace(2, 300, 300))
    flat = histogram_of(np.linspace(-1, 1, 100_000))
    for method in RANGES:  # nothing is rare in a uniform law
        assert range_from_histogram(flat, method) > 0.95, method


def test_k_centre_covers_and_takes_none_twice():
    points = np.concatenate([np.zeros((50, 2)), [[9.0, 0.0]], [[0.0, 9.0]], [[0.2, 0.2]]])
    chosen = k_centre(points, 3)
    assert {50, 51} < set(chosen)
    assert sorted(k_centre(points, 100)) == list(range(53))
    assert far_out([*np.linspace(0.9, 1.1, 20), 9.0, 1.0, 30.0]) == [22, 20]


def test_paired_losses_are_those_of_the_metrics():
    random = np.random.default_rng(2)
    defective = np.arange(60) % 3 == 0
    before = random.normal(size=60) + 1.5 * defective
    after = before + random.normal(0, 0.5, 60)
    weights = resampled_weights(defective, [f"part {index // 2}" for index in range(60)])
    assert weights.shape == (1000, 60)
    assert (weights[:, ::2] == weights[:, 1::2]).all()  # photos of one part go together
    loss = auroc_loss(defective, before, after, weights)
    assert loss.before == pytest.approx(image_auroc(defective, before))
    assert loss.after == pytest.approx(image_auroc(defective, after))
    assert loss.value < loss.upper < 0.2
    none = auroc_loss(defective, before, 3 * before + 1, weights)
    assert none.value == none.upper == 0.0

    masks = [np.zeros((24, 24), bool) for _ in range(60)]
    for index in np.flatnonzero(defective):
        masks[index][4:9, 5 : 8 + index % 5] = True
    maps = [random.normal(size=(24, 24)) + 1.2 * mask for mask in masks]
    worse = [values + random.normal(0, 1.0, (24, 24)) for values in maps]
    tables = [
        OverlapTable.collect([values.astype(np.float32) for values in group], masks)
        for group in (maps, worse)
    ]
    loss = aupro_loss(*tables, weights)
    for value, group in ((loss.before, maps), (loss.after, worse)):
        scores = PixelScores.collect([v.astype(np.float32) for v in group], masks)
        assert value == pytest.approx(aupro(scores), abs=3e-3)
    assert 0.05 < loss.value < loss.upper < 0.5


def network():
    """A residual block, one feature map also read by what is no layer, and a distance."""
    rng = np.random.default_rng(0)
    node = helper.make_node

    def kernel(*shape):
        return rng.normal(0, 0.3, shape).astype(np.float32)

    constants = {
        "w1": kernel(8, 3, 3, 3),
        "w2": kernel(8, 1, 3, 3),
        "w3": kernel(8, 8, 1, 1),
        "w4": kernel(8, 8),
        "shape": np.array([1, 8, 64], np.int64),
        "shape4": np.array([1, 1, 8, 8], np.int64),
        "axis": np.array([1], np.int64),
    }
    nodes = [
        node("Conv", ["image", "w1"], ["c1"], name="first", strides=[4, 4], pads=[1] * 4),
        node("Relu", ["c1"], ["r1"], name="relu1"),
        node("Conv", ["r1", "w2"], ["c2"], name="depthwise", group=8, pads=[1] * 4),
        node("Relu", ["c2"], ["r2"], name="relu2"),
        node("Conv", ["r2", "w3"], ["c3"], name="pointwise"),
        node("Add", ["c3", "r1"], ["sum"], name="shortcut"),
        node("Reshape", ["sum", "shape"], ["flat"], name="flat"),
        node("Transpose", ["flat"], ["tokens"], name="tokens", perm=[0, 2, 1]),
        node("MatMul", ["tokens", "w4"], ["decoded"], name="decoder"),
        node("Sub", ["tokens", "decoded"], ["d"], name="difference"),
        node("Mul", ["d", "d"], ["squares"], name="square"),
        node("Transpose", ["squares"], ["back"], name="back", perm=[0, 2, 1]),
        node("ReduceMean", ["back", "axis"], ["mean"], name="mean"),
        node("Reshape", ["mean", "shape4"], ["distance"], name="map"),
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 3, 32, 32))],
        [helper.make_tensor_value_info("distance", TensorProto.FLOAT, (1, 1, 8, 8))],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture
def images():
    random = np.random.default_rng(3)
    return [random.normal(size=(1, 3, 32, 32)).astype(np.float32) for _ in range(4)]


def test_only_layers_and_shortcuts_read_quantised_tensors(images):
    model = network()
    layers = layers_of(model)
    assert [(layer.name, layer.op, layer.shortcut) for layer in layers] == [
        ("first", "Conv", None),
        ("depthwise", "depthwise Conv", None),
        ("pointwise", "Conv", "r1"),
        ("decoder", "MatMul", None),
    ]
    tensors = calibrated_tensors(layers)
    assert tensors == ["image", "r1", "r2", "tokens"]
    ranges = collect_ranges(model, tensors, images, method="minmax")
    full = with_half_scales(quantised_graph(model, layers, ranges))
    onnx.checker.check_model(full, full_check=True)
    readers = {node.name: list(node.input) for node in full.graph.node}
    assert readers["difference"] == ["tokens", "decoded"]  # the target of the comparison is whole
    assert readers["shortcut"][0] == "c3"  # nothing between convolution and addition
    assert readers["shortcut"][1] == readers["depthwise"][0] != "r1"
    kinds = {node.output[0]: node.op_type for node in full.graph.node}
    for name in ("first", "depthwise", "pointwise", "decoder"):
        assert [kinds[x] for x in readers[name][:2]] == ["DequantizeLinear"] * 2
    weight = next(n for n in full.graph.node if n.op_type == "QuantizeLinear" and "w4" in n.input)
    assert next(a.i for a in weight.attribute if a.name == "axis") == 1

    exact, rounded = open_graph(model), open_graph(full)
    for image in images:
        before, after = exact(image)[0], rounded(image)[0]
        assert 0 < np.abs(after - before).max() < 0.1 * before.max()


def test_layers_can_be_released_one_by_one(images):
    model = network()
    layers = layers_of(model)
    full = quantised_graph(model, layers, dict.fromkeys(calibrated_tensors(layers), 4.0))
    none = only_layers(full, layers, ())
    assert len(none.graph.node) == len(model.graph.node)
    np.testing.assert_array_equal(open_graph(none)(images[0])[0], open_graph(model)(images[0])[0])
    one = only_layers(full, layers, {"decoder"})
    quantised = [node.input[0] for node in one.graph.node if node.op_type == "QuantizeLinear"]
    assert sorted(quantised) == ["tokens", "w4"]
    # without the pointwise convolution its shortcut is whole again
    others = only_layers(full, layers, {"first", "depthwise", "decoder"})
    assert next(n for n in others.graph.node if n.name == "shortcut").input[1] == "r1"
    with pytest.raises(ModelError, match="'r2' has the range 0"):
        quantised_graph(model, layers, {**dict.fromkeys(calibrated_tensors(layers), 1.0), "r2": 0})
