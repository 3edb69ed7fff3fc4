"""The border: peaks of the outermost tokens count less, what is usual and what is inside stays."""

import pytest
import torch

from agp_edge.dataset import Sample
from agp_edge.errors import ModelError
from agp_edge.trainer.border import Border
from agp_edge.trainer.data import ImageReader
from agp_edge.trainer.fine_training import fit_fine

MEAN, STD = (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)


def test_only_peaks_of_the_outermost_tokens_count_less():
    torch.manual_seed(0)
    border = Border((6, 8), weight=0.25, deviations=2.0)
    distance = 5.0 + torch.randn(30, 1, 6, 8)
    assert torch.equal(border(distance), distance)  # nothing is known yet
    border.fit(distance.split(10))
    limit = float(distance.mean() + 2.0 * distance.std())
    assert float(border.limit) == pytest.approx(limit, abs=1e-3)
    found = border(distance)
    assert torch.equal(found[..., 1:-1, 1:-1], distance[..., 1:-1, 1:-1])
    low = distance <= border.limit
    assert torch.equal(found[low], distance[low])
    outermost = torch.ones(6, 8, dtype=torch.bool)
    outermost[1:-1, 1:-1] = False
    high = (distance > border.limit) & outermost
    assert high.any()
    expected = border.limit + 0.25 * (distance[high] - border.limit)
    torch.testing.assert_close(found[high], expected)


@pytest.mark.parametrize("grid", [(1, 1), (2, 5), (1, 4)])
def test_a_grid_may_be_all_border(grid):
    border = Border(grid, weight=0.0, deviations=1.0)
    border.fit([torch.zeros(3, 1, *grid)])
    assert torch.equal(border(torch.ones(1, 1, *grid)), torch.zeros(1, 1, *grid))


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
    expected = float(whole.mean() + small.model_config().border_limit * whole.std())
    assert float(border.limit) == pytest.approx(expected, rel=0.02)  # tokens were kept in fp16


def test_a_network_may_have_none(small):
    assert small.new_model(small.model_config(border_weight=1.0)).border is None
    assert small.new_model(small.model_config(fine_regions=0, patch_memory=0)).border is None
    with pytest.raises(ModelError, match=r"border_weight is 1\.5; expected 0 to 1"):
        small.new_model(small.model_config(border_weight=1.5))
