"""FP16 graphs: what stays FP32, what the check sees, what is refused."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from agp_edge import DataError, Detector, ModelError, read_manifest
from agp_edge.calibration.fp16.convert import SCORE_AIM, SCORE_TOLERANCE, fp16_from_onnx
from agp_edge.calibration.fp16.half_graph import distance_tail, half_graph, rounded_graph
from agp_edge.manifest import MANIFEST_KEY, InputSpec, Manifest, OutputSpec

SIZE, GRID = 32, 8


def graph_of(nodes, constants, inputs=("image",), shape=(1, 3, SIZE, SIZE), out=(1, 1, GRID, GRID)):
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in inputs],
        [helper.make_tensor_value_info("distance", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def network(gain=1.0, epsilon=1e-8):
    """Convolution, gain, and the root of the mean square of the channels, plus epsilon."""
    rng = np.random.default_rng(0)
    node = helper.make_node
    return graph_of(
        [
            node("Conv", ["image", "kernels"], ["c"], name="conv", strides=[4, 4]),
            node("Mul", ["c", "gain"], ["large"], name="up"),
            node("Div", ["large", "gain"], ["back"], name="down"),
            node("Conv", ["back", "mix"], ["features"], name="mix"),
            node("Sub", ["features", "shift"], ["d"], name="difference"),
            node("Mul", ["d", "d"], ["squares"], name="square"),
            node("ReduceMean", ["squares", "axes"], ["mean"], name="mean"),
            node("Add", ["mean", "epsilon"], ["sum"], name="epsilon"),
            node("Sqrt", ["sum"], ["distance"], name="root"),
        ],
        {
            "kernels": rng.normal(0, 0.1, (8, 3, 4, 4)).astype(np.float32),
            "gain": np.float32(gain),
            "mix": rng.normal(0, 0.3, (8, 8, 1, 1)).astype(np.float32),
            "shift": rng.normal(0, 0.1, (1, 8, 1, 1)).astype(np.float32),
            "axes": np.array([1], np.int64),
            "epsilon": np.float32(epsilon),
        },
    )


def write(model, path, **changes):
    manifest = Manifest(
        name="half",
        backbone="none",
        input=InputSpec(name="image", height=SIZE, width=SIZE, mean=(120.0,) * 3, std=(60.0,) * 3),
        output=OutputSpec(name="distance", height=GRID, width=GRID),
    )
    document = json.loads(manifest.to_json()) | changes
    helper.set_model_props(model, {MANIFEST_KEY: json.dumps(document)})
    onnx.save(model, path)
    return path


def run(model, image):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"image": image})[0]


def types(model):
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    return {value.name: value.type.tensor_type.elem_type for value in inferred.value_info}


def test_the_tail_stays_fp32(tmp_path):
    model = network()
    assert distance_tail(model.graph) == {"difference", "square", "mean", "epsilon", "root"}
    report = fp16_from_onnx(write(model, tmp_path / "m.onnx"), tmp_path / "h.onnx")
    assert set(report.kept) == {"difference", "square", "mean", "epsilon", "root"}
    assert set(report.kept.values()) == {"distance"}
    assert report.source == "synthetic"
    half = onnx.load(tmp_path / "h.onnx")
    seen = types(half)
    for node in half.graph.node:
        if node.name in ("difference", "square", "mean", "epsilon"):
            assert seen[node.output[0]] == TensorProto.FLOAT, node.name
    # one cast at the entrance, one before the tail, and none between the nodes of the tail
    assert [node.op_type for node in half.graph.node].count("Cast") == 2
    weights = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    assert weights["kernels"] == weights["mix"] == TensorProto.FLOAT16
    assert weights["epsilon"] == TensorProto.FLOAT
    with Detector(tmp_path / "h.onnx", threshold=0.0) as detector:
        assert detector.manifest["precision"] == {
            "asked": "fp16", "built": None, "kept_fp32": {"distance": 5},
        }  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["h.onnx", "m.onnx"]


def test_the_rounded_graph_is_numpys_half_precision():
    """Each FP16 tensor of a chain is what NumPy's float16 gives, computed in FP32 and rounded."""
    model = graph_of(
        [
            helper.make_node("Mul", ["image", "a"], ["x"], name="x"),
            helper.make_node("Add", ["x", "b"], ["y"], name="y"),
            helper.make_node("Mul", ["y", "c"], ["distance"], name="z"),
        ],
        {"a": np.float32(1.2345), "b": np.float32(100.03), "c": np.float32(0.77)},
        shape=(1, 1, 4, 4),
        out=(1, 1, 4, 4),
    )
    image = np.random.default_rng(0).normal(size=(1, 1, 4, 4)).astype(np.float32)
    half = half_graph(model, ())
    x = (np.float16(image) * np.float16(1.2345)).astype(np.float16)
    expected = ((x + np.float16(100.03)) * np.float16(0.77)).astype(np.float32)
    np.testing.assert_array_equal(run(rounded_graph(half), image), expected)
    # and this is why it exists: the FP16 graph itself is not computed in FP16 on a CPU
    assert (run(half, image) != expected).any()


