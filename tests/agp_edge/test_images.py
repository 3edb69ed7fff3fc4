"""Image files are read as stored, and refused when they are not whole."""

import cv2
import numpy as np
import pytest

from agp_edge.errors import DataError
from agp_edge.images import IMAGE_SUFFIXES, list_images, read_image


def picture(height=60, width=90, channels=3):
    shape = (height, width, channels) if channels > 1 else (height, width)
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 2.0)


def encoded(suffix, image=None):
    ok, data = cv2.imencode(suffix, picture() if image is None else image)
    assert ok
    return data.tobytes()


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_as_stored(tmp_path, suffix, channels):
    image = picture(channels=channels)
    path = tmp_path / f"ä b{suffix}"
    path.write_bytes(encoded(suffix, image))
    read = read_image(path)
    assert read.dtype == np.uint8
    if suffix == ".webp" and channels == 1:  # the format has no grey
        image = np.repeat(image[:, :, None], 3, axis=2)
    assert read.shape == image.shape
    tolerance = {".jpg": 12, ".jpeg": 12, ".webp": 40}.get(suffix, 0)
    assert np.abs(read.astype(int) - image).max() <= tolerance


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_truncated_at_any_place_names_the_file(tmp_path, suffix):
    data = encoded(suffix)
    path = tmp_path / f"cut{suffix}"
    for length in (0, 1, 3, 20, len(data) // 2, len(data) * 9 // 10, len(data) - 30):
        path.write_bytes(data[:length])
        with pytest.raises(DataError, match=f"cut{suffix}"):
            read_image(path)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_one_missing_byte_is_seen(tmp_path, suffix):
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(encoded(suffix)[:-1])
    with pytest.raises(DataError, match="truncated"):
        read_image(path)


def test_progressive_and_restart_jpegs_are_whole(tmp_path):
    for options in (
        [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
        [cv2.IMWRITE_JPEG_RST_INTERVAL, 2],
    ):
        ok, data = cv2.imencode(".jpg", picture(), options)
        assert ok
        path = tmp_path / "a.jpg"
        path.write_bytes(data.tobytes() + b"trailing bytes of a camera")
        assert read_image(path).shape == (60, 90, 3)
        path.write_bytes(data.tobytes()[: len(data) // 2])
        with pytest.raises(DataError, match="truncated"):
            read_image(path)


def test_end_marker_of_an_embedded_thumbnail_does_not_count(tmp_path):
    data = encoded(".jpg")
    thumbnail = encoded(".jpg", picture(16, 16))
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    path = tmp_path / "a.jpg"
    path.write_bytes(data[:2] + segment + data[2:])
    assert read_image(path).shape == (60, 90, 3)
    path.write_bytes((data[:2] + segment + data[2:])[:-40])
    with pytest.raises(DataError, match="truncated"):
        read_image(path)


def test_flipped_byte_of_a_png_is_seen(tmp_path):
    data = bytearray(encoded(".png"))
    data[len(data) // 2] ^= 0xFF
    path = tmp_path / "a.png"
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"a\.png.*corrupt"):
        read_image(path)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8), np.uint16), "uint16"),
        (np.zeros((8, 8, 3), np.uint16), "uint16"),
        (np.zeros((8, 8, 4), np.uint8), "transparent"),
    ],
)
def test_what_a_camera_frame_cannot_be(tmp_path, image, message):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(".png", image))
    with pytest.raises(DataError, match=message):
        read_image(path)


def test_opaque_alpha_is_dropped(tmp_path):
    image = np.dstack([picture(), np.full((60, 90), 255, np.uint8)])
    path = tmp_path / "a.png"
    path.write_bytes(encoded(".png", image))
    np.testing.assert_array_equal(read_image(path), picture())


def test_not_an_image_and_missing(tmp_path):
    path = tmp_path / "a.png"
    path.write_text("hello")
    with pytest.raises(DataError, match=r"a\.png"):
        read_image(path)
    with pytest.raises(DataError, match=r"b\.png"):
        read_image(tmp_path / "b.png")
    with pytest.raises(DataError, match="directory"):
        read_image(tmp_path)


def test_list_images_sorted_without_hidden_files(tmp_path):
    for name in ("b.PNG", "a.jpg", "._a.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "c.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.jpg", "b.PNG"]


def test_list_images_refuses_missing_file_and_empty(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        list_images(tmp_path / "missing")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a file"):
        list_images(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        list_images(tmp_path / "empty")
