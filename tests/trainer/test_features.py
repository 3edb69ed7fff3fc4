"""The cache of backbone features: used, keyed, bounded, recomputed when damaged."""

import numpy as np
import pytest
import torch

from agp_edge.errors import ModelError
from agp_edge.images import list_images
from agp_edge.trainer.data import ImageReader
from agp_edge.trainer.features import CachedFeatures, ComputedFeatures, FeaturesPart, open_features

NORMAL = ((120.0,) * 3, (60.0,) * 3)


@pytest.fixture
def opened(small, images, tmp_path):
    """Opens features of the images; counts how often the backbone runs."""
    torch.manual_seed(0)
    config = small.model_config()
    model = small.new_model(config)
    paths = list_images(images)[:6]
    calls = []
    model.backbone.register_forward_hook(lambda *_: calls.append(1))

    def open_them(prior="auto", key="a", gb=1.0, config=config, folder=tmp_path / "cache"):
        calls.clear()
        features = open_features(
            model, config, prior, ImageReader(small.SIZE, small.SIZE, *NORMAL), paths,
            key={"images": key}, cache_dir=folder, cache_gb=gb, device=torch.device("cpu"),
            batch=4, progress=False,
        )  # fmt: skip
        return features, len(calls)

    return open_them


def everything(features):
    return features.read(np.arange(len(features)))


def test_second_time_is_read_from_the_disk(opened, tmp_path):
    first, runs = opened()
    assert isinstance(first, CachedFeatures)
    assert runs == 2
    again, runs = opened()
    assert runs == 0
    for one, other in zip(everything(first), everything(again), strict=True):
        assert torch.equal(one, other)
    tokens, prior = everything(again)
    assert tokens.shape[:2] == prior.shape == (6, 16)
    assert tokens.dtype == prior.dtype == torch.float32
    files = list((tmp_path / "cache").iterdir())
    assert [path.suffix for path in files] == [".npy"]
    assert files[0].stat().st_size == pytest.approx(2 * 6 * 16 * (tokens.shape[2] + 1), abs=200)


def test_any_order_can_be_read(opened):
    features, _ = opened()
    tokens, prior = everything(features)
    order = np.array([4, 0, 4])
    some_tokens, some_prior = features.read(order)
    assert torch.equal(some_tokens, tokens[order])
    assert torch.equal(some_prior, prior[order])


def test_part_shows_its_images(opened):
    features, _ = opened()
    part = FeaturesPart(features, 2, 3)
    assert len(part) == 3
    assert torch.equal(everything(part)[0], everything(features)[0][2:5])


def test_without_room_features_are_computed_each_time(opened, tmp_path):
    cached, _ = opened()
    computed, runs = opened(gb=0.0)
    assert isinstance(computed, ComputedFeatures)
    assert runs == 0
    assert len(computed) == 6
    for one, other in zip(everything(cached), everything(computed), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)


def test_other_images_weights_or_settings_are_other_features(small, opened):
    opened()
    assert opened(key="b")[1] > 0
    assert opened(prior="border")[1] > 0
    assert opened(config=small.model_config(normalise="l2"))[1] > 0
    # what comes after the fusion does not matter
    assert opened(config=small.model_config(sigma=1.0, decoder="mlp", shrinkage=0.5))[1] == 0


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "shape"])
def test_damaged_cache_is_computed_anew(opened, tmp_path, damage):
    first, _ = opened()
    expected = everything(first)
    del first
    (path,) = (tmp_path / "cache").iterdir()
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("hello, this is no array")
    else:
        np.save(path, np.zeros((6, 16, 3), np.float16))
    again, runs = opened()
    assert runs > 0
    assert torch.equal(everything(again)[0], expected[0])


def test_oldest_cache_makes_room(opened, tmp_path):
    features, _ = opened()
    size = next((tmp_path / "cache").iterdir()).stat().st_size
    del features
    for key in ("b", "c", "d"):
        opened(key=key, gb=2.5 * size / 1e9)
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert opened(key="d", gb=2.5 * size / 1e9)[1] == 0
    assert opened(key="a", gb=2.5 * size / 1e9)[1] > 0


def test_attention_as_prior_needs_a_vit(small, opened, images, tmp_path):
    with pytest.raises(ModelError, match="no self-attention"):
        opened(prior="attention")
    config = small.model_config("test_vit")
    features = open_features(
        small.new_model(config), config, "attention", ImageReader(small.SIZE, small.SIZE, *NORMAL),
        list_images(images)[:2], key={}, cache_dir=tmp_path, cache_gb=1.0,
        device=torch.device("cpu"), progress=False,
    )  # fmt: skip
    _, prior = everything(features)
    assert prior.shape == (2, 16)
    assert prior.min() >= 0.0
    torch.testing.assert_close(prior.mean(1), torch.ones(2), rtol=1e-2, atol=0)


def test_features_that_are_not_finite_are_refused(small, images, tmp_path):
    config = small.model_config(normalise="none")
    model = small.new_model(config)
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.mul_(1e6)
    with pytest.raises(ModelError, match="not finite in 16 bits"):
        open_features(
            model, config, "energy", ImageReader(small.SIZE, small.SIZE, *NORMAL),
            list_images(images)[:2], key={}, cache_dir=tmp_path, cache_gb=1.0,
            device=torch.device("cpu"), progress=False,
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []
