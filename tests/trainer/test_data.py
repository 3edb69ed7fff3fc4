"""Training images: the same preprocessing as on the line, the split, the hash."""

import numpy as np
import pytest
import torch

from agp_edge import _core
from agp_edge.dataset import open_dataset
from agp_edge.errors import DataError
from agp_edge.images import list_images, read_image
from agp_edge.trainer.config import TrainConfig
from agp_edge.trainer.data import ImageReader, training_data

MEAN, STD = (10.0, 20.0, 30.0), (50.0, 60.0, 70.0)


def test_images_come_through_the_preprocessing_of_the_line(images):
    paths = list_images(images)[:3]
    batch = ImageReader(64, 48, MEAN, STD).read(paths)
    assert batch.shape == (3, 3, 64, 48)
    assert batch.dtype == torch.float32
    line = _core.Preprocessor(height=64, width=48, mean=MEAN, std=STD)
    for path, image in zip(paths, batch, strict=True):
        np.testing.assert_array_equal(image.numpy(), line.run(read_image(path)))


def test_batches_cover_all_images_in_order(images):
    paths = list_images(images)
    reader = ImageReader(64, 64, MEAN, STD)
    parts = list(reader.batches(paths, 8, desc="test", progress=False))
    assert [part for part, _ in parts] == [slice(0, 8), slice(8, 16), slice(16, 20)]
    assert torch.equal(parts[2][1], reader.read(paths[16:]))


def test_hash_follows_names_and_bytes(small, tmp_path):
    def digest(folder):
        return training_data(open_dataset(folder), TrainConfig(), progress=False).digest

    folder = small.write_images(tmp_path / "a", 6)
    other = small.write_images(tmp_path / "b", 6)
    assert digest(folder) == digest(other)  # wherever they lie
    (other / "005.png").rename(other / "006.png")
    assert digest(folder) != digest(other)
    (other / "006.png").rename(other / "005.png")
    (other / "005.png").write_bytes((folder / "004.png").read_bytes())
    assert digest(folder) != digest(other)


def test_unreadable_image_is_named(small, tmp_path):
    folder = small.write_images(tmp_path / "a", 3)
    (folder / "001.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"001\.png"):
        ImageReader(64, 64, MEAN, STD).read(list_images(folder))
