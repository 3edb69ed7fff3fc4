"""The training loop: reads good images, writes runs/NAME/ (checkpoint, state, log, loss.png)."""

from __future__ import annotations

import datetime
import hashlib
import math
import time
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from agp_edge.errors import ModelError
from agp_edge.files import remove_leftovers
from agp_edge.trainer.backbone import Backbone, backbone_options
from agp_edge.trainer.checkpoint import Checkpoint, load_model, write_checkpoint
from agp_edge.trainer.config import ModelConfig, TrainConfig, check_train_config
from agp_edge.trainer.data import ImageReader, TrainingData, training_data
from agp_edge.trainer.decoder import TransformerDecoder
from agp_edge.trainer.device import torch_device
from agp_edge.trainer.features import Features, FeaturesPart, default_cache_dir, open_features
from agp_edge.trainer.log import draw_loss, write_log
from agp_edge.trainer.loss import reconstruction_loss, two_pass_loss
from agp_edge.trainer.model import AgpNet
from agp_edge.trainer.perturbation import (
    combined_mask,
    momentum_copy,
    perturb_image,
    perturb_tokens,
    rising,
    update_momentum,
)
from agp_edge.trainer.state import Identity, read_state, restore, write_state
from agp_edge.trainer.weights import Pretrained, pretrained_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from agp_edge.dataset import Dataset

__all__ = ["TrainResult", "train"]


@dataclass(frozen=True)
class TrainResult:
    """What a finished training gives."""

    folder: Path  # holds checkpoint.safetensors, checkpoint.json, log.jsonl, loss.png
    epochs: int  # that ran, over all resumptions
    best_epoch: int  # the checkpoint's, from 0
    held_out_error: float  # mean squared error of the best epoch
    seconds: float  # of this call


def train(  # noqa: PLR0912, PLR0915  (one loop, readable from top to bottom)
    dataset: Dataset,
    output: str | Path,
    model_config: ModelConfig | None = None,
    config: TrainConfig | None = None,
    *,
    weights: str = "auto",
    resume: bool = False,
    device: str = "auto",
    cache_dir: str | Path | None = None,
    progress: bool = True,
) -> TrainResult:
    """Trains on the good images of a data set.

    The same arguments, machine and number of threads give the same weights on a CPU, bit for bit,
    also when a run was killed and resumed: all randomness comes from the seed and the epoch.

    Args:
        dataset: `dataset.train` is used; part of it is held out for early stop and threshold.
        output: folder of the run; its name becomes the model's.
        model_config: of the network; None: the defaults.
        config: of the training; None: the defaults.
        weights: of the backbone, as `pretrained_model` takes it.
        resume: go on after the last finished epoch of `output`, or start where there is none yet.
        device: "cpu", "cuda", or "auto": a GPU where torch sees one.
        cache_dir: of the features; None: below the user's cache folder.
        progress: whether to show bars.

    Raises:
        DataError: no usable images, or they changed since the run that is resumed.
        ModelError: the folder holds a run already, a setting is wrong or changed since the run that
            is resumed, or the loss is not finite (the best checkpoint stays).
        DependencyError: weights or a package are missing.
        DeviceError: the device does not exist.
    """
    start_time = time.perf_counter()
    model_config, config = model_config or ModelConfig(), config or TrainConfig()
    check_train_config(config)
    folder = Path(output)
    on = torch_device(device)

    # ---- data, network, features
    state = read_state(folder)
    if state is not None and not resume:
        raise ModelError(
            f"run folder '{folder}' holds a run already; go on with --resume, or give another one"
        )
    remove_leftovers(folder)
    data = training_data(dataset, config.hold_out, config.seed, progress=progress)
    model, pretrained = _new_model(model_config, weights, config.seed)
    identity = Identity(
        model=model_config,
        train=config,
        weights=weights,
        backbone=_tensor_digest(model.backbone),
        data=data.digest,
    )
    if state is not None:
        identity.check(state.identity, folder)
    model.to(on)
    reader = ImageReader(model_config.height, model_config.width, pretrained.mean, pretrained.std)
    samples = [*data.train, *data.held_out]
    features = open_features(
        model,
        model_config,
        config.prior,
        reader,
        [sample.path for sample in samples],
        key={
            "backbone": identity.backbone,
            "mean": pretrained.mean,
            "std": pretrained.std,
            "images": [data.hashes[sample.path] for sample in samples],
        },
        cache_dir=default_cache_dir() if cache_dir is None else Path(cache_dir),
        cache_gb=config.cache_gb,
        device=on,
        progress=progress,
    )
    train_features = FeaturesPart(features, 0, len(data.train))
    held_out_features = FeaturesPart(features, len(data.train), len(data.held_out))

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
    elif model.whitening is not None:
        tokens_only = (tokens for tokens, _ in _in_order(train_features, config.batch))
        model.whitening.fit(tokens_only, model_config.shrinkage)
    best = min(history, key=lambda entry: entry["held_out_error"], default=None)

    # ---- the loop
    steps = math.ceil(len(data.train) / config.batch)
    bar = tqdm(
        total=config.epochs, initial=len(history), desc="train", unit="epoch", disable=not progress
    )
    try:
        for epoch in range(len(history), config.epochs):
            if best is not None and epoch - best["epoch"] > config.patience:
                break  # the held-out error has not fallen for `patience` epochs
            epoch_start = time.perf_counter()
            # streams of numbers of this epoch alone: a resumed run draws the same ones
            torch.manual_seed(_epoch_seed(config.seed, epoch))
            noise = torch.Generator(on).manual_seed(_epoch_seed(config.seed, epoch) + 1)
            order = np.random.default_rng([config.seed, epoch]).permutation(len(data.train))
            hardness = rising(epoch, config.epochs)
            decoder.train()
            losses = []
            for step in range(steps):
                rate = _learning_rate(config, epoch * steps + step, config.epochs * steps)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                indices = order[step * config.batch : (step + 1) * config.batch]
                tokens, prior = train_features.read(indices)
                with torch.no_grad():
                    clean = model.whitened(tokens.to(on))  # (B, N, C): the target
                    mask = _mask(config, twin, clean, prior.to(on))  # (B, N), or None
                    disturbed = _disturbed(config, clean, mask, hardness, noise)
                feature_loss = reconstruction_loss(clean, decoder(disturbed), config.hard_share)
                image_loss = None
                if config.image_noise:
                    images = reader.read([data.train[index].path for index in indices])
                    disturbed = _disturbed_twice(
                        model, config, images.to(on), mask, hardness, noise=noise
                    )
                    image_loss = reconstruction_loss(clean, decoder(disturbed), config.hard_share)
                loss = two_pass_loss(feature_loss, image_loss)

                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
                norm = torch.nn.utils.clip_grad_norm_(decoder.parameters(), config.clip)
                losses.append(float(loss.detach()))
                if not math.isfinite(losses[-1] + float(norm)):
                    paths = [data.train[index].path for index in indices]
                    raise ModelError(
                        f"the loss is {losses[-1]} and its gradient {float(norm)} in epoch "
                        f"{epoch}, step {step}: {_cause_of_divergence(clean, paths, rate)}; "
                        f"{_what_is_kept(best)}"
                    )
                optimizer.step()
                if twin is not None:
                    update_momentum(twin, decoder, config.momentum)

            error = _held_out_error(model, held_out_features, config.batch, on)
            if not math.isfinite(error):
                raise ModelError(
                    f"the held-out error is {error} after epoch {epoch}: the training diverges at "
                    f"the learning rate {rate:g}; lower it; {_what_is_kept(best)}"
                )
            entry = {
                "epoch": epoch,
                "loss": sum(losses) / len(losses),
                "held_out_error": error,
                "learning_rate": rate,
                "hardness": hardness,
                "seconds": round(time.perf_counter() - epoch_start, 3),
            }
            history.append(entry)
            if best is None or error < best["held_out_error"]:
                best = entry
                write_checkpoint(
                    folder, model, _checkpoint(folder, identity, pretrained, data, entry)
                )
            write_state(folder, identity, history, model=model, twin=twin, optimizer=optimizer)
            write_log(folder, history)
            bar.update()
            bar.set_postfix(loss=f"{entry['loss']:.4f}", held_out=f"{error:.4f}")
    finally:  # also after Ctrl-C or a loss that is not finite: the best epoch stays usable
        bar.close()
        if best is not None:
            draw_loss(folder, history)
            _finish(folder, train_features, config.batch, on)
    best = min(history, key=lambda entry: entry["held_out_error"])
    return TrainResult(
        folder=folder,
        epochs=len(history),
        best_epoch=best["epoch"],
        held_out_error=best["held_out_error"],
        seconds=time.perf_counter() - start_time,
    )


