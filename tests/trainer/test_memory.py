"""The memory: nearest prototypes, fitted on good tokens; in the file."""

import dataclasses

import pytest
import torch

from agp_edge.errors import ModelError
from agp_edge.trainer.checkpoint import load_model, read_checkpoint
from agp_edge.trainer.memory import Memory


def filled(count=5, channels=3):
    memory = Memory(channels, count)
    memory.prototypes.copy_(
        torch.randn(count, channels, generator=torch.Generator().manual_seed(1))
    )
    return memory


def test_distance_is_to_the_nearest_prototype():
    memory = filled()
    tokens = torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(2))
    apart = torch.cdist(tokens, memory.prototypes.expand(2, -1, -1))
    torch.testing.assert_close(memory.distance(tokens), apart.amin(2) / 3**0.5, atol=1e-3, rtol=0)
    torch.testing.assert_close(memory(tokens), memory.prototypes[apart.argmin(2)])


def test_until_it_is_fitted_it_is_the_mean_of_whitened_tokens():
    tokens = torch.randn(2, 7, 3)
    torch.testing.assert_close(
        Memory(3, 4).distance(tokens), tokens.square().mean(2).sqrt(), atol=1e-3, rtol=1e-3
    )


def test_prototypes_find_clusters_and_repeat_where_tokens_are_few():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    random = torch.Generator().manual_seed(0)
    tokens = centres.repeat(16, 1) + 0.1 * torch.randn(48, 2, generator=random)
    memory = Memory(2, 8)
    memory.fit(tokens, seed=0)  # 48 tokens are enough for three prototypes
    assert len(torch.unique(memory.prototypes, dim=0)) == 3
    again = Memory(2, 8)
    again.fit(tokens, seed=0)
    assert torch.equal(memory.prototypes, again.prototypes)
    memory.fit(torch.ones(64, 2), seed=0)  # identical images
    assert torch.equal(memory.prototypes, torch.ones(8, 2))


@pytest.mark.parametrize(
    "changes",
    [{}, {"fine_regions": 0}, {"fine_regions": 0, "patch_memory": 0}, {"position_scale": False}],
)
def test_a_run_remembers_and_resumes(small, images, tmp_path, changes, monkeypatch):
    config = small.model_config(decoder="memory", memory=16, **changes)
    result = small.run(images, tmp_path / "whole", model=config)
    assert result.epochs == 1
    model, checkpoint = load_model(tmp_path / "whole")
    assert checkpoint.finished
    assert model.decoder.prototypes.abs().max() > 0
    if changes.get("patch_memory") == 0:
        return
    assert all(float(fine.gain) > 0 for fine in model.fine_maps())

    def cut(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("agp_edge.trainer.fine_training.fit_fine", cut)
        with pytest.raises(KeyboardInterrupt):
            small.run(images, tmp_path / "cut", model=config)
    assert not read_checkpoint(tmp_path / "cut")[0].finished
    small.run(images, tmp_path / "cut", model=config, resume=True)
    first, second = (load_model(tmp_path / name)[0].state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_wrong_settings_are_named(small):
    with pytest.raises(ModelError, match="0 prototypes"):
        Memory(3, 0)
    config = small.model_config(decoder="memory")
    with pytest.raises(ModelError, match="distance is 'cosine'"):
        small.new_model(dataclasses.replace(config, distance="cosine"))
