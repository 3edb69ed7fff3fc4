"""EfficientNets give every stage, also those that timm's feature_info leaves out."""

import pytest
import timm
import torch

from agp_edge.trainer.backbone import Backbone


def model_of(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, pretrained=False).eval()


def test_default_layers_of_lite0():
    backbone = Backbone(model_of("tf_efficientnet_lite0"), "tf_efficientnet_lite0")
    assert backbone.layers == (2, 3, 4, 5)
    assert backbone.channels == (40, 80, 112, 192)
    assert backbone.strides == (8, 16, 16, 32)
    with torch.no_grad():
        features = backbone(torch.randn(2, 3, 96, 64))
    assert [tuple(feature.shape) for feature in features] == [
        (2, 40, 12, 8),
        (2, 80, 6, 4),
        (2, 112, 6, 4),
        (2, 192, 3, 2),
    ]


def test_stages_agree_with_timms_own_where_it_has_them():
    name = "tf_efficientnet_lite0"
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        own = model_of(name).forward_intermediates(
            image, indices=[2, 3, 4], intermediates_only=True
        )
        ours = Backbone(model_of(name), name, (2, 4, 6))(image)
    for expected, got in zip(own, ours, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "resnet18", "vit_tiny_patch16_224"])
def test_other_backbones_have_layers(name):
    options = {"img_size": 64} if name.startswith("vit") else {}
    model = timm.create_model(name, pretrained=False, **options)
    backbone = Backbone(model, name)
    with torch.no_grad():
        features = backbone(torch.randn(1, 3, 64, 64))
    assert [feature.shape[1] for feature in features] == list(backbone.channels)
    assert [64 // feature.shape[2] for feature in features] == list(backbone.strides)


def test_nothing_behind_the_deepest_layer_is_kept():
    full = sum(p.numel() for p in model_of("tf_efficientnet_lite0").parameters())
    cut = Backbone(model_of("tf_efficientnet_lite0"), "lite0", (2,))
    assert sum(p.numel() for p in cut.parameters()) < full / 20
