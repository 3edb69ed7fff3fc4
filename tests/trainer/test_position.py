"""Position scaling: all grid positions equally strict; harmless where nothing can be learnt."""

import pytest
import torch

from agp_edge.errors import ModelError
from agp_edge.trainer.position import PositionScale

GRID = (3, 4)


def maps(count: int, seed: int = 0) -> torch.Tensor:
    """Distance maps whose positions differ in mean and spread."""
    generator = torch.Generator().manual_seed(seed)
    mean = 1.0 + torch.rand(GRID, generator=generator)
    spread = 0.1 + torch.rand(GRID, generator=generator)
    return mean + spread * torch.randn((count, 1, *GRID), generator=generator)


def test_identity_until_fitted():
    distance = maps(5)
    assert torch.equal(PositionScale(GRID)(distance), distance)


def test_many_images_get_the_same_mean_and_spread_everywhere():
    good = maps(5000)
    scale = PositionScale(GRID)
    scale.fit(good.split(64))
    scaled = scale(good)[:, 0]
    own_mean, own_spread = good[:, 0].mean(dim=0), good[:, 0].std(dim=0)
    assert own_spread.max() > 3 * own_spread.min()  # there was something to do
    torch.testing.assert_close(
        scaled.mean(dim=0), own_mean.mean().expand(GRID), rtol=0.01, atol=0.01
    )
    torch.testing.assert_close(
        scaled.std(dim=0), own_spread.mean().expand(GRID), rtol=0.02, atol=0.0
    )


def test_order_at_one_position_is_kept():
    scale = PositionScale(GRID)
    scale.fit([maps(20)])
    steps = torch.linspace(-1.0, 5.0, 7).reshape(-1, 1, 1, 1).expand(-1, 1, *GRID)
    assert (scale(steps).diff(dim=0) > 0).all()


def test_batches_do_not_matter():
    good = maps(37)
    whole, cut = PositionScale(GRID), PositionScale(GRID)
    whole.fit([good])
    cut.fit(good.split(5))
    torch.testing.assert_close(whole.mean, cut.mean)
    torch.testing.assert_close(whole.spread, cut.spread)


def test_copies_tell_no_more_than_their_images():
    good = maps(3)
    few, copied, many = PositionScale(GRID), PositionScale(GRID), PositionScale(GRID)
    few.fit([good])
    copied.fit([good] * 40, copies=40)
    many.fit([good] * 40)
    torch.testing.assert_close(copied.mean, few.mean)
    torch.testing.assert_close(copied.spread, few.spread)
    assert many.mean.std() > 1.5 * few.mean.std()  # 3 images count as 3 of 7, 120 as 120 of 124


@pytest.mark.parametrize("good", [maps(1), maps(1).repeat(4, 1, 1, 1)], ids=["one", "identical"])
def test_without_variation_nothing_is_amplified(good):
    scale = PositionScale(GRID)
    scale.fit([good])
    assert torch.equal(scale.spread, torch.ones(GRID))
    assert torch.isfinite(scale(good)).all()


def test_a_constant_position_is_not_blown_up():
    good = maps(200)
    good[:, :, 1, 1] = 2.0
    scale = PositionScale(GRID)
    scale.fit([good])
    assert scale.spread.mean() / scale.spread[1, 1] < 11


def test_no_map_and_a_broken_map_are_refused():
    with pytest.raises(ModelError, match="at least one image"):
        PositionScale(GRID).fit([])
    broken = maps(3)
    broken[1, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        PositionScale(GRID).fit([broken])
