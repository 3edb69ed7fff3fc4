"""MVTec-AD, VisA and MVTec-3D as their publishers lay them out, in miniature."""

import cv2
import numpy as np
import pytest

from agp_edge.dataset import GOOD, join_products, read_mask
from agp_edge.errors import DataError
from agp_edge.public_layouts import open_public

SIDE = 16
HEADER = "object,split,label,image,mask"


def write(path, image=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((SIDE, SIDE), 90, np.uint8) if image is None else image)


def mask(value):
    image = np.zeros((SIDE, SIDE), np.uint8)
    image[4:8, 6:12] = value
    return image


@pytest.fixture
def visa(tmp_path):
    """The rows of split_csv/1cls.csv and their files: two classes."""
    rows = []
    for name, count in (("pcb1", 3), ("candle", 2)):
        for index in range(count):
            image = f"{name}/Data/Images/Normal/{index:04}.JPG"
            write(tmp_path / image)
            rows.append(f"{name},{'test' if index == 0 else 'train'},normal,{image},")
        image, drawn = f"{name}/Data/Images/Anomaly/000.JPG", f"{name}/Data/Masks/Anomaly/000.png"
        write(tmp_path / image)
        write(tmp_path / drawn, mask(3))  # an index image: the third kind of defect
        rows.append(f"{name},test,anomaly,{image},{drawn}")
    write_rows(tmp_path, rows)
    return tmp_path, rows


def write_rows(root, rows, header=HEADER):
    path = root / "split_csv" / "1cls.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.fixture
def mvtec3d(tmp_path):
    for name in ("bagel", "rope"):
        root = tmp_path / name
        for side, count in (("train", 3), ("validation", 2), ("test", 1)):
            for index in range(count):
                write(root / side / GOOD / "rgb" / f"{index:03}.png")
        write(root / "test" / GOOD / "gt" / "000.png", mask(0))
        write(root / "test" / "hole" / "rgb" / "000.png")
        write(root / "test" / "hole" / "gt" / "000.png", mask(255))
        (root / "train" / GOOD / "xyz").mkdir()
        (root / "train" / GOOD / "xyz" / "000.tiff").write_bytes(b"not read")
    (tmp_path / "readme.txt").write_text("beside the classes")
    return tmp_path


@pytest.fixture
def mvtec(tmp_path):
    for name in ("bottle", "zipper"):
        root = tmp_path / name
        write(root / "train" / GOOD / "000.png")
        write(root / "test" / GOOD / "000.png")
        write(root / "test" / "broken" / "000.png")
        write(root / "ground_truth" / "broken" / "000_mask.png", mask(255))
    return tmp_path


def test_visa_follows_its_csv(visa):
    candle, pcb = open_public("visa", visa[0])
    assert (candle.root.name, pcb.root.name) == ("candle", "pcb1")
    assert [sample.path.name for sample in pcb.train] == ["0001.JPG", "0002.JPG"]
    assert [(s.path.parent.name, s.label) for s in pcb.test] == [
        ("Anomaly", "anomaly"),
        ("Normal", GOOD),
    ]
    assert {sample.label for sample in pcb.train} == {GOOD}
    assert not pcb.has_parts


def test_visa_masks_are_defective_above_zero(visa):
    (data,) = open_public("visa", visa[0], ["candle"])
    defective, good = data.test
    drawn = read_mask(defective, (SIDE, SIDE), image_shape=(SIDE, SIDE))
    np.testing.assert_array_equal(drawn, mask(1) > 0)
    assert not read_mask(good, (SIDE, SIDE)).any()


def test_visa_masks_with_a_palette(visa):
    """PNG can store the index and a colour for it; only what is not the background counts."""
    from PIL import Image

    path = visa[0] / "candle/Data/Masks/Anomaly/000.png"
    picture = Image.fromarray(mask(2))
    picture.putpalette([0, 0, 0, 128, 0, 0, 0, 60, 20])
    picture.save(path)
    with Image.open(path) as stored:
        assert stored.mode == "P"
    (data,) = open_public("visa", visa[0], ["candle"])
    drawn = read_mask(data.test[0], (SIDE, SIDE), image_shape=(SIDE, SIDE))
    np.testing.assert_array_equal(drawn, mask(1) > 0)


def test_mvtec3d_reads_colour_images_and_leaves_validation_out(mvtec3d):
    bagel, rope = open_public("mvtec3d", mvtec3d)
    assert (bagel.root.name, rope.root.name) == ("bagel", "rope")
    assert [sample.path.name for sample in bagel.train] == ["000.png", "001.png", "002.png"]
    assert {sample.path.parent.name for sample in bagel.train} == {"rgb"}
    assert [sample.label for sample in bagel.test] == [GOOD, "hole"]
    np.testing.assert_array_equal(read_mask(bagel.test[1], (SIDE, SIDE)), mask(1) > 0)
    assert bagel.test[0].mask_path is None
    (more,) = open_public("mvtec3d", mvtec3d, ["bagel"], with_validation=True)
    assert len(more.train) == 5
    assert more.test == bagel.test


def test_mvtec_classes_are_chosen_by_name(mvtec):
    assert [data.root.name for data in open_public("mvtec", mvtec)] == ["bottle", "zipper"]
    (data,) = open_public("mvtec", mvtec, ["zipper", "zipper"])
    assert data.root == mvtec / "zipper"
    assert data.test[0].mask_path == mvtec / "zipper/ground_truth/broken/000_mask.png"


