"""`--size auto`: what may be chosen, what it takes to be chosen, the budget, the record."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from agp_edge.dataset import Sample, open_dataset
from agp_edge.errors import DataError, ModelError
from agp_edge.images import read_image
from agp_edge.trainer import size as size_module
from agp_edge.trainer.checkpoint import read_checkpoint
from agp_edge.trainer.judge import defects_of
from agp_edge.trainer.network import new_model
from agp_edge.trainer.setups import SizeBudget
from agp_edge.trainer.size import choose_size
from agp_edge.trainer.train import train
from agp_edge.trainer.trial import Found


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Twelve frames of 144 x 144 pixels: noise with a fixed pattern under it."""
    root = tmp_path_factory.mktemp("large")
    random = np.random.default_rng(0)
    pattern = np.tile(np.kron(np.eye(2), np.ones((9, 9))), (8, 8)) * 60 + 90
    for index in range(12):
        noise = random.normal(0, 5, pattern.shape)
        cv2.imwrite(str(root / f"{index:02}.png"), np.clip(pattern + noise, 0, 255).astype("uint8"))
    return root


def choose(small, folder, **options):
    return choose_size(
        open_dataset(folder).train,
        small.model_config(),
        lambda config: new_model(config, "random", 0),
        seed=0,
        progress=False,
        **options,
    )


@pytest.fixture
def small_sides(monkeypatch):
    monkeypatch.setattr(size_module, "_SIDES", (64, 96, 128, 160))
    monkeypatch.setattr(size_module, "_PROBE", 96)


def judged_by(monkeypatch, quality_of):
    """Replaces the trials: that share of 20 defects in each image is seen, for certain."""

    def try_setting(config, images, new_model, seed):
        count = len(images.held)
        good = np.zeros(count)
        seen = np.arange(20) < round(20 * quality_of(config))
        bad = np.tile(np.where(seen, 1.0, -1.0), count)
        return Found(good, good, bad, bad, np.repeat(np.arange(count), 20))

    monkeypatch.setattr(size_module, "try_setting", try_setting)


def by_height(qualities):
    return lambda config: qualities[config.height]


@pytest.mark.usefixtures("small_sides")
def test_frames_are_never_enlarged_and_the_choice_comes_again(small, large):
    choice = choose(small, large)
    assert choice == choose(small, large)
    sides = [c.config.height for c in choice.candidates]
    assert sides[:2] == [64, 96]  # the default, the probe
    assert set(sides) <= {64, 96, 128}  # 160 would enlarge 144
    assert sum(line.startswith("*") for line in choice.lines()) == 1


@pytest.mark.parametrize("side", [48, 500])  # less than twice the default's side brings nothing
def test_frames_too_small_for_a_larger_input_cost_nothing(small, tmp_path, side):
    for index in range(8):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((side, side), index, np.uint8))
    choice = choose_size(
        open_dataset(tmp_path).train,
        small.model_config(height=256, width=256),
        lambda config: new_model(config, "random", 0),
        seed=0,
    )
    assert choice.candidates == ()
    assert choice.config.height == 256
    assert choice.reason == "256x256: the next larger input would enlarge the frames"


@pytest.mark.parametrize(
    ("lead", "chosen"),
    [
        ({64: 0.9, 96: 0.8}, 64),  # the probe is worse: nothing else is tried
        ({64: 0.7, 96: 0.75, 128: 0.75}, 64),  # better, but by too little
        ({64: 0.6, 96: 0.9, 128: 0.9}, 96),  # equals: the cheaper one
        ({64: 0.6, 96: 0.7, 128: 0.95}, 128),
    ],
)
@pytest.mark.usefixtures("small_sides")
def test_a_larger_input_has_to_be_better(small, large, monkeypatch, lead, chosen):
    judged_by(monkeypatch, by_height(lead))
    choice = choose(small, large)
    assert choice.config.height == chosen
    tried = [c.config.height for c in choice.candidates if c.what != "early"]
    assert tried == list(lead)


@pytest.mark.usefixtures("small_sides")
def test_a_gain_that_chance_explains_is_none(small, large, monkeypatch):
    """All that the larger inputs gain, they gain on one of four parts."""

    def try_setting(config, images, new_model, seed):
        count = len(images.held)
        image = np.repeat(np.arange(count), 20)
        bad = np.where(np.arange(20 * count) % 2 == 0, 1.0, -1.0)
        if config.height > 64:
            bad[image == 0] = 1.0
        good = np.zeros(count)
        return Found(good, good, bad, bad, image)

    monkeypatch.setattr(size_module, "try_setting", try_setting)
    choice = choose(small, large)
    assert choice.candidates[1].gain > 0.1
    assert choice.candidates[1].least == 0.0
    assert choice.config.height == 64