def _new_model(config: ModelConfig, weights: str, seed: int) -> tuple[AgpNet, Pretrained]:
    torch.manual_seed(seed)  # for weights="random"
    options = backbone_options(config.backbone, config.height, config.width)
    pretrained = pretrained_model(config.backbone, weights, **options)
    backbone = Backbone(pretrained.model, config.backbone, config.layers)
    torch.manual_seed(seed)  # the decoder's start must not depend on how the backbone was made
    return AgpNet(config, backbone), pretrained


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
def _held_out_error(model: AgpNet, features: Features, batch: int, on: torch.device) -> float:
    """Mean squared error of the held-out tokens, without any perturbation."""
    model.decoder.eval()
    total, count = 0.0, 0
    for tokens, _ in _in_order(features, batch):
        clean = model.whitened(tokens.to(on))
        total += float(reconstruction_loss(clean, model.decoder(clean))) * len(tokens)
        count += len(tokens)
    return total / count


@torch.no_grad()
def _finish(folder: Path, features: Features, batch: int, on: torch.device) -> None:
    """Fits the best epoch's position scaling; the checkpoint says that it is finished.

    The held-out images stay out of it: they set the threshold.
    """
    model, checkpoint = load_model(folder)
    if checkpoint.finished:
        return
    model.to(on)
    if model.position is not None:
        model.position.fit(
            model.raw_distance(model.whitened(tokens.to(on)))
            for tokens, _ in _in_order(features, batch)
        )
    write_checkpoint(folder, model, replace(checkpoint, finished=True))


def _in_order(features: Features, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(features), batch):
        yield features.read(np.arange(start, min(start + batch, len(features))))


def _learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    warmup = max(int(config.warmup * steps), 1)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(steps - warmup, 1)
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))


def _epoch_seed(seed: int, epoch: int) -> int:
    """A seed far from those of other epochs and of neighbouring seeds."""
    digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:6], "big")


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


def _checkpoint(
    folder: Path,
    identity: Identity,
    pretrained: Pretrained,
    data: TrainingData,
    entry: dict[str, Any],
) -> Checkpoint:
    return Checkpoint(
        name=folder.resolve().name,
        model=identity.model,
        train=identity.train,
        weights_source=pretrained.source,
        mean=pretrained.mean,
        std=pretrained.std,
        data_root=str(data.root.resolve()),
        data_digest=data.digest,
        train_files=tuple(s.path.relative_to(data.root).as_posix() for s in data.train),
        held_out=tuple((s.path.relative_to(data.root).as_posix(), s.part) for s in data.held_out),
        epoch=entry["epoch"],
        held_out_error=entry["held_out_error"],
        versions={name: metadata.version(name) for name in ("agp-edge", "torch", "timm")},
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )


def _tensor_digest(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"
