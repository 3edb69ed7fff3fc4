"""A checkpoint rebuilds its model from the folder alone, and damage is found."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from agp_edge.errors import ModelError
from agp_edge.trainer.checkpoint import FORMAT, load_model, read_checkpoint
from agp_edge.trainer.config import (
    ModelConfig,
    TrainConfig,
    config_from_dict,
    config_to_dict,
)
from agp_edge.trainer.state import read_state

MAJOR = int(FORMAT.split(".")[0])


@pytest.fixture(scope="module")
def trained(small, images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    small.run(images, folder, config=small.train_config(epochs=1))
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def test_model_is_rebuilt_from_any_of_the_paths(small, folder):
    image = torch.randn(1, 3, small.SIZE, small.SIZE)
    model, checkpoint = load_model(folder)
    assert not model.training
    assert checkpoint.finished
    assert checkpoint.weights_source == "random"
    assert checkpoint.versions.keys() == {"agp-edge", "torch", "timm"}
    with torch.no_grad():
        expected = model(image)
        for name in ("checkpoint.json", "checkpoint.safetensors"):
            assert torch.equal(load_model(folder / name)[0](image), expected)
    assert expected.shape == (1, 1, 8, 8)


def test_checkpoint_is_json_and_safetensors_without_pickle(folder):
    json.loads((folder / "checkpoint.json").read_text())
    for path in folder.iterdir():
        assert b"pickle" not in path.read_bytes()[:4096]
    assert {path.name for path in folder.iterdir()} == {
        "checkpoint.json", "checkpoint.safetensors", "log.jsonl", "loss.png", "state.safetensors"
    }  # fmt: skip


@pytest.mark.parametrize("name", ["checkpoint.json", "checkpoint.safetensors"])
def test_missing_or_cut_file_is_named(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ModelError, match=name):
        load_model(folder)
    path.unlink()
    with pytest.raises(ModelError, match=rf"{name}' does not exist"):
        load_model(folder)


def test_weights_that_the_json_does_not_know_speak_for_themselves(small, images, folder, tmp_path):
    """As after a kill between the two files."""
    other = tmp_path / "other"
    small.run(images, other, config=small.train_config(epochs=1, seed=5))
    shutil.copy(other / "checkpoint.safetensors", folder / "checkpoint.safetensors")
    _, checkpoint = load_model(folder)
    assert checkpoint == load_model(other)[1]
    assert checkpoint.train.seed == 5


def test_foreign_weights_are_refused(folder):
    save_file({"weight": torch.zeros(2)}, folder / "checkpoint.safetensors")
    with pytest.raises(ModelError, match=r"checkpoint\.safetensors' is not a checkpoint of ours"):
        load_model(folder)


def change(folder, **changes):
    path = folder / "checkpoint.json"
    document = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            del document[key]
        else:
            document[key] = value
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": f"{MAJOR + 1}.0"}, f"format {MAJOR + 1}.0"),
        ({"format": f"{MAJOR - 1}.0"}, "no more; train again"),
        ({"format": None}, "not a checkpoint"),
        ({"format": 1}, "not a checkpoint"),
        ({"model": {"colour": 1}}, "unknown setting 'colour'"),
        ({"model": {"height": "big"}}, "'height' is 'big'; expected a int"),
        ({"held_out": None}, "not a checkpoint"),
    ],
)
def test_wrong_document_is_named(folder, changes, message):
    change(folder, **changes)
    with pytest.raises(ModelError, match=message) as caught:
        read_checkpoint(folder)
    assert "checkpoint.json" in str(caught.value)


def test_newer_minor_format_is_read(folder):
    change(folder, format=f"{MAJOR}.7")
    read_checkpoint(folder)


def test_not_a_checkpoint_at_all(tmp_path):
    with pytest.raises(ModelError, match="agp-edge train"):
        load_model(tmp_path)


def test_configs_survive_json():
    for config in (ModelConfig(layers=(1, 2), sigma=2.0), TrainConfig(seed=3, alpha=0.25)):
        document = json.loads(json.dumps(config_to_dict(config)))
        assert config_from_dict(type(config), document, "here") == config
    assert config_from_dict(ModelConfig, {}, "here") == ModelConfig()


def test_damaged_state_is_refused(folder):
    path = folder / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ModelError, match=r"state\.safetensors"):
        read_state(folder)
    shutil.copy(folder / "checkpoint.safetensors", path)
    with pytest.raises(ModelError, match="not a training state"):
        read_state(folder)
    path.unlink()
    assert read_state(folder) is None