def test_classes_become_products(visa):
    joined = join_products(open_public("visa", visa[0]))
    assert joined.products == ("candle", "pcb1")
    assert joined.root == visa[0]
    assert [sample.product for sample in joined.train] == ["candle", "pcb1", "pcb1"]
    assert {s.mask_above for s in joined.test if s.is_defective} == {0}


def test_unknown_layout_folder_and_class(mvtec, tmp_path):
    with pytest.raises(DataError, match=r"layout 'coco' is unknown; expected mvtec, visa, mvtec3d"):
        open_public("coco", mvtec)
    with pytest.raises(DataError, match="does not exist; expected the unpacked benchmark 'mvtec'"):
        open_public("mvtec", tmp_path / "missing")
    with pytest.raises(DataError, match="is a file; expected the unpacked benchmark"):
        open_public("mvtec3d", mvtec / "bottle/train/good/000.png")
    with pytest.raises(DataError, match=r"no class 'nut'; expected one of bottle, zipper"):
        open_public("mvtec", mvtec, ["nut"])
    with pytest.raises(DataError, match=r"holds no class; expected CLASS/train/good"):
        open_public("mvtec", mvtec / "bottle")
    # one layout given as another
    with pytest.raises(DataError, match=r"rgb' does not exist; expected the colour images"):
        open_public("mvtec3d", mvtec)
    with pytest.raises(DataError, match=r"1cls\.csv' does not exist; expected a CSV with the col"):
        open_public("visa", mvtec)


def test_mvtec_needs_masks_and_both_kinds_of_test_images(mvtec):
    drawn = mvtec / "zipper/ground_truth/broken/000_mask.png"
    drawn.rename(mvtec / "zipper/000_mask.png")
    with pytest.raises(DataError, match=r"000\.png' has no mask"):
        open_public("mvtec", mvtec)
    drawn.parent.rmdir()
    with pytest.raises(DataError, match=r"has no mask; expected folder '.*ground_truth.broken'"):
        open_public("mvtec", mvtec)
    (mvtec / "zipper/test/broken/000.png").unlink()
    (mvtec / "zipper/test/broken").rmdir()
    with pytest.raises(DataError, match="'zipper' has 1 training images, 1 good and 0 defective"):
        open_public("mvtec", mvtec)
    assert len(open_public("mvtec", mvtec, ["bottle"])) == 1  # the broken one was not asked for


def test_mvtec3d_names_what_is_missing(mvtec3d):
    (mvtec3d / "bagel/test/hole/gt/000.png").unlink()
    with pytest.raises(DataError, match=r"mask of '.*hole.rgb.000\.png' is missing; expected"):
        open_public("mvtec3d", mvtec3d)
    for name in ("000.png", "001.png"):
        (mvtec3d / "rope/validation/good/rgb" / name).unlink()
    assert open_public("mvtec3d", mvtec3d, ["rope"])
    with pytest.raises(DataError, match="holds no image"):
        open_public("mvtec3d", mvtec3d, ["rope"], with_validation=True)
    (mvtec3d / "rope/test").rename(mvtec3d / "rope/tests")
    with pytest.raises(DataError, match=r"test' does not exist; expected test/good/rgb"):
        open_public("mvtec3d", mvtec3d, ["rope"])


@pytest.mark.parametrize("kind", ["Images/Anomaly/000.JPG", "Masks/Anomaly/000.png"])
def test_visa_names_a_missing_file_and_its_line(visa, kind):
    path = visa[0] / "pcb1/Data" / kind
    path.unlink()
    with pytest.raises(DataError, match=r"1cls\.csv', line 5 is missing; expected the file") as e:
        open_public("visa", visa[0])
    assert str(path) in str(e.value)
    assert open_public("visa", visa[0], ["candle"])  # the class that is whole


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("candle,val,normal,{image},", "split is 'val'; expected train or test"),
        ("candle,test,bad,{image},", "label is 'bad'; expected normal or anomaly"),
        ("candle,train,anomaly,{image},{image}", "an anomaly is a training image"),
        ("candle,test,anomaly,{image},", "the anomaly has no mask"),
        ("candle,test,anomaly,{image}", "the anomaly has no mask"),
        ("candle,test,normal,,", "object or image is missing"),
        ("candle,test,normal,pcb1/Data/Images/Normal/0000.JPG,", "lies outside 'candle'"),
        ("candle,test,normal,/etc/hostname,", "lies outside 'candle'"),
        ("candle,test,normal,candle/../pcb1/Data/Images/Normal/0000.JPG,", "lies outside"),
        ("candle,test,normal,{image},", r"is listed in line 6 too; expected each once"),
    ],
)
def test_wrong_rows_of_visa_are_named(visa, row, message):
    root, rows = visa
    write_rows(root, [*rows, row.format(image="candle/Data/Images/Normal/0000.JPG")])
    with pytest.raises(DataError, match=message) as caught:
        open_public("visa", root)
    assert f"line {len(rows) + 2}" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"object,split,label,image\n", "expected a CSV with the columns object,split"),
        (b"", "expected a CSV with the columns"),
        (b"object,split,label,image,mask\n", "lists no image"),
        (b"\xff\xfe\x00", "cannot read"),
    ],
)
def test_wrong_csv_of_visa_is_named(visa, content, message):
    (visa[0] / "split_csv/1cls.csv").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        open_public("visa", visa[0])
    assert "1cls.csv" in str(caught.value)


def test_visa_class_without_training_images_is_refused(visa):
    root, rows = visa
    write_rows(root, [row for row in rows if "candle,train" not in row])
    with pytest.raises(DataError, match="'candle' has 0 training images, 1 good and 1 defective"):
        open_public("visa", root)
