"""The training loop: reads good images, writes runs/NAME/ (checkpoint, state, log, loss.png)."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from agp_edge.errors import ModelError
from agp_edge.files import remove_leftovers
from agp_edge.trainer.checkpoint import load_model, write_checkpoint
from agp_edge.trainer.config import ModelConfig, TrainConfig, check_train_config
from agp_edge.trainer.data import (
    ImageReader,
    added_images,
    changed_images,
    check_unchanged,
    epoch_order,
    image_key,
    training_data,
)
from agp_edge.trainer.decoder import TransformerDecoder
from agp_edge.trainer.device import open_fabric, own_share
from agp_edge.trainer.features import (
    Features,
    FeaturesPart,
    default_cache_dir,
    in_order,
    open_features,
)
from agp_edge.trainer.head_training import add_head
from agp_edge.trainer.log import best_epoch, draw_loss, write_log
from agp_edge.trainer.loss import reconstruction_loss, two_pass_loss
from agp_edge.trainer.network import new_model, tensor_digest
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
from agp_edge.trainer.setups import decided_augment, decided_size
from agp_edge.trainer.state import Identity, read_state, restore, write_state
from agp_edge.trainer.suspects import drawn, training_shares

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lightning_fabric import Fabric
    from torch import Tensor

    from agp_edge.dataset import Dataset
    from agp_edge.trainer.model import AgpNet
    from agp_edge.trainer.setups import SizeBudget

__all__ = ["TrainResult", "train"]


@dataclass(frozen=True)
class TrainResult:
    """What a finished training gives."""

    folder: Path  # holds checkpoint.safetensors, checkpoint.json, log.jsonl, loss.png
    epochs: int  # that ran, over all resumptions
    best_epoch: int  # the checkpoint's, from 0
    held_out_error: float | None  # of the checkpoint, on early stop's images; None: there are none
    seconds: float  # of this call
    added: int  # image files that came into the folders meanwhile: the model does not know them
    is_first: bool  # whether this is the first of several processes, the one that writes


def _nothing(_: str) -> None:
    pass


def train(  # noqa: PLR0912, PLR0915  (one loop, readable from top to bottom)
    dataset: Dataset,
    output: str | Path,
    model_config: ModelConfig | None = None,
    config: TrainConfig | None = None,
    *,
    size: SizeBudget | None = None,
    weights: str = "auto",
    resume: bool = False,
    device: str = "auto",
    processes: int = 1,
    cache_dir: str | Path | None = None,
    progress: bool = True,
    say: Callable[[str], None] = _nothing,
) -> TrainResult:
    """Trains on the good images of a data set.

    The same arguments, machine and number of threads give the same weights on a CPU, bit for bit,
    also when a run was killed and resumed: all randomness comes from the seed and the epoch.

    Several processes (GPUs) see a share of each batch each and hold the same weights; started by
    torchrun, or here with `processes`. The first of them writes.

    Args:
        dataset: `dataset.train` is used; parts of it are held out, some for the threshold and
            others for early stop.
        output: folder of the run; its name becomes the model's.
        model_config: of the network; None: the defaults.
        config: of the training; None: the defaults.
        size: choose input size, layers and decoder by the good images, see size.py; None: as in
            `model_config`.
        weights: of the backbone, as `pretrained_model` takes it.
        resume: go on after the last finished epoch of `output`, or start where there is none yet.
        device: "cpu", "cuda", or "auto": a GPU where torch sees one.
        processes: on this machine, one per GPU.
        cache_dir: of the features; None: below the user's cache folder.
        progress: whether to show bars.
        say: is called with each line about what was chosen.

    Raises:
        DataError: no usable images, or they changed during the training or since the run that is
            resumed (the best checkpoint stays).
        ModelError: the folder holds a run already, a setting is wrong or changed since the run that
            is resumed, or the loss is not finite (the best checkpoint stays).
        DependencyError: weights or a package are missing.
        DeviceError: the device does not exist.
    """
    start_time = time.perf_counter()
    model_config, config = model_config or ModelConfig(), config or TrainConfig()
    check_train_config(config)
    folder = Path(output)
    fabric = open_fabric(device, processes, config.precision)
    on = fabric.device
    first = fabric.is_global_zero
    progress = progress and first

    # ---- data, network, features
    state = read_state(folder)
    if state is not None and not resume:
        raise ModelError(
            f"run folder '{folder}' holds a run already; go on with --resume, or give another one"
        )
    if first:
        remove_leftovers(folder)
    started = None if state is None else state.identity
    config = decided_augment(
        dataset, model_config, config, weights=weights, started=started, say=say
    )
    data = training_data(dataset, config, progress=progress)
    model_config, choice = fabric.broadcast(
        decided_size(
            size,
            folder,
            data,
            model_config,
            config,
            weights=weights,
            started=started,
            say=say,
            progress=progress,
        )
        if first
        else None
    )
    model, pretrained = new_model(model_config, weights, config.seed)
    identity = Identity(
        model=model_config,
        train=config,
        weights=weights,
        backbone=tensor_digest(model.backbone),
        data=data.digest,
    )
    if state is not None:
        identity.check(state.identity, folder)
    model.to(on)
    reader = ImageReader(model_config.height, model_config.width, pretrained.mean, pretrained.std)
    samples = [*data.train, *data.stop]
    with fabric.rank_zero_first(local=True):  # the others then find the cache
        features = open_features(
            model,
            model_config,
            config.prior,
            reader,
            samples,
            key={
                "backbone": identity.backbone,
                "mean": pretrained.mean,
                "std": pretrained.std,
                "images": [image_key(data, sample) for sample in samples],
            },
            cache_dir=default_cache_dir() if cache_dir is None else Path(cache_dir),
            cache_gb=config.cache_gb,
            device=on,
            progress=progress,
        )
    check_unchanged(data, _what_is_kept(None))
    train_features = FeaturesPart(features, 0, len(data.train))
    stop_features = FeaturesPart(features, len(data.train), len(data.stop))
    # whitening and position scaling are fitted once, on all images that are not the threshold's
    fit_order = epoch_order(samples, config.seed, 0) if data.products else np.arange(len(samples))
    shares = training_shares(
        folder if first else None,
        model,
        model_config,
        features,
        samples,
        root=data.root,
        mode="none" if config.setup == "few-shot" else config.suspects,
        seed=config.seed,
    )
    fit_order = drawn(fit_order, shares, [config.seed, 0])

    # ---- what the loop changes
    decoder = model.decoder
    twin = None  # the decoder's momentum copy
    if config.perturbation == "attention" and isinstance(decoder, TransformerDecoder):
        twin = momentum_copy(decoder)
    optimizer = torch.optim.AdamW(
        decoder.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    history: list[dict[str, Any]] = []
    if state is not None:
        restore(state, model, twin, optimizer)
        history = state.history
    elif model.whitening is not None and first:
        tokens_only = (tokens for tokens, _ in in_order(features, config.batch, fit_order))
        model.whitening.fit(tokens_only, model_config.shrinkage)
    model.load_trained_state(fabric.broadcast(model.trained_state()))
    # the same module and optimizer, on the device, in this precision, in step with other processes
    trained, stepper = fabric.setup(decoder, optimizer)
    best = best_epoch(history)

    # ---- the loop
    steps = math.ceil(len(epoch_order(data.train, config.seed, 0)) / config.batch)
    bar = tqdm(
        total=config.epochs, initial=len(history), desc="train", unit="epoch", disable=not progress
    )
    completed = False
    try:
        for epoch in range(len(history), config.epochs):
            if best is not None and epoch - best["epoch"] > config.patience:
                break  # early stop: its error has not fallen for `patience` epochs
            epoch_start = time.perf_counter()
            # streams of numbers of this epoch alone: a resumed run draws the same ones
            seed = epoch_seed(config.seed, epoch, fabric.global_rank)
            torch.manual_seed(seed)
            noise = torch.Generator(on).manual_seed(seed + 1)
            order = epoch_order(data.train, config.seed, epoch)
            order = drawn(order, shares[: len(data.train)], [config.seed, epoch, 1])
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
                tokens, prior = train_features.read(indices)
                with torch.no_grad():
                    clean = model.whitened(tokens.to(on))  # (B, N, C): the target
                    mask = _mask(config, twin, clean, prior.to(on))  # (B, N), or None
                    disturbed = _disturbed(config, clean, mask, hardness, noise)
                feature_loss = reconstruction_loss(clean, trained(disturbed), config.hard_share)
                image_loss = None
                if config.image_noise:
                    images = reader.read([data.train[index] for index in indices])
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
                        f"{_what_is_kept(best)}"
                    )
                stepper.step()
                if twin is not None:
                    update_momentum(twin, decoder, config.momentum)

            error = _held_out_error(model, stop_features, config.batch, fabric)
            if error is not None and not math.isfinite(error):
                raise ModelError(
                    f"the held-out error is {error} after epoch {epoch}: the training diverges at "
                    f"the learning rate {rate:g}; lower it; {_what_is_kept(best)}"
                )
            check_unchanged(data, _what_is_kept(best))
            entry = {
                "epoch": epoch,
                "loss": float(fabric.all_reduce(torch.tensor(sum(losses) / steps).to(on))),
                "held_out_error": error,
                "learning_rate": rate,
                "hardness": hardness,
                "seconds": round(time.perf_counter() - epoch_start, 3),
            }
            history.append(entry)
            if best_epoch(history) is entry:
                best = entry
                if first:
                    write_checkpoint(
                        folder,
                        model,
                        new_checkpoint(
                            folder, identity, pretrained, data, entry, size_reason=choice
                        ),
                    )
            if first:
                write_state(folder, identity, history, model=model, twin=twin, optimizer=optimizer)
                write_log(folder, history)
            bar.update()
            bar.set_postfix(loss=f"{entry['loss']:.4f}", held_out=error)
        completed = True
    finally:  # also after Ctrl-C or a loss that is not finite: the best epoch stays usable
        bar.close()
        if best is not None and first:
            draw_loss(folder, history)
            changed = set(changed_images(data))
            good = [index for index in fit_order if samples[index].path not in changed]
            batches = in_order(features, config.batch, np.array(good, np.intp))
            _finish(folder, batches, on, awaits_head=completed and model.head is not None)
    if first and model.head is not None:
        add_head(
            folder,
            data.train,
            train_features,
            data.stop,
            pretrained=pretrained,
            reader=reader,
            on=on,
            progress=progress,
        )
    fabric.barrier()
    assert best is not None  # for the type checker: there is at least one epoch
    return TrainResult(
        folder=folder,
        epochs=len(history),
        best_epoch=best["epoch"],
        held_out_error=best["held_out_error"],
        seconds=time.perf_counter() - start_time,
        added=len(added_images(data)),
        is_first=first,
    )


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
def _held_out_error(model: AgpNet, features: Features, batch: int, fabric: Fabric) -> float | None:
    """Mean squared error of early stop's tokens, without any perturbation; None: there are none."""
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


@torch.no_grad()
def _finish(
    folder: Path, batches: Iterable[tuple[Tensor, Tensor]], on: torch.device, *, awaits_head: bool
) -> None:
    """Fits the best epoch's position scaling; the checkpoint is finished unless a head follows."""
    model, checkpoint = load_model(folder)
    if checkpoint.finished:
        return
    model.to(on)
    if model.position is not None:
        model.position.fit(
            model.raw_distance(model.whitened(tokens.to(on))) for tokens, _ in batches
        )
    write_checkpoint(folder, model, replace(checkpoint, finished=not awaits_head))


def _cause_of_divergence(clean: Tensor, paths: list[Path], rate: float) -> str:
    finite = torch.isfinite(clean).flatten(1).all(dim=1).tolist()
    bad = [path for path, fine in zip(paths, finite, strict=True) if not fine]
    if bad:
        return f"the features of '{bad[0]}' are not finite; remove the image"
    return f"the training diverges at the learning rate {rate:g}; lower it"


def _what_is_kept(best: dict[str, Any] | None) -> str:
    if best is None:
        return "no checkpoint was written"
    return f"the checkpoint of epoch {best['epoch']} is kept"
