"""The exported file: inference branch only, static, the same numbers as torch, threshold inside."""

import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file

import agp_edge
from agp_edge.calibration.decision.threshold import conformal_threshold
from agp_edge.errors import DataError, ModelError
from agp_edge.images import read_image
from agp_edge.manifest import read_manifest
from agp_edge.trainer import export as export_module
from agp_edge.trainer.checkpoint import load_model
from agp_edge.trainer.export import onnx_from_checkpoint
from agp_edge.trainer.graph import check_graph

BACKBONES = {"cnn": "test_efficientnet", "vit": "test_vit"}
# an export takes seconds: what does not depend on the network is tested on one
ONE_KIND = pytest.mark.parametrize("exported", ["cnn-transformer"], indirect=True)


@pytest.fixture(scope="module", params=["cnn-transformer", "cnn-mlp", "vit-transformer"])
def exported(request, small, tmp_path_factory):
    """A run on parts, its ONNX file and what the export reported."""
    kind, decoder = request.param.split("-")
    folder = tmp_path_factory.mktemp(request.param)
    data = folder / "data"
    small.write_images(data / "train" / "good", 24)
    rows = [f"train/good/{index:03}.png,{index // 2}" for index in range(24)]
    (data / "parts.csv").write_text("\n".join(["file,part", *rows]))
    small.run(
        data,
        folder / "run",
        model=small.model_config(BACKBONES[kind], decoder=decoder),
        config=small.train_config(epochs=2, hold_out=0.5),
    )
    result = onnx_from_checkpoint(folder / "run", folder / "model.onnx", progress=False)
    return folder, result


def tensors_of(path):
    model = onnx.load(path)
    found = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                found.append(onnx.numpy_helper.to_array(attribute.t))
    return model, found


def test_no_weight_of_the_perturbation_branch_is_in_the_file(exported):
    """By name, by number of values, and by the values of the momentum copy themselves."""
    folder, _ = exported
    model, found = tensors_of(folder / "model.onnx")
    names = [tensor.name for tensor in model.graph.initializer]
    names += [name for node in model.graph.node for name in [node.name, *node.input, *node.output]]
    assert not [name for name in names if "twin" in name or "momentum" in name or "prior" in name]

    weights = load_file(folder / "run" / "checkpoint.safetensors")
    assert not [name for name in weights if "twin" in name or "momentum" in name]
    most = sum(tensor.numel() for tensor in weights.values())
    assert sum(array.size for array in found) <= 1.02 * most  # shapes and constants are small

    state = load_file(folder / "run" / "state.safetensors")
    twin = {key: value for key, value in state.items() if key.startswith("twin.")}
    decoder = {key: value for key, value in state.items() if key.startswith("model.decoder.")}
    assert bool(twin) == any("blocks" in key for key in decoder)

    def is_in_file(tensor):
        wanted = np.sort(tensor.numpy().ravel())
        return any(
            array.size == wanted.size and np.array_equal(np.sort(array.ravel()), wanted)
            for array in found
            if array.dtype == np.float32
        )

    for key, value in twin.items():
        same = torch.equal(value, decoder[key.replace("twin.", "model.decoder.")])
        if value.ndim == 2 and not same:
            assert not is_in_file(value), key
    # the search finds what is there: the decoder's own matrices
    checked = [
        value
        for key, value in weights.items()
        if key.startswith("decoder.") and value.ndim == 2 and value.abs().max() > 0
    ]
    assert checked
    for value in checked:
        assert is_in_file(value)


def test_graph_is_static_and_clean(exported, small):
    folder, _ = exported
    model = onnx.load(folder / "model.onnx")
    check_graph(model)
    (image,), (distance,) = model.graph.input, model.graph.output
    shapes = [
        [dim.dim_value for dim in tensor.type.tensor_type.shape.dim] for tensor in (image, distance)
    ]
    assert (image.name, distance.name) == ("image", "distance")
    network = load_model(folder / "run")[0]
    # the fine memory works on the finest layer's grid
    side = small.SIZE // min(network.stride, *network.backbone.strides)
    assert network.output_grid == (side, side)
    assert shapes == [[1, 3, small.SIZE, small.SIZE], [1, 1, side, side]]
    assert {entry.domain for entry in model.opset_import} <= {""}
    text = (folder / "model.onnx").read_bytes()
    for leak in (b"site-packages", b"torch/nn", b"/trainer/", str(folder).encode()):
        assert leak not in text


def test_numbers_are_those_of_torch(exported):
    _, result = exported
    assert result.parity.images == 12
    assert result.parity.score_relative < 1e-4
    assert result.parity.map_relative < 1e-4
    assert "12 images" in str(result.parity)


