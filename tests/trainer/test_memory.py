"""The memories: nearest prototypes, fitted on good tokens; silent until calibrated; in the file."""

import dataclasses

import pytest
import torch

from agp_edge.dataset import Sample
from agp_edge.errors import ModelError
from agp_edge.trainer.checkpoint import load_model, read_checkpoint
from agp_edge.trainer.data import ImageReader
from agp_edge.trainer.memory import FineMemory, Memory
from agp_edge.trainer.memory_training import fit_fine_memory

MEAN, STD = (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)


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


def test_the_fine_memory_is_silent_until_calibrated(small):
    model = small.new_model(small.model_config(decoder="memory", memory=6))
    without = small.new_model(small.model_config(decoder="memory", memory=6, fine_memory=0))
    without.load_state_dict(model.state_dict(), strict=False)
    image = torch.rand(2, 3, small.SIZE, small.SIZE)
    assert without.output_grid == without.grid
    finer = torch.nn.functional.interpolate(
        without(image), model.output_grid, mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(model(image), finer)


def test_calibration_weighs_standard_deviations():
    fine = FineMemory((5, 7), (8, 8), 4, position=False)
    placed, coarse = 3.0 + 2.0 * torch.randn(40, 1, 8, 8), 0.7 + 0.2 * torch.randn(40, 1, 4, 4)
    fine.calibrate(placed, coarse, 0.5)
    evidence = fine.gain * (placed - fine.offset)
    assert float(evidence.mean()) == pytest.approx(0.0, abs=1e-4)
    assert float(evidence.std()) == pytest.approx(0.5 * float(coarse.std()), rel=1e-3)


def test_it_sees_a_thin_scratch_that_the_coarse_grid_does_not(small, tmp_path):
    """A line of one pixel in good texture stands out more on the fine grid."""
    torch.manual_seed(0)  # of the backbone's weights
    files = sorted(small.write_images(tmp_path / "good", 24).iterdir())
    reader = ImageReader(small.SIZE, small.SIZE, MEAN, STD)
    model = small.new_model(small.model_config(decoder="memory", memory=8))
    samples = [Sample(path, "good") for path in files]
    fit_fine_memory(
        model, samples, weight=0.5, shrinkage=0.03, seed=0, reader=reader, progress=False
    )
    assert model.fine is not None
    image = reader.read([samples[0]])
    marked = image.clone()
    marked[:, :, small.SIZE // 2, small.SIZE // 4 : -small.SIZE // 4] = 1.0
    with torch.no_grad():
        good, bad = (model.fine(model.backbone(batch))[0, 0] for batch in (image, marked))
    row = model.output_grid[0] // 2
    change = (bad - good).abs()
    assert change[row - 1 : row + 1].max() > 3 * float(good.std())
    # an untrained backbone smears, yet what changes most lies at the line
    assert float(change[row - 2 : row + 2].mean()) > 2 * float(change[: row - 2].mean())


@pytest.mark.parametrize("changes", [{}, {"fine_memory": 0}, {"position_scale": False}])
def test_a_run_remembers_and_resumes(small, images, tmp_path, changes, monkeypatch):
    config = small.model_config(decoder="memory", memory=16, **changes)
    result = small.run(images, tmp_path / "whole", model=config)
    assert result.epochs == 1
    model, checkpoint = load_model(tmp_path / "whole")
    assert checkpoint.finished
    assert model.decoder.prototypes.abs().max() > 0
    if changes.get("fine_memory") == 0:
        return
    assert float(model.fine.gain) > 0

    def cut(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("agp_edge.trainer.memory_training.fit_fine_memory", cut)
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
