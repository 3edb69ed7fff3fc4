"""Losses against their formulas."""

import torch

from agp_edge.trainer.loss import reconstruction_loss, two_pass_loss


def test_mean_squared_error():
    target, reconstructed = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    expected = ((target - reconstructed) ** 2).mean()
    torch.testing.assert_close(reconstruction_loss(target, reconstructed), expected)


def test_hard_share_counts_the_worst_tokens():
    target = torch.zeros(1, 4, 2)
    reconstructed = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 4, 1).repeat(1, 1, 2)
    assert reconstruction_loss(target, reconstructed, 0.5) == (9.0 + 16.0) / 2
    assert reconstruction_loss(target, reconstructed, 0.01) == 16.0


def test_two_passes_are_averaged():
    assert two_pass_loss(torch.tensor(1.0), torch.tensor(3.0)) == 2.0
    assert two_pass_loss(torch.tensor(1.0), None) == 1.0
