"""Masks, noise and momentum copy of the perturbation branch."""

import pytest
import torch
from torch import nn

from agp_edge.trainer.decoder import TransformerDecoder
from agp_edge.trainer.perturbation import (
    attention_prior,
    border_prior,
    combined_mask,
    drop_tokens,
    energy_prior,
    minmax,
    momentum_copy,
    perturb_image,
    perturb_tokens,
    rising,
    update_momentum,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_minmax_is_per_image_and_survives_a_constant():
    mask = torch.tensor([[1.0, 2.0, 3.0], [10.0, 30.0, 20.0], [5.0, 5.0, 5.0]])
    expected = torch.tensor([[0.0, 0.5, 1.0], [0.0, 1.0, 0.5], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(minmax(mask), expected)


def test_combined_mask_is_the_sum_of_both():
    prior, learned = torch.rand(4, 9), torch.rand(4, 9)
    mask = combined_mask(prior, learned)
    torch.testing.assert_close(mask, minmax(prior) + minmax(learned))
    assert mask.min() >= 0.0
    assert mask.max() <= 2.0
    torch.testing.assert_close(combined_mask(prior, None), minmax(prior))


def test_attention_prior_is_what_the_class_token_looks_at():
    scores = torch.zeros(2, 3, 5, 5)
    scores[0, :, 0, 2] = 9.0  # the class token of image 0 looks at image token 1
    scores[1, :, 0, 4] = 9.0
    prior = attention_prior([scores.softmax(3)] * 2, prefix_tokens=1)
    assert prior.shape == (2, 4)
    assert prior.argmax(1).tolist() == [1, 3]
    # without a class token: what all tokens look at
    received = attention_prior([scores[:, :, 1:, 1:].softmax(3)], prefix_tokens=0)
    torch.testing.assert_close(received.sum(1), torch.ones(2))


def test_no_attention_over_the_grid_gives_no_prior():
    assert attention_prior([], 0) is None
    windows = [torch.rand(8, 3, 4, 4), torch.rand(2, 3, 16, 16)]
    assert attention_prior(windows, 0) is None


def test_energy_prior_finds_the_active_region():
    fine, coarse = torch.rand(2, 3, 8, 8) * 0.1, torch.rand(2, 5, 2, 2) * 0.1
    fine[:, :, 4:, 4:] += 3.0
    coarse[:, :, 1, 1] += 3.0
    prior = energy_prior([fine, coarse], (4, 4))
    assert prior.shape == (2, 16)
    assert prior.min() >= 0.0
    assert prior.max() <= 1.0
    grid = prior.reshape(2, 4, 4)
    assert (grid[:, 3, 3] > grid[:, 0, 0] + 0.5).all()


def test_border_prior_finds_what_differs_from_the_border():
    tokens = torch.zeros(1, 25, 4)
    tokens[:, 12] = 1.0
    prior = border_prior(tokens, (5, 5))
    assert prior.argmax() == 12
    assert prior[0, 0] == 0.0


def test_schedule_rises_from_nothing_to_one():
    values = [rising(epoch, 5) for epoch in range(5)]
    assert values == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert rising(0, 1) == 1.0


def test_energy_of_feature_noise():
    """The noise's RMS is the token's RMS times alpha * minmax(A) + beta."""
    clean = torch.randn(2, 4, 20000, generator=generator(1))
    clean[:, 1] *= 5.0
    mask = torch.tensor([[0.0, 1.0, 2.0, 1.0]]).repeat(2, 1)
    noisy = perturb_tokens(clean, mask, alpha=2.0, beta=0.5, generator=generator())
    size = clean.square().mean(2).sqrt()
    got = (noisy - clean).square().mean(2).sqrt() / size
    expected = torch.tensor([[0.5, 1.5, 2.5, 1.5]]).repeat(2, 1)
    torch.testing.assert_close(got, expected, rtol=0.03, atol=0.0)


def test_uniform_noise_is_the_same_everywhere():
    clean = torch.randn(1, 4, 20000, generator=generator(1))
    noisy = perturb_tokens(clean, None, alpha=1.0, beta=0.5, generator=generator())
    got = (noisy - clean).square().mean(2).sqrt() / clean.square().mean(2).sqrt()
    torch.testing.assert_close(got, torch.full((1, 4), 1.5), rtol=0.03, atol=0.0)


def test_no_strength_no_noise():
    clean = torch.randn(2, 4, 8)
    same = perturb_tokens(clean, torch.rand(2, 4), alpha=0.0, beta=0.0, generator=generator())
    assert torch.equal(same, clean)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_image_noise_covers_its_share_where_the_mask_is_largest(share):
    image = torch.zeros(2, 3, 32, 32)
    mask = torch.arange(16.0).repeat(2, 1)
    noisy = perturb_image(image, mask, (4, 4), share, 0.5, generator=generator())
    changed = (noisy != 0.0).any(dim=1)
    assert abs(float(changed.float().mean()) - share) < 0.05
    if share == 0.25:
        assert changed[:, 24:].float().mean() > 0.8  # the largest values are in the last row
        assert not changed[:, :16].any()
        assert abs(float(noisy[:, :, changed[0]].std()) - 0.5) < 0.05


def test_noise_comes_from_the_generator_alone():
    clean, mask = torch.randn(2, 4, 8), torch.rand(2, 4)
    first = perturb_tokens(clean, mask, 1.0, 0.5, generator=generator(3))
    torch.manual_seed(99)
    assert torch.equal(first, perturb_tokens(clean, mask, 1.0, 0.5, generator=generator(3)))
    assert not torch.equal(first, perturb_tokens(clean, mask, 1.0, 0.5, generator=generator(4)))


def test_momentum_copy_follows_slowly_and_gets_no_gradient():
    decoder = nn.Linear(3, 3)
    twin = momentum_copy(decoder)
    before = twin.weight.clone()
    with torch.no_grad():
        decoder.weight.add_(1.0)
    update_momentum(twin, decoder, eta=0.9)
    torch.testing.assert_close(twin.weight, before + 0.1)
    assert not any(parameter.requires_grad for parameter in twin.parameters())
    assert all(parameter.requires_grad for parameter in decoder.parameters())


def test_learned_mask_is_attention_received():
    torch.manual_seed(0)
    decoder = TransformerDecoder(8, 16, width=8, depth=2, heads=2)
    mask = decoder.attention(torch.randn(3, 16, 8))
    assert mask.shape == (3, 16)
    assert mask.min() >= 0.0
    torch.testing.assert_close(mask.sum(1), torch.ones(3))


def test_attention_comes_from_the_same_forward_pass():
    torch.manual_seed(0)
    block = TransformerDecoder(8, 16, width=8, depth=1, heads=2).blocks[0]
    tokens = torch.randn(3, 16, 8)
    hidden, _ = block.forward_with_attention(tokens)
    torch.testing.assert_close(hidden, block(tokens))


def test_dropped_tokens_are_zero_and_the_others_stay():
    clean = torch.randn(8, 64, 5) + 3.0
    dropped = drop_tokens(clean, 0.25, generator=torch.Generator().manual_seed(0))
    gone = (dropped == 0).all(dim=2)
    assert torch.equal(dropped[~gone], clean[~gone])
    assert 0.15 < float(gone.float().mean()) < 0.35
    assert torch.equal(drop_tokens(clean, 0.0, generator=torch.Generator()), clean)
    assert not drop_tokens(clean, 1.0, generator=torch.Generator()).any()
