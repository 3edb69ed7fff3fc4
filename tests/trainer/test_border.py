"""The border: false peaks of the outermost tokens count less, what is usual and inside stays."""

import pytest
import torch

from agp_edge.dataset import Sample
from agp_edge.errors import ModelError
from agp_edge.trainer.border import Border
from agp_edge.trainer.data import ImageReader
from agp_edge.trainer.fine_training import fit_fine

MEAN, STD = (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)
GRID = (6, 8)


def outermost() -> torch.Tensor:
    there = torch.ones(GRID, dtype=torch.bool)
    there[1:-1, 1:-1] = False
    return there


def good_maps(border_peaks: float) -> torch.Tensor:
    """Noise with some peaks of 2 inside, and more of the given height at the border."""
    torch.manual_seed(0)
    maps = 5.0 + 0.1 * torch.randn(200, 1, *GRID)
    maps[::10, 0, 3, 3] += 2.0
    maps[::4, 0, 0, 2] += border_peaks
    return maps


def test_false_peaks_at_the_border_come_to_count_like_those_inside():
    border, maps = Border(GRID, 3.0), good_maps(4.0)
    assert torch.equal(border(maps), maps)  # nothing is known yet
    border.fit(maps)
    limit = float(maps.mean() + 3.0 * maps.std())
    assert float(border.limit) == pytest.approx(limit, abs=1e-3)
    assert 0.0 < float(border.weight) < 0.5
    found, there = border(maps), outermost()
    excess = torch.relu(found - border.limit)
    assert float(excess[..., there].mean()) == pytest.approx(
        float(excess[..., ~there].mean()), rel=1e-3
    )
    assert torch.equal(found[..., ~there], maps[..., ~there])
    usual = maps <= border.limit
    assert torch.equal(found[usual], maps[usual])
    # a higher peak stays the higher one
    assert float(border(maps + 1.0)[0, 0, 0, 2]) > float(found[0, 0, 0, 2])


def test_a_border_without_false_peaks_counts_in_full():
    border, maps = Border(GRID, 3.0), good_maps(0.0)
    border.fit(maps)
    assert float(border.weight) == 1.0
    assert torch.equal(border(maps + 3.0), maps + 3.0)


@pytest.mark.parametrize("grid", [(1, 1), (2, 5), (1, 4)])
def test_a_grid_that_is_all_border_has_nothing_to_compare(grid):
    border = Border(grid, 1.0)
    border.fit(torch.rand(30, 1, *grid))
    assert float(border.weight) == 1.0


@pytest.mark.parametrize("deviations", [-1.0, 0.0, float("nan")])
def test_a_limit_below_the_mean_is_refused(deviations):
    with pytest.raises(ModelError, match=r"border_deviations is .*; expected more than 0"):
        Border(GRID, deviations)


def test_identical_images_change_nothing():
    border = Border(GRID, 3.0)
    border.fit(torch.ones(4, 1, *GRID))
    assert float(border.weight) == 1.0


def test_the_limit_is_that_of_the_whole_map(small, tmp_path):
    torch.manual_seed(0)  # of the backbone's weights
    files = sorted(small.write_images(tmp_path / "good", 12).iterdir())
    reader = ImageReader(small.SIZE, small.SIZE, MEAN, STD)
    model = small.new_model(small.model_config())
    samples = [Sample(path, "good") for path in files]
    fit_fine(model, samples, shrinkage=0.03, seed=0, reader=reader, progress=False)
    border, model.border = model.border, None
    with torch.no_grad():
        whole = model(reader.read(samples))
    expected = float(whole.mean() + small.model_config().border_deviations * whole.std())
    assert float(border.limit) == pytest.approx(expected, rel=0.02)  # tokens were kept in fp16


def test_a_network_may_have_none(small):
    assert small.new_model(small.model_config(border_deviations=0.0)).border is None
    assert small.new_model(small.model_config(fine_regions=0, patch_memory=0)).border is None
