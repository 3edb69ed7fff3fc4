"""Multi-class and few-shot: what is trained on, held out, balanced, promised."""

from collections import Counter

import numpy as np
import pytest

from agp_edge.cli import main
from agp_edge.dataset import Sample, open_products
from agp_edge.errors import DataError, ModelError
from agp_edge.manifest import read_manifest
from agp_edge.trainer.augment import Change, changed_copies
from agp_edge.trainer.checkpoint import load_model, read_checkpoint
from agp_edge.trainer.config import ModelConfig, TrainConfig
from agp_edge.trainer.data import epoch_order, read_frame, training_data
from agp_edge.trainer.few_shot import choose_augment
from agp_edge.trainer.setups import open_setup
from agp_edge.trainer.train import train


@pytest.fixture
def products(small, tmp_path):
    """Two products in the MVTec-AD layout; parts of both have the same names."""
    root = tmp_path / "products"
    for index, (name, count) in enumerate((("cap", 12), ("screw", 24))):
        small.write_images(root / name / "train" / "good", count, start=100 * index)
        rows = [f"train/good/{number:03}.png,{number // 2}" for number in range(count)]
        (root / name / "parts.csv").write_text("\n".join(["file,part", *rows]))
    return root


def test_products_are_split_each_and_their_parts_told_apart(products):
    dataset = open_products([products])
    assert dataset.products == ("cap", "screw")
    data = training_data(dataset, TrainConfig(setup="multi-class", hold_out=0.25), progress=False)
    for product, parts in (("cap", 2), ("screw", 3)):
        held = {sample.part for sample in data.held_out if sample.product == product}
        assert len(held) == parts
        assert all(part.startswith(f"{product}/") for part in held)
        assert not held & {sample.part for sample in (*data.train, *data.stop)}
    # fewer than ten parts are left of either: nothing is taken from them for early stop
    assert not data.stop
    assert [s.path for s in open_products([products / "cap", products / "screw"]).train] == [
        sample.path for sample in dataset.train
    ]


def test_products_fill_equal_shares_of_an_epoch():
    samples = [Sample(f"{n}", "good", product="a" if n < 10 else "b") for n in range(100)]
    seen = Counter()
    for epoch in range(9):
        order = epoch_order(samples, 0, epoch)
        products = Counter(samples[index].product for index in order)
        assert products == {"a": 50, "b": 50}
        seen.update(int(index) for index in order)
    assert set(seen) == set(range(100))  # all are seen, the rare product's more often
    assert min(seen[n] for n in range(10)) > max(seen[n] for n in range(10, 100))
    one = [Sample(f"{n}", "good") for n in range(7)]
    assert sorted(epoch_order(one, 0, 0)) == list(range(7))


def test_multi_class_trains_and_reports_each_product(small, products, tmp_path, capfd):
    run, model = tmp_path / "run", tmp_path / "model.onnx"
    train(
        open_setup("multi-class", [products]),
        run,
        small.model_config(),
        small.train_config(setup="multi-class", epochs=1, suspects="report"),
        weights="random",
        cache_dir=tmp_path / "cache",
        progress=False,
    )
    assert main(["export", str(run), "-o", str(model)]) == 0
    out, _ = capfd.readouterr()
    assert "one threshold for all products" in out
    assert "cap: " in out
    assert "screw: " in out
    manifest = read_manifest(model)
    assert (manifest["setup"], manifest["classes"]) == ("multi-class", ["cap", "screw"])
    assert manifest["threshold"]["n"] == 3  # parts: one of 6, two of 12
    assert manifest["threshold"]["unit"] == "parts"


def test_wrong_numbers_of_products(small, products, tmp_path):
    with pytest.raises(DataError, match="is one; give a data set per product"):
        open_products([products / "cap"])
    twin = tmp_path / "other" / "cap"
    small.write_images(twin / "train" / "good", 2)
    with pytest.raises(DataError, match="two of the data sets are called 'cap'"):
        open_products([products / "cap", twin])
    single = products / "nut" / "train" / "good"
    small.write_images(single, 1)
    with pytest.raises(DataError, match=r"'nut' out: its 1 images show 1 part"):
        training_data(open_products([products]), TrainConfig(setup="multi-class"), progress=False)
    with pytest.raises(DataError, match="setup 'one-class' does not fit 3 products"):
        training_data(open_products([products]), TrainConfig(), progress=False)


