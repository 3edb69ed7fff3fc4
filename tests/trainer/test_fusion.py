"""Fusion of layers and whitening."""

import math

import pytest
import torch

from agp_edge.errors import ModelError
from agp_edge.trainer.fusion import Centring, Fusion, Whitening


def maps(*shapes):
    torch.manual_seed(0)
    return [torch.randn(2, *shape) for shape in shapes]


def test_layers_are_concatenated_on_one_grid():
    features = maps((3, 16, 16), (5, 8, 8), (7, 4, 4))
    fusion = Fusion((3, 5, 7), (8, 8), pool=1, normalise="none")
    tokens = fusion(features)
    assert tokens.shape == (2, 64, 15)
    assert fusion.channels == 15
    # the finer layer: means of 2 x 2; row 1, column 2 of the grid is token 10
    expected = features[0][:, :, 2:4, 4:6].mean(dim=(2, 3))
    torch.testing.assert_close(tokens[:, 10, :3], expected)
    torch.testing.assert_close(tokens[:, 10, 3:8], features[1][:, :, 1, 2])


def test_equal_widths_are_summed_by_default():
    features = maps((4, 8, 8), (4, 8, 8))
    tokens = Fusion((4, 4), (8, 8), pool=1, normalise="none")(features)
    torch.testing.assert_close(tokens, (features[0] + features[1]).flatten(2).transpose(1, 2))
    assert Fusion((4, 4), (8, 8), fuse="concat").channels == 8


def test_each_layer_is_normalised_per_token():
    features = maps((30, 8, 8), (50, 8, 8))
    tokens = Fusion((30, 50), (8, 8), pool=1, normalise="layer")(features)
    for part in (tokens[..., :30], tokens[..., 30:]):
        torch.testing.assert_close(part.mean(2), torch.zeros(2, 64), atol=1e-5, rtol=0)
        torch.testing.assert_close(part.square().mean(2), torch.ones(2, 64), atol=1e-3, rtol=0)
    tokens = Fusion((30, 50), (8, 8), pool=1, normalise="l2")(features)
    torch.testing.assert_close(
        tokens[..., :30].square().mean(2), torch.ones(2, 64), atol=1e-3, rtol=0
    )


def test_pooling_leaves_a_constant_alone_up_to_the_border():
    tokens = Fusion((2,), (4, 4), pool=3, normalise="none")([torch.ones(1, 2, 4, 4)])
    torch.testing.assert_close(tokens, torch.ones(1, 16, 2))


@pytest.mark.parametrize(
    "settings",
    [{"normalise": "batch"}, {"fuse": "mean"}, {"fuse": "sum"}, {"pool": 2}, {"pool": 0}],
)
def test_wrong_settings_are_named(settings):
    with pytest.raises(ModelError, match=next(iter(settings))):
        Fusion((3, 5), (8, 8), **settings)


def correlated(count=4000, channels=6):
    torch.manual_seed(1)
    mixing = torch.randn(channels, channels)
    return torch.randn(count, channels) @ mixing + 100.0


def test_whitened_tokens_have_no_mean_and_unit_covariance():
    tokens = correlated()
    whitening = Whitening(6)
    torch.testing.assert_close(whitening(tokens), tokens)  # the identity before it is fitted
    whitening.fit(tokens.reshape(10, 20, 20, 6), shrinkage=0.0)
    white = whitening(tokens)
    torch.testing.assert_close(white.mean(0), torch.zeros(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.cov(white.T), torch.eye(6), atol=2e-3, rtol=0)


def test_components_keep_the_largest_variances():
    tokens = torch.randn(4000, 3) * torch.tensor([1.0, 10.0, 0.1])
    whitening = Whitening(3, components=1)
    whitening.fit([tokens], shrinkage=0.0)
    white = whitening(tokens)
    assert white.shape == (4000, 1)
    assert abs(torch.corrcoef(torch.stack([white[:, 0], tokens[:, 1]]))[0, 1]) > 0.99


def test_shrinkage_keeps_small_variances_small():
    tokens = torch.randn(4000, 2) * torch.tensor([1.0, 1e-4])
    whitening = Whitening(2)
    whitening.fit([tokens], shrinkage=0.01)
    variances = whitening(tokens).var(0)
    assert variances[0] == pytest.approx(1.0, abs=0.05)
    assert variances[1] < 1e-4


def test_whitening_refuses_what_it_cannot_use():
    with pytest.raises(ModelError, match="no tokens"):
        Whitening(2).fit([], 0.01)
    with pytest.raises(ModelError, match="equal"):
        Whitening(2).fit([torch.ones(10, 2)], 0.01)
    with pytest.raises(ModelError, match="not finite"):
        Whitening(2).fit([torch.tensor([[1.0, math.nan], [1.0, 2.0]])], 0.01)
    with pytest.raises(ModelError, match="components"):
        Whitening(2, components=3)


def test_centring_keeps_distances_to_one_factor():
    torch.manual_seed(0)
    tokens = torch.randn(4, 50, 6) * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 60.0]) + 100.0
    centring = Centring(6)
    assert torch.equal(centring(tokens), tokens)
    centring.fit(tokens.split(2))
    found = centring(tokens)
    torch.testing.assert_close(found.mean(dim=(0, 1)), torch.zeros(6), atol=1e-4, rtol=0)
    assert float(found.square().mean()) == pytest.approx(1.0, rel=1e-3)
    far, near = torch.cdist(tokens, tokens), torch.cdist(found, found)
    # a token is not quite at no distance from itself, by rounding
    torch.testing.assert_close(far * float(centring.gain), near, atol=1e-2, rtol=1e-3)
    with pytest.raises(ModelError, match="all blank"):
        centring.fit([torch.ones(2, 3, 6)])
    with pytest.raises(ModelError, match="at least one image"):
        centring.fit([])
