"""The loop that trains a decoder by gradients, epoch after epoch, readable from top to bottom."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from agp_edge.errors import ModelError
from agp_edge.trainer.checkpoint import write_checkpoint
from agp_edge.trainer.data import check_unchanged, epoch_order
from agp_edge.trainer.decoder import TransformerDecoder
from agp_edge.trainer.device import own_share
from agp_edge.trainer.features import FeaturesPart, in_order
from agp_edge.trainer.log import best_epoch, write_log
from agp_edge.trainer.loss import reconstruction_loss, two_pass_loss
from agp_edge.trainer.perturbation import (
    combined_mask,
    drop_tokens,
    momentum_copy,
    perturb_image,
    perturb_tokens,
    rising,
    update_momentum,
)
from agp_edge.trainer.record import new_checkpoint
from agp_edge.trainer.schedule import epoch_seed, learning_rate
from agp_edge.trainer.state import restore, write_state
from agp_edge.trainer.suspects import drawn

if TYPE_CHECKING:
    from pathlib import Path

    from lightning_fabric import Fabric
    from numpy.typing import NDArray
    from torch import Tensor

    from agp_edge.trainer.config import TrainConfig
    from agp_edge.trainer.data import ImageReader, TrainingData
    from agp_edge.trainer.features import Features
    from agp_edge.trainer.model import AgpNet
    from agp_edge.trainer.state import Identity, State
    from agp_edge.trainer.weights import Pretrained

__all__ = ["Run", "remember", "run_epochs", "what_is_kept"]

_LOSS_IMAGES = 512  # whose error is the loss of what is fitted, not trained


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a training works on; the model's decoder is what changes."""

    folder: Path
    fabric: Fabric
    identity: Identity
    pretrained: Pretrained
    data: TrainingData
    size_reason: str
    model: AgpNet  # on the device
    reader: ImageReader
    features: Features  # of the images to train on
    stop_features: Features  # of early stop's images; can be none
    shares: NDArray[np.float64]  # (n,), how often each image to train on is shown
    progress: bool

    def keep(
        self,
        history: list[dict[str, Any]],
        twin: TransformerDecoder | None = None,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        """Writes state and log after an epoch, and the checkpoint where it is the best one."""
        if not self.fabric.is_global_zero:
            return
        entry = history[-1]
        if best_epoch(history) is entry:
            checkpoint = new_checkpoint(
                self.folder,
                self.identity,
                self.pretrained,
                self.data,
                entry,
                size_reason=self.size_reason,
            )
            write_checkpoint(self.folder, self.model, checkpoint)
        write_state(
            self.folder,
            self.identity,
            history,
            model=self.model,
            twin=twin,
            optimizer=optimizer,
        )
        write_log(self.folder, history)


@torch.no_grad()
def remember(run: Run, history: list[dict[str, Any]]) -> None:
    """Adds the single epoch of a decoder that is fitted, not trained, unless it is there."""
    if history:
        return
    start = time.perf_counter()
    check_unchanged(run.data, what_is_kept(None))
    batch = run.identity.train.batch
    some = FeaturesPart(run.features, 0, min(len(run.features), _LOSS_IMAGES))
    history.append(
        {
            "epoch": 0,
            "loss": _error(run.model, some, batch, run.fabric),
            "held_out_error": _error(run.model, run.stop_features, batch, run.fabric),
            "learning_rate": 0.0,
            "hardness": 0.0,
            "seconds": round(time.perf_counter() - start, 3),
        }
    )
    run.keep(history)


def run_epochs(  # noqa: PLR0915  (one loop, readable from top to bottom)
    run: Run, history: list[dict[str, Any]], state: State | None
) -> None:
    """Trains the decoder and adds each epoch to `history`.

    Args:
        run: its model is whitened already.
        history: the epochs before.
        state: what those epochs left; None: there are none.

    Raises:
        DataError: the images changed meanwhile.
        ModelError: the loss is not finite.
    """
    fabric, model, config, data = run.fabric, run.model, run.identity.train, run.data
    on, decoder = fabric.device, model.decoder
    twin = None  # the decoder's momentum copy
    if config.perturbation == "attention" and isinstance(decoder, TransformerDecoder):
        twin = momentum_copy(decoder)
    optimizer = torch.optim.AdamW(
        decoder.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    if state is not None:
        restore(state, model, twin, optimizer)
    # the same module and optimizer, on the device, in this precision, in step with other processes
    trained, stepper = fabric.setup(decoder, optimizer)
    best = best_epoch(history)

    steps = math.ceil(len(epoch_order(data.train, config.seed, 0)) / config.batch)
    bar = tqdm(
        total=config.epochs,
        initial=len(history),
        desc="train",
        unit="epoch",
        disable=not run.progress,
    )
    with bar:
        for epoch in range(len(history), config.epochs):
            if best is not None and epoch - best["epoch"] > config.patience:
                break  # early stop: its error has not fallen for `patience` epochs
            epoch_start = time.perf_counter()
            # streams of numbers of this epoch alone: a resumed run draws the same ones
            seed = epoch_seed(config.seed, epoch, fabric.global_rank)
            torch.manual_seed(seed)
            noise = torch.Generator(on).manual_seed(seed + 1)
            order = epoch_order(data.train, config.seed, epoch)
            order = drawn(order, run.shares, [config.seed, epoch, 1])
            hardness = rising(epoch, config.epochs)
            decoder.train()
            losses = []
            for step in range(steps):
                rate = learning_rate(config, epoch * steps + step, config.epochs * steps)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                indices, weight = own_share(
                    fabric, order[step * config.batch : (step + 1) * config.batch]
                )
                tokens, prior = run.features.read(indices)
                with torch.no_grad():
                    clean = model.whitened(tokens.to(on))  # (B, N, C): the target
                    mask = _mask(config, twin, clean, prior.to(on))  # (B, N), or None
                    disturbed = _disturbed(config, clean, mask, hardness, noise)
                feature_loss = reconstruction_loss(clean, trained(disturbed), config.hard_share)
                image_loss = None
                if config.image_noise:
                    images = run.reader.read([data.train[index] for index in indices])
                    disturbed = _disturbed_twice(
                        model, config, images.to(on), mask, hardness, noise=noise
                    )
                    image_loss = reconstruction_loss(clean, trained(disturbed), config.hard_share)
                loss = two_pass_loss(feature_loss, image_loss) * weight

                stepper.zero_grad(set_to_none=True)
                fabric.backward(loss)
                norm = fabric.clip_gradients(
                    trained, stepper, max_norm=config.clip, error_if_nonfinite=False
                )
                losses.append(float(loss.detach()))
                # fp16 finds its scale by overflowing now and then, and skips that step
                if not math.isfinite(losses[-1] + float(norm) * (config.precision != "fp16")):
                    paths = [data.train[index].path for index in indices]
                    raise ModelError(
                        f"the loss is {losses[-1]} and its gradient {float(norm)} in epoch "
                        f"{epoch}, step {step}: {_cause_of_divergence(clean, paths, rate)}; "
                        f"{what_is_kept(best)}"
                    )
                stepper.step()
                if twin is not None:
                    update_momentum(twin, decoder, config.momentum)

            error = _error(model, run.stop_features, config.batch, fabric)
            if error is not None and not math.isfinite(error):
                raise ModelError(
                    f"the held-out error is {error} after epoch {epoch}: the training diverges at "
                    f"the learning rate {rate:g}; lower it; {what_is_kept(best)}"
                )
            check_unchanged(data, what_is_kept(best))
            entry = {
                "epoch": epoch,
                "loss": float(fabric.all_reduce(torch.tensor(sum(losses) / steps).to(on))),
                "held_out_error": error,
                "learning_rate": rate,
                "hardness": hardness,
                "seconds": round(time.perf_counter() - epoch_start, 3),
            }
            history.append(entry)
            best = best_epoch(history)
            run.keep(history, twin, optimizer)
            bar.update()
            bar.set_postfix(loss=f"{entry['loss']:.4f}", held_out=error)


def _mask(
    config: TrainConfig, twin: TransformerDecoder | None, clean: Tensor, prior: Tensor
) -> Tensor | None:
    """A, where to perturb, (B, N); None: everywhere alike."""
    if config.perturbation != "attention":
        return None
    return combined_mask(prior, None if twin is None else twin.attention(clean))


def _disturbed(
    config: TrainConfig,
    clean: Tensor,
    mask: Tensor | None,
    hardness: float,
    noise: torch.Generator,
) -> Tensor:
    if config.perturbation == "none":
        return clean
    if config.perturbation == "dropout":
        return drop_tokens(clean, min(config.alpha * hardness, 1.0), generator=noise)
    return perturb_tokens(clean, mask, config.alpha * hardness, config.beta, generator=noise)


@torch.no_grad()
def _disturbed_twice(
    model: AgpNet,
    config: TrainConfig,
    images: Tensor,
    mask: Tensor | None,
    hardness: float,
    *,
    noise: torch.Generator,
) -> Tensor:
    """Tokens of disturbed images, disturbed once more: the second pass of the loss."""
    if mask is None:
        mask = torch.ones(len(images), model.grid[0] * model.grid[1], device=images.device)
    share = config.image_share * hardness
    images = perturb_image(images, mask, model.grid, share, config.image_noise_std, generator=noise)
    where = mask if config.perturbation == "attention" else None
    return _disturbed(config, model.target(images), where, hardness, noise)


@torch.no_grad()
def _error(model: AgpNet, features: Features, batch: int, fabric: Fabric) -> float | None:
    """Mean squared error of images, without any perturbation; None: there are none."""
    if not len(features):
        return None
    model.decoder.eval()
    total, count = 0.0, 0
    own = np.arange(fabric.global_rank, len(features), fabric.world_size)
    for tokens, _ in in_order(features, batch, own):
        clean = model.whitened(tokens.to(fabric.device))
        total += float(reconstruction_loss(clean, model.decoder(clean))) * len(tokens)
        count += len(tokens)
    sums = fabric.all_reduce(torch.tensor([total, count]).to(fabric.device), reduce_op="sum")
    return float(sums[0]) / float(sums[1])


def _cause_of_divergence(clean: Tensor, paths: list[Path], rate: float) -> str:
    finite = torch.isfinite(clean).flatten(1).all(dim=1).tolist()
    bad = [path for path, fine in zip(paths, finite, strict=True) if not fine]
    if bad:
        return f"the features of '{bad[0]}' are not finite; remove the image"
    return f"the training diverges at the learning rate {rate:g}; lower it"


def what_is_kept(best: dict[str, Any] | None) -> str:
    """For messages: what a training that stops here leaves."""
    if best is None:
        return "no checkpoint was written"
    return f"the checkpoint of epoch {best['epoch']} is kept"