def test_overflow_is_seen_and_kept_in_fp32(tmp_path):
    """A gain of 1e5 leaves FP16's range; ONNX Runtime's own run of the FP16 graph hides it."""
    model = network(gain=1e5)
    image = np.full((1, 3, SIZE, SIZE), 2.0, np.float32)
    half = half_graph(model, distance_tail(model.graph))
    assert np.isfinite(run(half, image)).all()
    report = fp16_from_onnx(write(model, tmp_path / "m.onnx"), tmp_path / "h.onnx")
    assert report.kept["up"] == report.kept["down"] == "range"
    assert "conv" not in report.kept
    # without the protection the check must fail: the gain alone is FP16's infinity
    blind = half_graph(network(gain=6e4), ())
    assert not np.isfinite(run(rounded_graph(blind), image)).all()


def test_constants_that_fp16_would_lose_stay(tmp_path):
    """1e-7 added before a root, in the middle of the network."""
    node = helper.make_node
    rng = np.random.default_rng(0)
    model = graph_of(
        [
            node("Conv", ["image", "kernels"], ["c"], name="conv", strides=[4, 4]),
            node("Abs", ["c"], ["size"], name="size"),
            node("Add", ["size", "tiny"], ["sum"], name="sum"),
            node("Conv", ["sum", "mix"], ["distance"], name="mix"),
        ],
        {
            "kernels": rng.normal(0, 0.1, (8, 3, 4, 4)).astype(np.float32),
            "tiny": np.float32(1e-7),
            "mix": np.full((1, 8, 1, 1), 0.2, np.float32),
        },
    )
    report = fp16_from_onnx(write(model, tmp_path / "m.onnx"), tmp_path / "h.onnx")
    assert report.kept == {"sum": "range"}


def cancelling(scale):
    """Adds `scale` and takes it away again: FP16 keeps too few digits of the rest."""
    node = helper.make_node
    rng = np.random.default_rng(0)
    return graph_of(
        [
            node("Conv", ["image", "kernels"], ["c"], name="conv", strides=[4, 4]),
            node("Relu", ["c"], ["r"], name="relu"),
            node("Add", ["r", "scale"], ["sum"], name="up"),
            node("Relu", ["sum"], ["kept"], name="relu2"),
            node("Sub", ["kept", "scale"], ["d"], name="down"),
            node("Conv", ["d", "mix"], ["distance"], name="mix"),
        ],
        {
            "kernels": rng.normal(0, 0.1, (8, 3, 4, 4)).astype(np.float32),
            "scale": np.float32(scale),
            "mix": np.full((1, 8, 1, 1), 0.2, np.float32),
        },
    )


def test_too_far_from_fp32_is_refused(tmp_path):
    path = write(cancelling(20_000.0), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"loses too much in FP16 \(4 images.*precision fp32"):
        fp16_from_onnx(path, tmp_path / "h.onnx")
    assert not (tmp_path / "h.onnx").exists()
    # the same graph is fine where less cancels
    fp16_from_onnx(write(cancelling(1.0), path), tmp_path / "h.onnx")


def test_reductions_go_to_fp32_where_accuracy_asks(tmp_path):
    """A softmax's logits of several hundred lose their decimals as FP16 exponentials would."""
    node = helper.make_node
    rng = np.random.default_rng(0)
    model = graph_of(
        [
            node("Conv", ["image", "kernels"], ["c"], name="conv", strides=[4, 4]),
            node("ReduceMean", ["c", "axes"], ["mean"], name="mean"),
            node("Mul", ["mean", "small"], ["tiny"], name="tiny"),
            node("Pow", ["tiny", "two"], ["square"], name="square"),
            node("Sqrt", ["square"], ["root"], name="root"),
            node("Div", ["root", "small"], ["large"], name="large"),
            node("Conv", ["large", "one"], ["distance"], name="last"),
        ],
        {
            "kernels": rng.normal(0, 0.1, (8, 3, 4, 4)).astype(np.float32),
            "axes": np.array([1], np.int64),
            "small": np.float32(1e-3),
            "two": np.float32(2.0),
            "one": np.ones((1, 1, 1, 1), np.float32),
        },
    )
    report = fp16_from_onnx(write(model, tmp_path / "m.onnx"), tmp_path / "h.onnx")
    # (1e-3)^2 is below FP16's normal numbers
    assert {name for name, why in report.kept.items() if why == "reduction"} == {
        "mean", "square", "root",
    }  # fmt: skip


@pytest.mark.parametrize("asked", ["fp16", "int8"])
def test_only_fp32_is_converted(asked, tmp_path):
    path = write(network(), tmp_path / "m.onnx", precision={"asked": asked, "built": None})
    with pytest.raises(ModelError, match=f"is of precision {asked} already"):
        fp16_from_onnx(path, tmp_path / "h.onnx")


