"""Images that change while a training runs, and caches that belong to another network."""

import numpy as np
import pytest
import torch

from agp_edge.errors import DataError
from agp_edge.trainer import loop
from agp_edge.trainer.checkpoint import load_model
from agp_edge.trainer.network import new_model


@pytest.fixture
def folder(small, tmp_path):
    return small.write_images(tmp_path / "good", 20)


def disturb_after(monkeypatch, epoch, change):
    """Calls `change` after an epoch was written."""
    write = loop.write_log

    def disturbing(folder, history):
        write(folder, history)
        if len(history) == epoch:
            change()

    monkeypatch.setattr(loop, "write_log", disturbing)


@pytest.mark.parametrize("cache_gb", [1.0, 0.0])
@pytest.mark.parametrize("how", ["removed", "written to"])
def test_changed_image_stops_and_the_last_good_checkpoint_stays(
    small, folder, monkeypatch, how, cache_gb
):
    tmp_path = folder.parent
    path = folder / "007.png"

    def change():
        if how == "removed":
            path.unlink()
        else:
            path.write_bytes((folder / "008.png").read_bytes())

    disturb_after(monkeypatch, 2, change)
    config = small.train_config(epochs=4, cache_gb=cache_gb)
    message = r"007\.png.*(was changed or removed while|No such file)"
    with pytest.raises(DataError, match=message):
        small.run(
            folder,
            tmp_path / "run",
            model=small.model_config(fine_regions=0, patch_memory=0),
            config=config,
        )
    _, checkpoint = load_model(tmp_path / "run")
    assert checkpoint.finished  # it can be exported
    assert checkpoint.epoch <= 1
    with pytest.raises(DataError, match="other training images"):
        small.run(
            folder,
            tmp_path / "run",
            model=small.model_config(fine_regions=0, patch_memory=0),
            config=config,
            resume=True,
        )


def test_added_images_are_counted(small, folder, tmp_path, monkeypatch):
    disturb_after(
        monkeypatch, 1, lambda: (folder / "new.png").write_bytes((folder / "000.png").read_bytes())
    )
    config = small.train_config(epochs=1)
    result = small.run(
        folder,
        tmp_path / "run",
        model=small.model_config(fine_regions=0, patch_memory=0),
        config=config,
    )
    assert result.added == 1


def test_cache_of_other_weights_is_not_used(small, folder, tmp_path, monkeypatch):
    config = small.train_config(epochs=1)
    model = small.model_config(fine_regions=0, patch_memory=0)
    small.run(folder, tmp_path / "one", model=model, config=config)

    def changed(*arguments):
        network, pretrained = new_model(*arguments)
        with torch.no_grad():
            for parameter in network.backbone.parameters():
                parameter.mul_(1.3)
        return network, pretrained

    monkeypatch.setattr("agp_edge.trainer.train.new_model", changed)
    small.run(folder, tmp_path / "two", model=model, config=config)
    caches = sorted((tmp_path / "cache").glob("*.npy"))
    assert len(caches) == 2
    assert not np.array_equal(*(np.load(path) for path in caches))
