"""The look at a data set: on generated parts, solar cells and magnetic tiles."""

import csv
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from agp_edge.cli import main
from agp_edge.data_check import check_data
from agp_edge.data_check.pattern import SIDE, pattern_of
from agp_edge.data_check.same_part import correlation, find_same_parts
from agp_edge.dataset import open_dataset
from agp_edge.demo_data import read_cells
from agp_edge.errors import DataError
from agp_edge.images import read_image

TILES = (
    Path(os.environ.get("AGP_EDGE_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
    / "magnetic_tile"
)


def part(seed, height=150, width=120):
    """A surface with a structure of its own below a frame that all parts share."""
    random = np.random.default_rng(seed)
    grain = cv2.GaussianBlur(random.normal(0, 1, (height, width)), (0, 0), 2.0)
    image = 128 + 22 * grain / grain.std()
    image[:8] = image[-8:] = 30
    image[:, 58:62] = 220
    return image


def photo(image, seed, *, gain=1.0, shift=0):
    """The part under another exposure, a little aside, with noise."""
    random = np.random.default_rng(1000 + seed)
    moved = np.roll(image, (shift, -shift), (0, 1))
    return np.clip(gain * moved + random.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def kinds(check):
    return {finding.kind: finding for finding in check.findings}


@pytest.fixture
def clean(tmp_path):
    """24 good parts to train on, 6 to test, 4 with a scratch and its mask."""
    root = tmp_path / "data"
    for index in range(34):
        folder = "train/good" if index < 24 else "test/good" if index < 30 else "test/scratch"
        image = photo(part(index), index)
        if index >= 30:
            top = 20 + 25 * (index - 30)
            image[top : top + 4, 20:100] = 255
            mask = np.zeros_like(image)
            mask[top : top + 4, 20:100] = 255
            write(root / "ground_truth" / "scratch" / f"{index:02}_mask.png", mask)
        write(root / folder / f"{index:02}.png", image)
    return root


def test_nothing_is_found_in_a_clean_set(clean, capsys):
    check = check_data(clean, false_reject=0.2)
    assert check.findings == ()
    assert check.is_trustworthy
    assert check.good_parts == 24
    assert check.pairs == ()
    assert main(["data", str(clean), "--false-reject", "0.2"]) == 0
    assert "nothing found" in capsys.readouterr().out


def board(seed):
    """One layout, hardly turned or moved, under another noise: nothing of it is a part's own."""
    layout = np.random.default_rng(7)
    random = np.random.default_rng(seed)
    image = np.full((225, 300), 90, np.uint8)
    for x, y, length in layout.integers((10, 10, 20), (250, 215, 100), (40, 3)).tolist():
        cv2.line(image, (x, y), (x + length, y), 160, 2, cv2.LINE_AA)
        cv2.circle(image, (x, y), 4, 215, -1, cv2.LINE_AA)
    turn = cv2.getRotationMatrix2D((150, 112), float(random.normal(0, 0.4)), 1.0)
    turn[:, 2] += random.normal(0, 0.5, 2)
    moved = cv2.warpAffine(image, turn, (300, 225), borderMode=cv2.BORDER_REFLECT)
    return np.clip(moved + random.normal(0, 4, moved.shape), 0, 255).astype(np.uint8)


def test_likeness_of_nearly_equal_products_is_a_warning_and_a_copy_still_an_error(tmp_path):
    root = tmp_path / "boards"
    for index in range(90):
        side = "train" if index < 60 else "test"
        write(root / side / "good" / f"{index:02}.png", board(index))
    check = check_data(root)
    found = kinds(check)
    assert "leak" not in found
    assert check.is_trustworthy
    assert found["leak-doubtful"].level == "warning"
    assert "trust your eyes" in found["leak-doubtful"].advice

    shutil.copy(root / "train/good/05.png", root / "test/good/copy.png")
    found = kinds(check_data(root))
    assert found["leak"].level == "error"
    assert [set(group) for group in found["leak"].groups] == [
        {"train/good/05.png", "test/good/copy.png"}
    ]


def test_exposures_of_one_part_are_found_across_the_split(clean, tmp_path, capsys):
    for index, (side, gain, shift) in enumerate(
        [("train", 0.6, 2), ("train", 1.3, -3), ("test", 0.8, 4)]
    ):
        image = photo(part(3), 50 + index, gain=gain, shift=shift)
        write(clean / side / "good" / f"more{index}.png", image)
    check = check_data(clean)
    found = kinds(check)
    family = {"train/good/03.png", *(f"train/good/more{i}.png" for i in (0, 1))}
    family.add("test/good/more2.png")
    assert [set(group) for group in found["leak"].groups] == [family]
    assert [set(group) for group in found["same-part"].groups] == [family]
    assert not check.is_trustworthy
    assert check.good_parts == 24

    files = [tmp_path / name for name in ("page.html", "found.json", "parts.csv")]
    options = ["--report", files[0], "--json", files[1], "--write-parts", files[2]]
    assert main(["data", str(clean), *map(str, options)]) == 4
    assert "1 parts are on both sides: 1 of 11 test images" in capsys.readouterr().out
    assert files[0].read_text().count("data:image/jpeg;base64,") >= 8
    document = json.loads(files[1].read_text())
    assert document["findings"][0]["kind"] == "leak"
    shutil.copy(files[2], clean / "parts.csv")
    dataset = open_dataset(clean)  # it lists every image
    assert len({sample.part for sample in dataset.train}) == 24
    # with parts.csv in place the leak stays, and nothing is proposed any more
    found = kinds(check_data(clean, false_reject=0.2))
    assert "leak" in found
    assert not {"same-part", "parts-apart"} & set(found)


def test_parts_csv_is_doubted_and_not_overruled(clean):
    write(clean / "train" / "good" / "more.png", photo(part(3), 50, gain=0.7))
    names = sorted(path.relative_to(clean).as_posix() for path in clean.glob("t*/*/*.png"))
    lines = ["file,part", *(f"{name},{index}" for index, name in enumerate(names))]
    (clean / "parts.csv").write_text("\n".join(lines))
    check = check_data(clean, false_reject=0.2)
    assert check.is_trustworthy
    assert check.good_parts == 25
    apart = kinds(check)["parts-apart"]
    assert [set(g) for g in apart.groups] == [{"train/good/03.png", "train/good/more.png"}]
    assert "0 of them across the split" in apart.title


def test_copies_and_contradicting_labels(clean):
    shutil.copy(clean / "train/good/01.png", clean / "train/good/copy.png")
    shutil.copy(clean / "train/good/02.png", clean / "test/scratch/liar.png")
    write(clean / "ground_truth" / "scratch" / "liar.png", np.zeros((150, 120), np.uint8))
    check = check_data(clean)
    found = kinds(check)
    assert {frozenset(group) for group in found["duplicates"].groups} == {
        frozenset({"train/good/01.png", "train/good/copy.png"}),
        frozenset({"train/good/02.png", "test/scratch/liar.png"}),
    }
    assert len(found["duplicates-labels"].groups) == 1
    assert len(found["leak"].groups) == 1
    assert found["masks-empty"].groups == (("test/scratch/liar.png",),)


def test_unreadable_and_outlying_images(clean):
    whole = (clean / "train/good/05.png").read_bytes()
    (clean / "train/good/05.png").write_bytes(whole[: len(whole) // 2])
    dark = read_image(clean / "train/good/06.png") // 4
    write(clean / "train/good/06.png", dark)
    sharp = read_image(clean / "train/good/07.png")
    write(clean / "train/good/07.png", cv2.GaussianBlur(sharp, (0, 0), 5))
    found = kinds(check_data(clean))
    assert found["unreadable"].groups == (("train/good/05.png",),)
    assert found["unreadable"].level == "error"
    assert found["brightness"].groups == (("train/good/06.png",),)
    assert found["blurred"].groups == (("train/good/07.png",),)


def test_masks_that_do_not_fit(clean):
    masks = clean / "ground_truth" / "scratch"
    write(masks / "30_mask.png", np.full((15, 12), 255, np.uint8))
    write(masks / "31_mask.png", np.ones((150, 120), np.uint8))
    (masks / "32_mask.png").unlink()
    write(masks / "nobody_mask.png", np.zeros((9, 9), np.uint8))
    write(clean / "ground_truth" / "good" / "24_mask.png", np.zeros((150, 120), np.uint8))
    found = kinds(check_data(clean))
    assert found["masks-unfit"].groups == (("test/scratch/30.png",), ("test/scratch/31.png",))
    assert found["masks-missing"].groups == (("test/scratch/32.png",),)
    assert found["masks-orphaned"].groups == (("ground_truth/scratch/nobody_mask.png",),)
    assert found["masks-on-good"].groups == (("ground_truth/good/24_mask.png",),)


def test_odd_folders_sizes_and_channels(clean):
    write(clean / "test" / "OK" / "a.png", photo(part(90), 90))
    write(clean / "train" / "bad" / "b.png", photo(part(91), 91))
    colour = np.repeat(photo(part(92, 100, 80), 92)[:, :, None], 3, axis=2)
    write(clean / "train" / "good" / "colour.png", colour)
    found = kinds(check_data(clean))
    assert found["labels"].groups == (("test/OK",),)
    assert found["labels"].level == "error"
    assert ("train/bad",) in found["ignored"].groups
    assert found["channels"].groups == (("train/good/colour.png",),)
    assert found["sizes"].groups == (("train/good/colour.png",),)


def test_the_number_of_parts_that_a_promise_needs(clean):
    """24 parts, 5 held out: 1/alpha - 1 of them on average, log(0.05)/log(1 - alpha) with 95 %."""
    assert "promise" not in kinds(check_data(clean, false_reject=0.17))
    promise = kinds(check_data(clean, false_reject=0.01))["promise"]
    assert promise.level == "error"
    assert "99 must be held out, 5 are" in promise.title
    assert "495 good parts in all" in promise.advice
    promise = kinds(check_data(clean, false_reject=0.01, confidence=0.95))["promise"]
    assert "299 must be held out" in promise.title
    assert kinds(check_data(clean))["promise"].level == "warning"


def test_a_plain_folder(tmp_path):
    for index in range(12):
        write(tmp_path / f"{index:02}.png", photo(part(index // 2), index, gain=1 - 0.03 * index))
    check = check_data(tmp_path)
    assert check.layout.test == []
    assert check.good_parts == 6
    assert "leak" not in kinds(check)
    assert len(kinds(check)["same-part"].groups) == 6
    assert check.is_trustworthy


def test_bad_input(tmp_path, capsys):
    with pytest.raises(DataError, match="does not exist"):
        check_data(tmp_path / "none")
    with pytest.raises(DataError, match="holds no image"):
        check_data(tmp_path)
    assert main(["data", str(tmp_path), "--confidence", "95"]) == 1
    assert "--confidence is 95.0" in capsys.readouterr().err
    write(tmp_path / "one.png", np.full((20, 20), 7, np.uint8))
    (tmp_path / "parts.csv").write_text("file,part\n")
    check = check_data(tmp_path)
    assert "does not list 'one.png'" in kinds(check)["parts-file"].title
    for index in range(5):
        write(tmp_path / f"blank{index}.png", np.full((20, 20 + index), 7, np.uint8))
    assert check_data(tmp_path).pairs == ()  # blank photos say nothing about the part


def test_patterns_do_not_see_the_exposure():
    image = photo(part(1), 1)
    again = np.clip(255 * (image / 255.0) ** 0.6, 0, 255).astype(np.uint8)
    assert correlation(pattern_of(image), pattern_of(again)) > 0.9
    assert correlation(pattern_of(image), pattern_of(photo(part(2), 2))) < 0.6
    assert not pattern_of(np.full((30, 30), 9, np.uint8)).any()


def test_blocks_give_what_one_block_gives(monkeypatch):
    patterns = np.array([pattern_of(photo(part(i % 40), i, gain=0.8)) for i in range(70)])
    whole = find_same_parts(patterns)
    monkeypatch.setattr("agp_edge.data_check.same_part._BLOCK", 16)
    assert find_same_parts(patterns).pairs == whole.pairs
    assert {(pair.first, pair.second) for pair in whole.pairs} == {(i, i + 40) for i in range(30)}
    assert patterns.shape == (70, SIDE, SIDE)


def test_solar_cells_photographed_twice():
    """Poly cells: brighter and darker, up to 2 % aside, with noise; all but a few are found."""
    cells, _ = read_cells("poly")
    images = [read_image(cell.path) for cell in cells[:160]]
    random = np.random.default_rng(0)
    again = []
    for image in images[:40]:
        move = np.float32([[1, 0, random.uniform(-6, 6)], [0, 1, random.uniform(-6, 6)]])
        moved = cv2.warpAffine(image, move, image.shape[::-1], borderMode=cv2.BORDER_REFLECT)
        lit = random.uniform(0.6, 1.3) * moved + random.normal(0, 3, image.shape)
        again.append(np.clip(lit, 0, 255).astype(np.uint8))
    same = find_same_parts(np.array([pattern_of(image) for image in [*images, *again]]))
    found = {(pair.first, pair.second) for pair in same.pairs}
    assert sum((i, 160 + i) in found for i in range(40)) >= 36


def test_a_random_split_of_the_tiles_is_warned_about(tmp_path):
    """Real photographs of 60 tiles, split at random; without them solar cells stand in."""
    if TILES.is_dir():
        with (TILES / "parts.csv").open() as file:
            names = [row["file"] for row in csv.DictReader(file) if "/good/" in row["file"]][:360]
        sources = [TILES / name for name in names]
    else:
        cells, _ = read_cells("mono")
        sources = [cell.path for cell in cells]
    random = np.random.default_rng(0)
    for index, source in enumerate(sources):
        side = "test" if random.random() < 0.3 else "train"
        target = tmp_path / side / "good" / f"{index:03}{source.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source)
    check = check_data(tmp_path)
    leak = kinds(check)["leak"]
    assert not check.is_trustworthy
    assert len(leak.groups) >= 20