@pytest.mark.parametrize("count", [1, 4])
def test_few_shot_promises_no_rate(small, tmp_path, capfd, count):
    folder = small.write_images(tmp_path / "good", count)
    run, model = tmp_path / "run", tmp_path / "model.onnx"
    config = small.train_config(setup="few-shot", epochs=2, copies=16, threshold_copies=6)
    for resume in (False, True):  # the run goes on with what was chosen
        small.run(folder, run, config=config, resume=resume)
    assert main(["export", str(run), "-o", str(model)]) == 0
    out, _ = capfd.readouterr()
    assert "NO false-reject rate is promised" in out
    assert f"of changed copies of the {count} good images" in out
    threshold = read_manifest(model)["threshold"]
    assert (threshold["method"], threshold["false_reject"]) == ("copies", 1.0)
    assert threshold["n"] == count
    checkpoint, _ = read_checkpoint(run)
    assert len(checkpoint.train_files) == count
    assert checkpoint.train.augment in ("shift", "flip", "rotate")
    # what copies say of a position is not taken for what so many images would
    position = load_model(run)[0].position
    assert position is not None
    variance = position.spread.square()
    assert variance.min() / variance.mean() > 4 / (count + 4) - 1e-4
    assert variance.max() / variance.mean() > 1.01


def test_copies_are_the_same_again_and_those_of_the_threshold_are_others(small, tmp_path):
    samples = [Sample(path, "good") for path in small.write_images(tmp_path / "a", 3).iterdir()]
    train = changed_copies(samples, 12, "rotate", 0, "train")
    assert train == changed_copies(samples, 12, "rotate", 0, "train")
    assert [copy.change for copy in train[:3]] == [Change()] * 3
    threshold = changed_copies(samples, 12, "rotate", 0, "threshold")
    assert not {copy.change for copy in train} & {copy.change for copy in threshold}
    assert {copy.path for copy in train} == {sample.path for sample in samples}
    assert not any(copy.change.mirror for copy in changed_copies(samples, 50, "shift", 0, "train"))
    flips = changed_copies(samples, 50, "flip", 0, "train")
    assert {copy.change.turns for copy in flips} == {0, 2}
    with pytest.raises(ModelError, match="augment is 'some'"):
        changed_copies(samples, 1, "some", 0, "train")


def test_changes_of_a_frame():
    frame = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(Change().apply(frame), frame)
    assert np.array_equal(Change(mirror=True).apply(frame), frame[:, ::-1])
    assert np.array_equal(Change(turns=2).apply(frame), frame[::-1, ::-1])
    # a quarter turn would change the aspect of an oblong frame
    assert np.array_equal(Change(turns=3).apply(frame), frame[::-1, ::-1])
    assert np.array_equal(Change(turns=1).apply(frame[:, :3]), np.rot90(frame[:, :3]))
    assert np.array_equal(Change(offset=250.0).apply(frame).ravel()[-1:], [255])
    colour = np.repeat(frame[:, :, None], 3, axis=2)
    moved = Change(shift=(1 / 3, 0.25)).apply(colour)
    assert moved.shape == colour.shape
    assert np.array_equal(moved[1:, 1:], colour[:-1, :-1])


def test_copies_are_turned_only_where_a_turned_part_is_as_good(tmp_path):
    """A picture that is symmetric in all ways may be turned; bars that lie may not."""
    import cv2

    from agp_edge.trainer.network import new_model

    def choice(name, picture):
        path = tmp_path / f"{name}.png"
        cv2.imwrite(str(path), picture)
        # pretrained: a random network hardly knows directions
        config = ModelConfig(
            height=128,
            width=128,
            position_scale=False,
            shrinkage=1.0,
            fine_regions=0,
            patch_memory=0,
        )
        return choose_augment(
            [Sample(path, "good")], config, lambda config: new_model(config, "wheel", 0), 0
        )[0]

    noise = np.random.default_rng(0).integers(60, 190, (96, 96)).astype(np.float64)
    half = noise + noise[:, ::-1] + noise.T + noise.T[:, ::-1]
    symmetric = (half + half[::-1, ::-1] + half[::-1] + half[:, ::-1]) / 8
    symmetric = (symmetric + np.rot90(symmetric)) / 2
    assert choice("symmetric", np.clip(4 * (symmetric - 120) + 120, 0, 255).astype(np.uint8)) == (
        "rotate"
    )
    bars = (noise // 8).astype(np.uint8)
    bars[8:40, 8:40] = 250
    bars[60:64, 10:90] = 130
    assert choice("bars", bars) == "shift"


def test_frames_of_copies_come_through_the_change(small, tmp_path):
    (path,) = small.write_images(tmp_path / "a", 1).iterdir()
    (copy,) = changed_copies([Sample(path, "good")], 1, "flip", 0, "threshold")
    assert np.array_equal(read_frame(copy), copy.change.apply(read_frame(path)))