@pytest.mark.usefixtures("small_sides")
def test_an_earlier_layer_has_to_be_better_still(small, large, monkeypatch):
    def choice(gain):
        judged_by(
            monkeypatch, lambda c: {64: 0.5, 96: 0.8, 128: 0.8}[c.height] + gain * bool(c.layers)
        )
        return choose(small, large)

    assert choice(0.0).config.layers == ()
    found = choice(0.2)
    assert (
        len(found.config.layers)
        == len(new_model(found.candidates[0].config, "random", 0)[0].backbone.layers) + 1
    )
    assert "96x96, early layers" in found.reason


@pytest.mark.usefixtures("small_sides")
def test_oblong_frames_compete_at_their_own_aspect(small, tmp_path, monkeypatch):
    judged_by(monkeypatch, lambda config: config.height * config.width / 2e4)
    for index in range(10):
        pixels = np.random.default_rng(index).integers(0, 255, (96, 192), np.uint8)
        cv2.imwrite(str(tmp_path / f"{index}.png"), pixels)
    shapes = {(c.config.height, c.config.width) for c in choose(small, tmp_path).candidates}
    assert shapes == {(64, 64), (48, 96), (64, 128), (96, 176)}


@pytest.mark.usefixtures("small_sides")
def test_budget_bounds_the_choice(small, large, monkeypatch):
    judged_by(monkeypatch, lambda config: config.height * config.width / 2e4)
    monkeypatch.setattr(
        size_module, "measured_ms", lambda _, config: config.height * config.width / 1e3
    )
    assert choose(small, large).config.height == 128
    choice = choose(small, large, budget_ms=10.0)
    assert choice.config.height == 96
    assert choice.reason.endswith("it takes 9.2 of 10 ms")
    monkeypatch.setattr(size_module, "_SMALLER", (32,))
    choice = choose(small, large, budget_ms=2.0)
    assert choice.config.height == 32
    assert "the largest that takes at most 2 ms" in choice.reason


def test_budget_that_nothing_fits(small, large):
    with pytest.raises(ModelError, match=r"takes at most 1e-06 ms.*--budget-ms"):
        choose(small, large, budget_ms=1e-6)


def test_too_few_images(small, images, tmp_path):
    dataset = open_dataset(images)
    few = dataset.train[:5]
    with pytest.raises(DataError, match="5 good images of 5 parts are too few"):
        choose_size(few, small.model_config(), lambda c: new_model(c, "random", 0), seed=0)
    # by default the size then stays
    said = []
    train(
        replace(dataset, train=few), tmp_path / "run", small.model_config(),
        small.train_config(), size=SizeBudget(required=False), weights="random",
        cache_dir=tmp_path / "cache", progress=False, say=said.append,
    )  # fmt: skip
    checkpoint, _ = read_checkpoint(tmp_path / "run")
    assert checkpoint.size_reason == "64x64: too few good images to choose by"
    assert checkpoint.model == small.model_config()


@pytest.mark.usefixtures("small_sides")
def test_choice_is_recorded_and_kept_on_resume(small, large, monkeypatch, tmp_path):
    judged_by(monkeypatch, by_height({64: 0.5, 96: 0.9, 128: 0.9}))
    said = []
    for resume in (False, True):
        train(
            open_dataset(large), tmp_path / "run", small.model_config(),
            small.train_config(), size=SizeBudget(), weights="random", resume=resume,
            cache_dir=tmp_path / "cache", progress=False, say=said.append,
        )  # fmt: skip
    table = json.loads((tmp_path / "run" / "size.json").read_text())
    checkpoint, _ = read_checkpoint(tmp_path / "run")
    assert checkpoint.size_reason == table["reason"] == said[-1]
    assert checkpoint.model.height == table["config"]["height"] == 96
    assert sum("quality" in line for line in said) == 1  # the table, once


def test_defects_stay_inside_their_mask_and_come_again(images):
    samples = [Sample(path, "good") for path in sorted(images.iterdir())[:4]]
    defects = defects_of(samples, 4, seed=3)
    assert len(defects) > 8
    again = defects_of(samples, 4, seed=3)
    for one, other in zip(defects, again, strict=True):
        assert np.array_equal(one.pixels, other.pixels)
    for defect in defects:
        frame = read_image(samples[defect.image].path)
        changed = defect.apply(frame)
        mask = defect.full_mask(frame.shape)
        assert changed.shape == frame.shape
        assert mask.any()
        assert (changed[mask] != frame[mask]).any()


def test_quality_asks_for_the_place_too():
    good = np.array([1.0, 2.0, 3.0, 4.0])
    bad, image = np.full(4, 9.0), np.arange(4)
    assert Found(good, good, bad, bad, image).quality() == 1.0
    # called so for another reason: the defect's place looks like the good ones
    assert Found(good, good, bad, good, image).quality() == 0.75
    assert Found(good, good, good, good, image).quality() == 0.5
    only_first = np.array([1.0, 0.0, 0.0, 0.0])
    assert Found(good, good, good, good - 0.5, image).quality(only_first) == 0.25