def test_manifest_and_threshold(exported):
    folder, result = exported
    manifest = read_manifest(folder / "model.onnx")
    assert manifest["name"] == "run"
    assert manifest["hashes"].keys() == {"data", "weights"}
    assert manifest["opset"] == onnx.load(folder / "model.onnx").opset_import[0].version
    threshold = manifest["threshold"]
    assert (threshold["n"], threshold["unit"], threshold["method"]) == (6, "parts", "conformal")
    # 6 parts cannot bear 5 %: the real promise is in the file
    assert threshold["false_reject"] == pytest.approx(1 / 7)
    assert threshold["value"] == max(result.held_out_scores)
    assert len(json.dumps(manifest)) < 4095


def test_detector_gives_the_scores_that_set_the_threshold(exported):
    folder, result = exported
    checkpoint = json.loads((folder / "run" / "checkpoint.json").read_text())
    with agp_edge.Detector(folder / "model.onnx") as detector:
        scores = [
            detector.score(read_image(folder / "data" / file)).score
            for file, _ in checkpoint["held_out"]
        ]
    np.testing.assert_allclose(scores, result.held_out_scores, rtol=1e-5)
    parts = [part for _, part in checkpoint["held_out"]]
    assert conformal_threshold(scores, parts, 0.05).value == pytest.approx(
        result.manifest.threshold.value, rel=1e-5
    )


@ONE_KIND
def test_export_twice_gives_the_same_network(exported, tmp_path):
    folder, result = exported
    again = onnx_from_checkpoint(folder / "run", tmp_path / "again.onnx", progress=False)
    first, second = onnx.load(folder / "model.onnx"), onnx.load(tmp_path / "again.onnx")
    assert first.graph == second.graph
    assert again.held_out_scores == result.held_out_scores


@ONE_KIND
def test_other_rate_and_moved_data(exported, tmp_path):
    folder, _ = exported
    shutil.copytree(folder / "run", tmp_path / "run")
    path = tmp_path / "run" / "checkpoint.json"
    document = json.loads(path.read_text())
    document["data_root"] = str(tmp_path / "gone")
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"gone.*does not exist.*--data"):
        onnx_from_checkpoint(tmp_path / "run", tmp_path / "model.onnx", progress=False)
    assert not (tmp_path / "model.onnx").exists()
    result = onnx_from_checkpoint(
        tmp_path / "run", tmp_path / "model.onnx", data=folder / "data", false_reject=0.5,
        progress=False,
    )  # fmt: skip
    assert result.manifest.threshold.false_reject <= 0.5


@ONE_KIND
def test_graph_that_differs_from_torch_is_refused(exported, tmp_path, monkeypatch):
    folder, _ = exported
    original = export_module.graph_from_model

    def changed(*args):
        graph = original(*args)
        for tensor in graph.graph.initializer:
            if tensor.name == "position.mean" or tensor.name.startswith("decoder"):
                values = onnx.numpy_helper.to_array(tensor) + np.float32(0.05)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        return graph

    monkeypatch.setattr(export_module, "graph_from_model", changed)
    with pytest.raises(ModelError, match="differs from torch"):
        onnx_from_checkpoint(folder / "run", tmp_path / "model.onnx", progress=False)
    assert list(tmp_path.iterdir()) == []


@ONE_KIND
def test_unfinished_training_is_not_exported(exported, tmp_path):
    folder, _ = exported
    shutil.copytree(folder / "run", tmp_path / "run")
    path = tmp_path / "run" / "checkpoint.json"
    path.write_text(path.read_text().replace('"finished": true', '"finished": false'))
    with pytest.raises(ModelError, match="--resume"):
        onnx_from_checkpoint(tmp_path / "run", tmp_path / "model.onnx", progress=False)


@ONE_KIND
def test_dynamic_or_leftover_graph_is_refused(exported):
    folder, _ = exported
    model = onnx.load(folder / "model.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    with pytest.raises(ModelError, match=r"'image'.*static"):
        check_graph(model)
    model = onnx.load(folder / "model.onnx")
    model.graph.node.append(onnx.helper.make_node("Shape", ["image"], ["size"]))
    with pytest.raises(ModelError, match="Shape"):
        check_graph(model)


def test_compiles_into_a_strongly_typed_tensorrt_plan(exported, tmp_path):
    from agp_edge.plan.build import plan_from_onnx

    folder, _ = exported
    plan_from_onnx(folder / "model.onnx", tmp_path / "model.plan", backend="rtx")
    assert read_manifest(tmp_path / "model.plan")["name"] == "run"
