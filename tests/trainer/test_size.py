"""`--size auto`: the same choice again, within the budget, recorded; what the judge is shown."""

import json

import numpy as np
import pytest

from agp_edge.dataset import Sample, open_dataset
from agp_edge.errors import DataError, ModelError
from agp_edge.images import read_image
from agp_edge.trainer.checkpoint import read_checkpoint
from agp_edge.trainer.judge import Verdicts, defects_of
from agp_edge.trainer.network import new_model
from agp_edge.trainer.setups import SizeBudget
from agp_edge.trainer.size import choose_size
from agp_edge.trainer.train import train


def choose(small, samples, **options):
    return choose_size(
        samples,
        small.model_config(fine_memory=0),
        lambda config: new_model(config, "random", 0),
        seed=0,
        progress=False,
        **options,
    )


def test_same_images_same_choice_and_the_cheapest_of_equals_wins(small, images):
    samples = open_dataset(images).train
    choice = choose(small, samples)
    assert choice == choose(small, samples)
    # the frames are smaller than the smallest input: no larger one is tried; they are 90x70
    sizes = {(c.config.height, c.config.width) for c in choice.candidates}
    assert sizes == {(256, 256), (288, 224)}
    assert len({c.config.layers for c in choice.candidates}) > 1
    equal = [c for c in choice.candidates if c.behind <= max(c.chance, 0.002)]
    winner = min(equal, key=lambda c: c.gmacs)
    assert choice.config == winner.config
    marked = [line for line in choice.lines() if line.startswith("*")]
    assert len(marked) == 1
    assert f"{winner.quality:.3f}" in marked[0]


def test_budget_that_nothing_fits(small, images):
    with pytest.raises(ModelError, match=r"takes at most 1e-06 ms.*--budget-ms"):
        choose(small, open_dataset(images).train, budget_ms=1e-6)


def test_too_few_images(small, images):
    with pytest.raises(DataError, match="5 good images of 5 parts are too few"):
        choose(small, open_dataset(images).train[:5])


def test_choice_is_recorded_and_kept_on_resume(small, images, tmp_path):
    said = []
    for resume in (False, True):
        train(
            open_dataset(images), tmp_path / "run", small.model_config(fine_memory=0),
            small.train_config(epochs=1), size=SizeBudget(), weights="random", resume=resume,
            cache_dir=tmp_path / "cache", progress=False, say=said.append,
        )  # fmt: skip
    table = json.loads((tmp_path / "run" / "size.json").read_text())
    checkpoint, _ = read_checkpoint(tmp_path / "run")
    assert checkpoint.size_reason == table["reason"] == said[-1]
    assert checkpoint.model.height == table["config"]["height"]
    assert list(checkpoint.model.layers) == table["config"]["layers"]
    assert sum("layers" in line for line in said) == 2  # head and reason; once


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
    assert Verdicts(good, bad, bad, image).quality() == 1.0
    assert Verdicts(good, bad, good, image).quality() == 0.75  # called so for another reason
    assert Verdicts(good, good, good, image).quality() == 0.5