def test_real_images_are_named_and_bad_ones_refused(tmp_path, capsys):
    import cv2

    images = []
    for index in range(20):
        images.append(tmp_path / f"{index:02}.png")
        frame = np.random.default_rng(index).integers(0, 255, (40, 50, 3)).astype(np.uint8)
        cv2.imwrite(str(images[-1]), frame)
    path = write(network(), tmp_path / "m.onnx")
    report = fp16_from_onnx(path, tmp_path / "h.onnx", images=images)
    assert report.source == "16 of 20 images"
    assert report.difference.images == 16
    assert 0 < report.difference.map_mean < report.difference.map_maximum < 1e-2
    images[3].write_bytes(images[3].read_bytes()[:60])
    with pytest.raises(DataError, match=r"03\.png"):
        fp16_from_onnx(path, tmp_path / "g.onnx", images=images)
    assert not (tmp_path / "g.onnx").exists()


def test_nodes_without_names(tmp_path):
    model = network()
    for node in model.graph.node:
        node.name = ""
    report = fp16_from_onnx(write(model, tmp_path / "m.onnx"), tmp_path / "h.onnx")
    assert len(report.kept) == 5
    assert read_manifest(tmp_path / "h.onnx")["precision"]["asked"] == "fp16"


def test_the_first_layers_go_to_fp32_where_accuracy_asks(tmp_path):
    """Digits that are lost before the first large layer are lost for good."""
    node = helper.make_node
    rng = np.random.default_rng(0)
    model = graph_of(
        [
            node("Conv", ["image", "kernels"], ["c"], name="conv", strides=[4, 4]),
            node("Add", ["c", "offset"], ["sum"], name="up"),
            node("Sub", ["sum", "offset"], ["d"], name="down"),
            node("Conv", ["d", "large"], ["features"], name="large"),
            node("Relu", ["features"], ["r"], name="relu"),
            node("Conv", ["r", "mix"], ["distance"], name="mix"),
        ],
        {
            "kernels": rng.normal(0, 0.1, (2, 3, 4, 4)).astype(np.float32),
            "offset": np.float32(100.0),
            "large": rng.normal(0, 0.3, (4000, 2, 1, 1)).astype(np.float32),
            "mix": np.full((1, 4000, 1, 1), 0.001, np.float32),
        },
    )
    report = fp16_from_onnx(write(model, tmp_path / "m.onnx"), tmp_path / "h.onnx")
    assert report.kept == {"conv": "entrance", "up": "entrance", "down": "entrance"}
    types_of = {
        tensor.name: tensor.data_type for tensor in onnx.load(report.path).graph.initializer
    }
    assert types_of["kernels"] == TensorProto.FLOAT
    assert types_of["large"] == TensorProto.FLOAT16


def stem_and_large(offset):
    """24 weights, then 12,000: digits that the stem loses are lost for good."""
    node = helper.make_node
    rng = np.random.default_rng(0)
    return graph_of(
        [
            node("Conv", ["image", "stem"], ["c"], name="stem", strides=[4, 4]),
            node("Conv", ["c", "large"], ["features"], name="large"),
            node("Relu", ["features"], ["r"], name="relu"),
            node("Add", ["r", "offset"], ["sum"], name="up"),
            node("Sub", ["sum", "offset"], ["d"], name="down"),
            node("Conv", ["d", "mix"], ["distance"], name="mix"),
        ],
        {
            "stem": rng.normal(0, 0.1, (2, 3, 2, 2)).astype(np.float32),
            "offset": np.float32(offset),
            "large": rng.normal(0, 0.3, (4000, 2, 1, 1)).astype(np.float32),
            "mix": np.full((1, 4000, 1, 1), 0.001, np.float32),
        },
    )


def test_a_small_first_layer_always_stays_fp32(tmp_path, command):
    """Where FP16 would do as well: the frames of the check need not show what it costs."""
    report = fp16_from_onnx(write(stem_and_large(0.5), tmp_path / "m.onnx"), tmp_path / "h.onnx")
    assert report.kept == {"stem": "entrance"}
    assert report.difference.score_maximum < SCORE_AIM
    precision = read_manifest(tmp_path / "h.onnx")["precision"]
    assert precision["kept_fp32"] == {"entrance": 1}
    code, lines, _ = command("info", tmp_path / "h.onnx")
    assert code == 0
    assert "; nodes kept in fp32: entrance 1\n" in lines


def test_between_aim_and_tolerance_the_best_is_kept(tmp_path):
    """What is lost behind the first layers is not won back there: still within the self-test."""
    path = write(cancelling(32.0), tmp_path / "m.onnx")
    report = fp16_from_onnx(path, tmp_path / "h.onnx")
    assert SCORE_AIM < report.difference.score_maximum <= SCORE_TOLERANCE
    with pytest.raises(ModelError, match="loses too much"):
        fp16_from_onnx(path, tmp_path / "g.onnx", score_tolerance=SCORE_AIM)
