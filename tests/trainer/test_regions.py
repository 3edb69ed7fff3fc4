"""Gaussians per region: the Mahalanobis distance of each region's good tokens, of any grid."""

import numpy as np
import pytest
import torch

from agp_edge.errors import ModelError
from agp_edge.trainer.checkpoint import load_model
from agp_edge.trainer.export import onnx_from_checkpoint
from agp_edge.trainer.regions import Gaussians


def tokens_of(images, grid, channels=3, seed=0):
    """Tokens whose spread along the channels depends on the column."""
    random = torch.Generator().manual_seed(seed)
    drawn = torch.randn(images, *grid, channels, generator=random)
    scale = torch.linspace(0.7, 1.4, grid[1])[:, None] * torch.tensor([1.0, 0.8, 1.2])
    return (drawn * scale + torch.arange(grid[0])[:, None, None]).reshape(images, -1, channels)


@pytest.mark.parametrize(
    ("grid", "regions", "cell"), [((8, 8), 4, (2, 2)), ((6, 9), 4, (2, 3)), ((7, 5), 3, (3, 2))]
)
def test_distance_is_mahalanobis_in_each_region(grid, regions, cell):
    images = 4000  # so many that the common covariance hardly counts
    good = tokens_of(images, grid)
    gaussian = Gaussians(3, grid, regions)
    assert gaussian.cell == cell
    gaussian.fit(good[start : start + 500] for start in range(0, images, 500))
    probe = tokens_of(5, grid, seed=1)
    found = gaussian.distance(probe).reshape(5, *grid)
    placed, asked = good.reshape(images, *grid, 3).numpy(), probe.reshape(5, *grid, 3).numpy()
    for row in range(0, grid[0], cell[0]):
        for column in range(0, grid[1], cell[1]):
            here = np.s_[:, row : row + cell[0], column : column + cell[1]]
            own = placed[here].reshape(-1, 3)
            away = asked[here] - own.mean(axis=0)
            inverse = np.linalg.inv(np.cov(own.T))
            square = np.einsum("...i,ij,...j->...", away, inverse, away)
            np.testing.assert_allclose(found[here], np.sqrt(square / 3), rtol=0.04)
            rebuilt = gaussian(probe).reshape(5, *grid, 3)[here].reshape(-1, 3)
            assert np.abs(rebuilt.numpy() - own.mean(axis=0)).max() < 1e-4


def test_few_images_lean_on_the_whole_image():
    """Along a direction that two images do not show, a covariance of their own would be zero."""
    gaussian = Gaussians(3, (4, 4), 4)
    good = tokens_of(2, (4, 4))
    good[:, :, 1] = 0.0
    gaussian.fit([good])
    off = good.clone()
    off[:, :, 1] = 1.0
    assert float(gaussian.distance(off).max()) < 10.0
    assert float(gaussian.distance(off).min()) > float(gaussian.distance(good).min())


def test_until_it_is_fitted_it_is_the_length_of_whitened_tokens():
    tokens = torch.randn(2, 35, 3)
    found = Gaussians(3, (7, 5), 3).distance(tokens)
    expected = tokens.square().mean(2).sqrt()
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_wide_backbones_get_fewer_regions_and_wrong_numbers_are_named():
    assert Gaussians(2000, (16, 16), 8).regions == (2, 2)
    assert Gaussians(3, (4, 4), 8).regions == (4, 4)
    with pytest.raises(ModelError, match="0 regions"):
        Gaussians(3, (4, 4), 0)
    with pytest.raises(ModelError, match="no tokens"):
        Gaussians(3, (4, 4), 2).fit([])


@pytest.mark.parametrize(
    "changes", [{}, {"regions": 3, "fine_regions": 5}, {"fine_regions": 0}, {"patch_memory": 0}]
)
def test_a_run_fits_and_exports_them(small, images, tmp_path, changes):
    config = small.model_config(decoder="regions", **changes)
    result = small.run(images, tmp_path / "run", model=config)
    assert result.epochs == 1
    model, checkpoint = load_model(tmp_path / "run")
    assert checkpoint.finished
    assert not torch.equal(model.decoder.matrix[0], model.decoder.matrix[1])
    with torch.no_grad():
        target = model.target(torch.rand(2, 3, small.SIZE, small.SIZE))
        assert model.decoder(target).shape == target.shape
    # which compares the file with torch, score by score
    onnx_from_checkpoint(tmp_path / "run", tmp_path / "model.onnx", progress=False)
    small.compile_plans(tmp_path / "model.onnx")
