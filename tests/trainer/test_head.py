"""The perturbation head: silent until calibrated, finds what was perturbed, belongs to the file."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from agp_edge.dataset import Sample
from agp_edge.errors import ModelError
from agp_edge.trainer import head_training
from agp_edge.trainer.checkpoint import load_model, read_checkpoint
from agp_edge.trainer.config import TrainConfig, check_train_config
from agp_edge.trainer.data import ImageReader
from agp_edge.trainer.head import PerturbationHead
from agp_edge.trainer.head_training import fit_head, perturbed_copies
from agp_edge.trainer.setups import setup_defaults
from agp_edge.trainer.weights import Pretrained

MEAN, STD = (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)


def feature_maps(seed, batch=6):
    random = torch.Generator().manual_seed(seed)
    return [
        3.0 + 2.0 * torch.randn(batch, 5, 8, 8, generator=random),
        torch.randn(batch, 7, 4, 4, generator=random),
    ]


def test_until_it_is_calibrated_it_says_nothing(small):
    head = PerturbationHead((5, 7), (8, 8), 6, position=True)
    assert torch.equal(head(feature_maps(0)), torch.zeros(6, 1, 8, 8))
    with_head = small.new_model(small.model_config())
    without = small.new_model(small.model_config(head_width=0))
    without.load_state_dict(with_head.state_dict(), strict=False)
    image = torch.rand(2, 3, small.SIZE, small.SIZE)
    finer = torch.nn.functional.interpolate(
        without(image), with_head.output_grid, mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(with_head(image), finer)


def test_channels_are_standardised_and_logits_calibrated():
    head = PerturbationHead((5, 7), (8, 8), 6, position=False)
    good = feature_maps(0, batch=40)
    head.standardise(good)
    scaled = (good[0] - head.mean_0) * head.scale_0
    torch.testing.assert_close(scaled.mean(dim=(0, 2, 3)), torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(scaled.std(dim=(0, 2, 3)), torch.ones(5), atol=1e-3, rtol=0)
    torch.nn.init.normal_(head.exit.weight)
    head.fold()
    distance = 0.7 + 0.2 * torch.randn(40, 1, 4, 4)
    with torch.no_grad():
        head.calibrate(head.logits(good), distance, 0.5)
        evidence = head(good)
    # half a standard deviation of the distance, and nothing on average
    assert float(evidence.mean()) == pytest.approx(0.0, abs=1e-4)
    assert float(evidence.std()) == pytest.approx(0.5 * float(distance.std()), rel=1e-3)


def test_folding_the_standardisation_changes_nothing():
    head = PerturbationHead((5, 7), (8, 8), 6, position=False).train()
    torch.nn.init.normal_(head.exit.weight)
    good = feature_maps(0, batch=40)
    head.standardise(good)
    with torch.no_grad():
        before = head.logits(good)
        head.fold()
        torch.testing.assert_close(head.logits(good), before, atol=1e-4, rtol=1e-4)
    assert not head.training
    assert not [key for key in head.state_dict() if "scale_" in key or "mean_" in key]


def test_copies_show_each_family_and_each_frame(small):
    frames = [
        np.repeat(small.texture(seed, 64, 64)[:, :, None], 3, axis=2).astype(np.float32)
        for seed in range(4)
    ]
    everywhere = [np.ones((64, 64), np.float32)] * 4
    asked = ("crack", "blob")
    copies = list(
        perturbed_copies(frames, everywhere, asked, 20, 0, random=np.random.default_rng(0))
    )
    images = [image for batch, _ in copies for image in batch]
    masks = [mask for _, batch in copies for mask in batch]
    assert len(images) == len(masks) == 20
    for index, image in enumerate(images):
        nearest = min(range(4), key=lambda i: np.abs(frames[i] - image).mean())
        assert nearest == index % 4
    assert sum(mask.any() for mask in masks) >= 18


@pytest.fixture(scope="module")
def fitted(small, tmp_path_factory):
    """A network with a head that was trained on textures, and its reader."""
    folder = small.write_images(tmp_path_factory.mktemp("head"), 12)
    samples = [Sample(path, "good", None) for path in sorted(folder.iterdir())]
    return train_head(small, samples), samples


def train_head(small, samples, **changes):
    torch.manual_seed(0)
    model = small.new_model(small.model_config())
    reader = ImageReader(small.SIZE, small.SIZE, MEAN, STD)
    config = TrainConfig(
        **{"head_copies": 256, "head_steps": 250, "head_rate": 1e-2, "batch": 16, **changes}
    )
    fit_head(
        model,
        config,
        samples,
        Uniform(model),
        samples[:4],
        weight=0.5,
        pretrained=Pretrained(None, "", MEAN, STD),
        reader=reader,
        progress=False,
    )
    return model


class Uniform:
    """Prior masks with all weight in the upper half; there are no tokens."""

    def __init__(self, model):
        self.grid = model.grid

    def __len__(self):
        return 12

    def read(self, indices):
        mask = torch.zeros(len(indices), *self.grid)
        mask[:, : self.grid[0] // 2] = 1.0
        return torch.empty(0), mask.flatten(1)


def test_it_finds_new_draws_of_what_it_was_trained_on(small, fitted):
    model, samples = fitted
    reader = ImageReader(small.SIZE, small.SIZE, MEAN, STD)
    inside, outside = [], []
    random = np.random.default_rng(9)
    good = reader.read([sample.path for sample in samples])
    frames = head_training._frames(good, Pretrained(None, "", MEAN, STD))
    everywhere = [np.ones(frame.shape[:2], np.float32) for frame in frames]
    for batch, masks in perturbed_copies(
        frames, everywhere, ("chunk", "blob"), 48, 0, random=random
    ):
        inputs = head_training._inputs(batch, Pretrained(None, "", MEAN, STD))
        with torch.no_grad():
            evidence = model.head(model.backbone(inputs))
        covered = torch.nn.functional.adaptive_avg_pool2d(
            torch.from_numpy(np.stack(masks).astype(np.float32)), model.output_grid
        )
        inside.append(evidence[:, 0][covered > 0.3])
        outside.append(evidence[:, 0][covered == 0])
    inside, outside = torch.cat(inside), torch.cat(outside)
    better = (inside[:, None] > outside[torch.randperm(len(outside))[:2000]]).float().mean()
    assert better > 0.7


def test_the_same_seed_gives_the_same_head(small, fitted):
    _, samples = fitted
    brief = {"head_copies": 16, "head_steps": 3}
    first, again = train_head(small, samples, **brief), train_head(small, samples, **brief)
    other = train_head(small, samples, **brief, seed=1)
    weights = [model.head.mix.weight for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert float(first.head.gain) == float(again.head.gain) > 0


def test_attention_places_the_defects(small, fitted, monkeypatch):
    _, samples = fitted
    seen = []
    real = head_training.with_defect

    def recorded(image, other, where, family, random):
        seen.append(where)
        return real(image, other, where, family, random)

    monkeypatch.setattr(head_training, "with_defect", recorded)
    train_head(small, samples, head_copies=8, head_steps=1, placement="attention")
    half = small.SIZE // 2
    assert all(where[:half].sum() > 3 * where[half:].sum() for where in seen)
    seen.clear()
    train_head(small, samples, head_copies=8, head_steps=1)
    assert all(np.ptp(where) == 0 for where in seen)


def test_a_loss_that_is_not_finite_is_named(small, fitted):
    _, samples = fitted
    with pytest.raises(ModelError, match=r"perturbation head's loss is nan .*head_rate"):
        train_head(small, samples, head_copies=8, head_steps=50, head_rate=1e30)


def test_memory_is_bounded(monkeypatch):
    config = TrainConfig(head_copies=1000)
    assert head_training._numbers(config, 400, 1000) == (1000, 400)
    copies, images = head_training._numbers(config, 400, head_training._MEMORY // 300)
    assert copies + images <= 300
    assert images >= 50
    assert head_training._numbers(config, 5, head_training._MEMORY) == (1, 1)


def test_a_run_ends_with_a_trained_head_and_an_interrupted_one_gets_it(
    small, images, tmp_path, monkeypatch
):
    def cut(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("agp_edge.trainer.head_training.fit_head", cut)
        with pytest.raises(KeyboardInterrupt):
            small.run(images, tmp_path / "cut", config=small.train_config(epochs=1))
    model, checkpoint = load_model(tmp_path / "cut")
    assert not checkpoint.finished
    assert float(model.head.gain) == 0.0
    small.run(images, tmp_path / "cut", config=small.train_config(epochs=1), resume=True)
    small.run(images, tmp_path / "whole", config=small.train_config(epochs=1))
    models = [load_model(tmp_path / name)[0] for name in ("cut", "whole")]
    assert all(float(model.head.gain) > 0 for model in models)
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_older_checkpoints_have_no_head(small, images, tmp_path):
    small.run(
        images,
        tmp_path / "run",
        model=small.model_config(head_width=0),
        config=small.train_config(epochs=1),
    )
    path = tmp_path / "run" / "checkpoint.json"
    document = json.loads(path.read_text())
    for name in ("head_width", "head_weight"):
        del document["model"][name]
    for name in ("head_copies", "head_steps", "head_rate", "placement"):
        del document["train"][name]
    path.write_text(json.dumps(document))
    checkpoint, _ = read_checkpoint(tmp_path / "run")
    assert checkpoint.model.head_width == 0
    model, _ = load_model(tmp_path / "run")
    assert model.head is None
    assert model.output_grid == model.grid


@pytest.mark.parametrize("name", ["head_copies", "head_steps", "head_rate", "placement"])
def test_wrong_settings_are_named(name):
    wrong = dataclasses.replace(TrainConfig(), **{name: "x" if name == "placement" else 0})
    with pytest.raises(ModelError, match=name):
        check_train_config(wrong)


def test_few_shot_training_has_no_head():
    assert setup_defaults("few-shot")[0].head_width == 0
    assert setup_defaults("one-class")[0].head_width > 0
