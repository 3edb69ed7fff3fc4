"""Discriminators: learned from noise alone, in the coarse distance's unit, silent until fitted."""

import pytest
import torch

from agp_edge.errors import ModelError
from agp_edge.trainer.checkpoint import load_model
from agp_edge.trainer.discriminator import Discriminator
from agp_edge.trainer.export import onnx_from_checkpoint


def ring(count, seed):
    """Tokens near a circle."""
    random = torch.Generator().manual_seed(seed)
    angle = 6.2832 * torch.rand(count, generator=random)
    tokens = torch.stack([angle.cos(), angle.sin()], dim=1)
    return tokens + 0.05 * torch.randn(count, 2, generator=random)


def trained(small, **changes):
    discriminator = Discriminator(2, (4, 4), 3, 32, position=False)
    settings = {
        "noise_steps": 250,
        "noise_batch": 256,
        "noise": "alike",
        "noise_most": 0.8,
        **changes,
    }
    config = small.train_config(**settings)
    tokens = ring(4096, 0)
    discriminator.fit(tokens, (tokens[:, 0] > 0).float(), config)
    return discriminator


def test_it_finds_departures_that_it_never_saw(small):
    discriminator = trained(small)
    with torch.no_grad():
        good = discriminator.raw(ring(512, 1).reshape(32, 16, 2))
        off = discriminator.raw(2.0 * ring(512, 2).reshape(32, 16, 2))
    assert float((off > good.quantile(0.95)).float().mean()) > 0.9
    # the members' units are those of good tokens
    assert abs(float(good.mean())) < 0.3
    assert 0.3 < float(good.std()) <= 1.1


def test_the_same_seed_gives_the_same_networks(small):
    first, second, other = (
        trained(small, noise_steps=3, seed=seed).state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["hidden.weight"], other["hidden.weight"])


def test_a_mask_leads_the_noise(small):
    weights = {
        noise: trained(small, noise=noise, noise_steps=3).hidden.weight.unflatten(0, (3, 32))
        for noise in ("alike", "guided")
    }
    assert not torch.equal(weights["alike"][0], weights["guided"][0])
    pairs = Discriminator(6, (4, 4), 4, 8, position=False)._noises(small.train_config())
    assert pairs == (pytest.approx([0.4, 0.4, 1.2, 1.2]), [True, False, True, False])


@pytest.mark.parametrize("decoder", ["memory", "transformer"])
def test_a_run_trains_weighs_and_exports_them(small, images, tmp_path, decoder):
    config = small.model_config(
        decoder=decoder,
        memory=16,
        discriminators=2,
        discriminator_width=8,
        discriminator_weight=0.5,
        fine_centred=True,
    )
    training = small.train_config(epochs=1, noise_steps=12, noise_batch=64)
    small.run(images, tmp_path / "run", model=config, config=training)
    model, checkpoint = load_model(tmp_path / "run")
    assert checkpoint.finished
    assert float(model.discriminator.gain) > 0
    with torch.no_grad():
        image = torch.rand(2, 3, small.SIZE, small.SIZE)
        evidence = model.discriminator(model.fusion(model.backbone(image)))
        assert evidence.shape == (2, 1, *model.grid)
        assert float(evidence.abs().max()) > 0
    # which compares the file with torch, score by score
    onnx_from_checkpoint(tmp_path / "run", tmp_path / "model.onnx", progress=False)
    small.compile_plans(tmp_path / "model.onnx")


def test_wrong_settings_are_named():
    with pytest.raises(ModelError, match="0 discriminators"):
        Discriminator(6, (4, 4), 0, 8, position=True)
