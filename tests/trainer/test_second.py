"""A second backbone: its map is added to the first one's, in the unit of that."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from agp_edge import Detector, read_manifest
from agp_edge.calibration.int8.quantize import quantise_onnx
from agp_edge.errors import ModelError
from agp_edge.trainer.checkpoint import load_model
from agp_edge.trainer.data import ImageReader
from agp_edge.trainer.export import onnx_from_checkpoint
from agp_edge.trainer.network import new_model
from agp_edge.trainer.second import second_shape
from agp_edge.trainer.setups import open_setup, setup_defaults
from agp_edge.trainer.train import train

SECOND = {"decoder": "regions", "second_backbone": "test_vit", "second_side": 96}


@pytest.fixture(scope="module")
def trained(small, images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return small.run(images, folder / "run", model=small.model_config(**SECOND)).folder


def test_its_map_is_added(small, trained, images):
    model, info = load_model(trained)
    assert model.second.grid == (6, 6)  # 96 pixels, patches of 16
    reader = ImageReader(small.SIZE, small.SIZE, info.mean, info.std)
    features = model.backbone(reader.read(sorted(images.iterdir())[:4]))
    model.border.weight.fill_(1.0)  # adds nothing else
    with torch.no_grad():
        whole = model.distance_map(features)
        own = model.enlarged(model.second(model.second.tokens(features)))
        model.second.gain.zero_()
        rest = model.distance_map(features)
    assert own.shape == rest.shape == (4, 1, *model.output_grid)
    assert float(own.std()) > 0.1 * float(rest.std())
    torch.testing.assert_close(whole, rest + own)


def test_a_standard_deviation_is_worth_its_weight(small, images, tmp_path):
    config = small.model_config(**SECOND, second_weight=0.5)
    half, _ = load_model(small.run(images, tmp_path / "half", model=config).folder)
    config = small.model_config(**SECOND, second_weight=1.5)
    more, _ = load_model(small.run(images, tmp_path / "more", model=config).folder)
    assert float(more.second.gain) == pytest.approx(3.0 * float(half.second.gain), rel=1e-4)


def test_it_sees_the_image_at_its_own_size_and_normalisation(small, images):
    """What reaches the second backbone is what its own normalisation makes of the same pixels."""
    model, pretrained = new_model(small.model_config(**SECOND), "random", 0)
    pair = model.backbone
    mean, std = np.array([100.0, 110.0, 120.0]), np.array([50.0, 60.0, 70.0])
    pair.normalise_as(pretrained, type(pretrained)(pair, "", tuple(mean), tuple(std)))
    path = sorted(images.iterdir())[0]
    seen = []
    intermediates = pair.second.model.forward_intermediates

    def recorded(image, **options):
        seen.append(image)
        return intermediates(image, **options)

    pair.second.model.forward_intermediates = recorded
    pair(ImageReader(small.SIZE, small.SIZE, pretrained.mean, pretrained.std).read([path]))
    expected = torch.nn.functional.interpolate(
        ImageReader(small.SIZE, small.SIZE, tuple(mean), tuple(std)).read([path]),
        (96, 96), mode="bilinear", align_corners=False,
    )  # fmt: skip
    torch.testing.assert_close(seen[0], expected, atol=1e-4, rtol=1e-4)


def test_it_is_exported_compiled_and_quantised(small, trained, images, tmp_path):
    path = tmp_path / "model.onnx"
    result = onnx_from_checkpoint(trained, path, progress=False)
    assert result.parity.score_relative < 1e-3
    assert read_manifest(path)["backbone"] == "test_efficientnet + test_vit"
    small.compile_plans(path)
    report = quantise_onnx(path, images, tmp_path / "int8.onnx")
    frame = small.texture(77)
    with Detector(path) as full, Detector(report.path) as rounded:
        assert rounded.score(frame).score == pytest.approx(full.score(frame).score, rel=0.5)


def test_features_of_the_first_backbone_are_cached_once_for_both(small, images, tmp_path):
    """The cache holds the first backbone's alone: a second one does not make it new."""
    small.run(images, tmp_path / "one", model=small.model_config(decoder="regions"))
    (cached,) = (tmp_path / "cache").glob("*.npy")
    small.run(images, tmp_path / "two", model=small.model_config(**SECOND))
    assert list((tmp_path / "cache").glob("*.npy")) == [cached]


def test_weights_of_both_are_part_of_the_run(small, trained):
    document = json.loads((trained / "checkpoint.json").read_text())
    assert document["weights_source"] == "random; random"
    with pytest.raises(ModelError, match=r"'missing.pth' do not exist"):
        new_model(small.model_config(**SECOND), "random,missing.pth", 0)


@pytest.mark.parametrize(
    ("name", "side", "width", "shape"),
    [
        ("vit_small_patch14_dinov2", 336, 256, (336, 336)),
        ("vit_small_patch14_dinov2", 336, 320, (336, 420)),
        ("vit_small_patch16_224", 224, 512, (224, 448)),
        ("resnet18", 336, 512, (320, 672)),
        ("vit_small_patch14_dinov2", 3, 256, (14, 14)),
    ],
)
def test_its_input_keeps_the_ratio_in_whole_patches(name, side, width, shape):
    assert second_shape(name, side, 256, width) == shape


def test_a_few_images_and_several_products_have_one_too(small, tmp_path):
    for name in ("cap", "screw"):
        small.write_images(tmp_path / "two" / name / "train" / "good", 12, start=40)
    config = small.train_config(setup="multi-class")
    dataset = open_setup("multi-class", [tmp_path / "two"])
    options = {"weights": "random", "device": "cpu", "cache_dir": tmp_path / "c", "progress": False}
    run = train(dataset, tmp_path / "many", small.model_config(**SECOND), config, **options)
    onnx_from_checkpoint(run.folder, tmp_path / "many.onnx", progress=False)
    few = small.write_images(tmp_path / "few", 2)
    model, config = setup_defaults("few-shot")
    model = dataclasses.replace(small.model_config(**SECOND), shrinkage=model.shrinkage)
    config = dataclasses.replace(config, copies=16, threshold_copies=4)
    run = train(open_setup("few-shot", [few]), tmp_path / "run", model, config, **options)
    onnx_from_checkpoint(run.folder, tmp_path / "few.onnx", progress=False)
    for path in (tmp_path / "many.onnx", tmp_path / "few.onnx"):
        with Detector(path) as detector:
            assert np.isfinite(detector.score(small.texture(5)).score)
