"""Layouts, parts and masks of a data set."""

import cv2
import numpy as np
import pytest

from agp_edge.dataset import GOOD, Sample, open_dataset, read_mask, split_by_part
from agp_edge.errors import DataError


def write(path, image=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.zeros((8, 8), np.uint8) if image is None else image)


@pytest.fixture
def root(tmp_path):
    for name in ("a", "b", "c"):
        write(tmp_path / "train" / "good" / f"{name}.png")
    write(tmp_path / "test" / "good" / "d.png")
    write(tmp_path / "test" / "crack" / "e.png")
    write(tmp_path / "test" / "crack" / "f.png")
    write(tmp_path / "ground_truth" / "crack" / "e_mask.png")
    write(tmp_path / "ground_truth" / "crack" / "f.png")
    write(tmp_path / "test" / "stain" / "g.png")
    return tmp_path


def test_mvtec_layout(root):
    data = open_dataset(root)
    assert [sample.path.name for sample in data.train] == ["a.png", "b.png", "c.png"]
    assert {sample.label for sample in data.train} == {GOOD}
    assert [(s.path.name, s.label, s.is_defective) for s in data.test] == [
        ("e.png", "crack", True),
        ("f.png", "crack", True),
        ("d.png", "good", False),
        ("g.png", "stain", True),
    ]
    masks = [sample.mask_path and sample.mask_path.name for sample in data.test]
    assert masks == ["e_mask.png", "f.png", None, None]
    assert not data.has_parts


def test_plain_folder(tmp_path):
    write(tmp_path / "a.jpg")
    data = open_dataset(str(tmp_path))
    assert [sample.path for sample in data.train] == [tmp_path / "a.jpg"]
    assert data.test == ()


def test_parts_are_read(root):
    names = ["train/good/a.png", "train/good/b.png", "train/good/c.png", "test/good/d.png"]
    names += ["test/crack/e.png", "test/crack/f.png", "test/stain/g.png"]
    rows = [f"{name},{'1' if index < 2 else index}" for index, name in enumerate(names)]
    (root / "parts.csv").write_text("\n".join(["file,part", *rows]))
    data = open_dataset(root)
    assert data.has_parts
    assert [sample.part for sample in data.train] == ["1", "1", "2"]
    (root / "parts.csv").write_text("\n".join(["file,part", *rows[1:]]))
    with pytest.raises(DataError, match=r"does not list 'train/good/a\.png'"):
        open_dataset(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("photo,part\na,1\n", "file,part"),
        ("", "file,part"),
        ("file,part\ntrain/good/a.png,\n", "line 2"),
        ("file,part\ntrain/good/a.png\n", "line 2"),
        ("file,part\ntrain/good/a.png,1\ntrain/good/a.png,2\n", "two parts"),
        (b"\xff\xfe\x00", "cannot read"),
    ],
)
def test_wrong_parts_file_is_named(root, text, message):
    path = root / "parts.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message) as caught:
        open_dataset(root)
    assert "parts.csv" in str(caught.value)


def test_missing_and_empty_folders(tmp_path, root):
    with pytest.raises(DataError, match="does not exist"):
        open_dataset(tmp_path / "missing")
    with pytest.raises(DataError, match="is a file"):
        open_dataset(root / "train" / "good" / "a.png")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="holds no image"):
        open_dataset(empty)
    (empty / "train").mkdir()
    with pytest.raises(DataError, match="good"):
        open_dataset(empty)
    (empty / "train").rmdir()
    (empty / "test").mkdir()
    with pytest.raises(DataError, match="is empty"):
        open_dataset(empty)


def test_missing_mask_is_named(root):
    (root / "ground_truth" / "crack" / "f.png").unlink()
    with pytest.raises(DataError, match=r"f\.png' has no mask"):
        open_dataset(root)


def test_mask_is_resized_to_nearest_then_thresholded(tmp_path):
    mask = np.zeros((8, 8), np.uint8)
    mask[2:4, 4:8] = 255
    write(tmp_path / "m.png", mask)
    sample = Sample(tmp_path / "a.png", "crack", tmp_path / "m.png")
    same = read_mask(sample, (8, 8))
    assert same.dtype == np.bool_
    np.testing.assert_array_equal(same, mask > 0)
    np.testing.assert_array_equal(
        read_mask(sample, (16, 24)), np.repeat(np.repeat(mask > 0, 2, axis=0), 3, axis=1)
    )
    np.testing.assert_array_equal(read_mask(sample, (4, 4)), mask[1::2, 1::2] > 0)


def test_mask_of_zeros_and_ones_is_refused(tmp_path):
    write(tmp_path / "m.png", np.full((8, 8), 1, np.uint8))
    with pytest.raises(DataError, match="255"):
        read_mask(Sample(tmp_path / "a.png", "crack", tmp_path / "m.png"), (8, 8))


def test_empty_mask_of_a_defective_image_marks_nothing(tmp_path):
    write(tmp_path / "m.png", np.zeros((8, 8), np.uint8))
    assert not read_mask(Sample(tmp_path / "a.png", "crack", tmp_path / "m.png"), (4, 6)).any()


def test_good_sample_has_an_empty_mask(tmp_path):
    assert not read_mask(Sample(tmp_path / "a.png", GOOD), (3, 5)).any()


def samples(tmp_path, parts):
    return [Sample(tmp_path / f"{i}.png", GOOD, part=part) for i, part in enumerate(parts)]


def test_parts_stay_on_one_side(tmp_path):
    every = samples(tmp_path, [str(index // 6) for index in range(120)])
    kept, held = split_by_part(every, 0.2, seed=3)
    assert sorted([*kept, *held], key=every.index) == every
    assert not {sample.part for sample in kept} & {sample.part for sample in held}
    assert len({sample.part for sample in held}) == 4
    assert split_by_part(every, 0.2, seed=3) == (kept, held)
    assert split_by_part(every, 0.2, seed=4) != (kept, held)
    assert split_by_part(every[::-1], 0.2, seed=3)[1] == held[::-1]


def test_without_parts_each_image_is_one(tmp_path):
    kept, held = split_by_part(samples(tmp_path, [None] * 10), 0.25, seed=0)
    assert (len(kept), len(held)) == (8, 2)


def test_both_sides_get_something(tmp_path):
    for share in (0.01, 0.99):
        kept, held = split_by_part(samples(tmp_path, "aab"), share, seed=0)
        assert kept
        assert held
    with pytest.raises(DataError, match="1 part"):
        split_by_part(samples(tmp_path, "aaa"), 0.5, seed=0)
    with pytest.raises(ValueError, match="share"):
        split_by_part(samples(tmp_path, "ab"), 1.0, seed=0)
