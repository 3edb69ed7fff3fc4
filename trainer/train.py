"""The training loop: reads good images, writes runs/NAME/ (checkpoint, state, log.jsonl, loss.png)."""

from __future__ import annotations

import datetime
import hashlib
import math
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from agp_edge.errors import ModelError
from agp_edge.trainer.backbone import Backbone, backbone_options
from agp_edge.trainer.checkpoint import (
    Checkpoint,
    State,
    read_state,
    write_checkpoint,
    write_state,
)
from agp_edge.trainer.config import ModelConfig, TrainConfig, config_to_dict
from agp_edge.trainer.data import ImageReader, TrainingData, training_data
from agp_edge.trainer.decoder import TransformerDecoder
from agp_edge.trainer.features import Features, default_cache_dir, open_features
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
from agp_edge.trainer.weights import Pretrained, pretrained_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from agp_edge.dataset import Dataset, Sample

__all__ = ["TrainResult", "train"]


@dataclass(frozen=True)
class TrainResult:
    """What a finished training gives."""

    folder: Path  # holds checkpoint.safetensors, checkpoint.json, log.jsonl, loss.png
    epochs: int  # that ran, over all resumptions
    best_epoch: int  # the checkpoint's, from 0
    held_out_error: float  # mean squared error of the best epoch
    seconds: float  # of this call


def train(
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

    The same arguments, machine and number of threads give the same weights, bit for bit, also when
    a run was killed and resumed: all randomness comes from the seed and the number of the epoch.

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
    """
    start_time = time.perf_counter()
    model_config, config = model_config or ModelConfig(), config or TrainConfig()
    folder = Path(output)
    target_device = _device(device)

    # ---- data, network, features
    state = _state_to_resume(folder, resume)
    data = training_data(dataset, config.hold_out, config.seed, progress=progress)
    torch.manual_seed(config.seed)
    pretrained = pretrained_model(
        model_config.backbone,
        weights,
        **backbone_options(model_config.backbone, model_config.height, model_config.width),
    )
    backbone = Backbone(pretrained.model, model_config.backbone, model_config.layers)
    torch.manual_seed(config.seed)  # the decoder's start must not depend on the backbone's
    model = AgpNet(model_config, backbone).to(target_device)
    reader = ImageReader(model_config.height, model_config.width, pretrained.mean, pretrained.std)
    identity = {
        "model": config_to_dict(model_config),
        "train": config_to_dict(config),
        "data": data.digest,
        "backbone": _tensor_digest(backbone),
        "mean": pretrained.mean,
        "std": pretrained.std,
    }
    _check_same_run(state, identity, folder)
    train_features, held_out_features = (
        open_features(
            model,
            model_config,
            config.prior,
            reader,
            [sample.path for sample in samples],
            key={
                **{name: identity[name] for name in ("backbone", "mean", "std")},
                "images": [data.hashes[sample.path] for sample in samples],
            },
            cache_dir=Path(cache_dir) if cache_dir is not None else default_cache_dir(),
            cache_gb=config.cache_gb,
            device=target_device,
            progress=progress,
        )
        for samples in (data.train, data.held_out)
    )

    # ---- what the loop changes
    twin = momentum_copy(model.decoder) if _learns_mask(model, config) else None
    optimizer = torch.optim.AdamW(
        model.decoder.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    if state is None:
        if model_config.whiten:
            model.whitening.fit(
                (tokens for tokens, _ in _in_order(train_features, config.batch)),
                model_config.shrinkage,
            )
        history: list[dict[str, Any]] = []
    else:
        _restore(state, model, twin, optimizer)
        history = state.document["history"]
    best = min(history, key=lambda entry: entry["held_out_error"], default=None)

    # ---- the loop
    steps = math.ceil(len(data.train) / config.batch)
    bar = tqdm(
        range(len(history), config.epochs),
        initial=len(history),
        total=config.epochs,
        desc="train",
        unit="epoch",
        disable=not progress,
    )
    for epoch in bar:
        if best is not None and epoch - best["epoch"] > config.patience:
            break
        epoch_start = time.perf_counter()
        # one stream of numbers per epoch: a resumed run draws the same ones
        torch.manual_seed(_epoch_seed(config.seed, epoch))
        noise = torch.Generator(target_device).manual_seed(_epoch_seed(config.seed, epoch) + 1)
        order = np.random.default_rng([config.seed, epoch]).permutation(len(data.train))
        alpha = config.alpha * rising(epoch, config.epochs)
        losses = []
        model.decoder.train()
        for step in range(steps):
            rate = _learning_rate(config, epoch * steps + step, config.epochs * steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            indices = order[step * config.batch : (step + 1) * config.batch]
            tokens, prior = train_features.read(indices)
            with torch.no_grad():
                clean = model.whitening(tokens.to(target_device))  # (B, N, C)
                mask = _mask(config, twin, clean, prior.to(target_device))  # (B, N)
                noisy = _disturbed(config, clean, mask, alpha, noise)
            feature_loss = reconstruction_loss(clean, model.decoder(noisy), config.hard_share)
            image_loss = None
            if config.image_noise:
                share = config.image_share * rising(epoch, config.epochs)
                images = reader.read([data.train[index].path for index in indices])
                with torch.no_grad():
                    images = perturb_image(
                        images.to(target_device),
                        mask,
                        model.grid,
                        share,
                        config.image_noise_std,
                        noise,
                    )
                    noisy = _disturbed(config, model.target(images), mask, alpha, noise)
                image_loss = reconstruction_loss(clean, model.decoder(noisy), config.hard_share)
            loss = two_pass_loss(feature_loss, image_loss)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.decoder.parameters(), config.clip)
            value = float(loss.detach())
            if not (math.isfinite(value) and math.isfinite(float(norm))):
                raise ModelError(
                    _divergence(epoch, step, value, clean, data.train, indices, rate, best)
                )
            optimizer.step()
            if twin is not None:
                update_momentum(twin, model.decoder, config.momentum)
            losses.append(value)

        error = _held_out_error(model, held_out_features, config.batch, target_device)
        if not math.isfinite(error):
            raise ModelError(
                f"the held-out error is {error} after epoch {epoch}; lower the learning rate "
                f"({config.learning_rate:g})"
            )
        entry = {
            "epoch": epoch,
            "loss": sum(losses) / len(losses),
            "held_out_error": error,
            "learning_rate": rate,
            "alpha": alpha,
            "seconds": round(time.perf_counter() - epoch_start, 3),
        }
        history.append(entry)
        if best is None or error < best["held_out_error"]:
            best = entry
            write_checkpoint(
                folder, model, _checkpoint(folder, model_config, config, pretrained, data, entry)
            )
        write_state(folder, _state(model, twin, optimizer, {**identity, "history": history}))
        write_log(folder, history)
        bar.set_postfix(loss=f"{entry['loss']:.4f}", held_out=f"{error:.4f}")

    bar.close()
    draw_loss(folder, history)
    if best is None:
        raise ModelError(f"epochs is {config.epochs}; expected at least 1")
    return TrainResult(
        folder=folder,
        epochs=len(history),
        best_epoch=best["epoch"],
        held_out_error=best["held_out_error"],
        seconds=time.perf_counter() - start_time,
    )


def _mask(config: TrainConfig, twin: nn.Module | None, clean: Tensor, prior: Tensor) -> Tensor:
    """Where to perturb, (B, N): the attention-guided mask, or ones."""
    if config.perturbation != "attention":
        return torch.ones_like(prior)
    learned = twin.attention(clean) if isinstance(twin, TransformerDecoder) else None
    return combined_mask(prior, learned)


def _disturbed(
    config: TrainConfig, clean: Tensor, mask: Tensor, alpha: float, noise: torch.Generator
) -> Tensor:
    if config.perturbation == "none":
        return clean
    where = mask if config.perturbation == "attention" else None
    return perturb_tokens(clean, where, alpha, config.beta, noise)


def _learns_mask(model: AgpNet, config: TrainConfig) -> bool:
    return config.perturbation == "attention" and isinstance(model.decoder, TransformerDecoder)


@torch.no_grad()
def _held_out_error(model: AgpNet, features: Features, batch: int, device: torch.device) -> float:
    """Mean squared error of the clean held-out tokens, without any perturbation."""
    model.decoder.eval()
    total, count = 0.0, 0
    for tokens, _ in _in_order(features, batch):
        clean = model.whitening(tokens.to(device))
        error = reconstruction_loss(clean, model.decoder(clean))
        total += float(error) * len(tokens)
        count += len(tokens)
    return total / count


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


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _state_to_resume(folder: Path, resume: bool) -> State | None:
    state = read_state(folder)
    if state is not None and not resume:
        raise ModelError(
            f"run folder '{folder}' holds a run already; go on with --resume, or give another "
            "folder"
        )
    return state


def _check_same_run(state: State | None, identity: dict[str, Any], folder: Path) -> None:
    """A resumed run must be the same run: settings, images and backbone."""
    if state is None:
        return
    for part, what in (("model", "setting"), ("train", "setting")):
        before, now = state.document.get(part, {}), identity[part]
        for key in now:
            if before.get(key) != now[key]:
                raise ModelError(
                    f"run '{folder}' was started with the {what} {key} = {before.get(key)!r}, now "
                    f"it is {now[key]!r}; resume with the same settings or start another run"
                )
    if state.document.get("data") != identity["data"]:
        raise ModelError(
            f"run '{folder}' was started on other training images; resume with the same images or "
            "start another run"
        )
    if state.document.get("backbone") != identity["backbone"]:
        raise ModelError(
            f"run '{folder}' was started with other backbone weights; resume with the same or "
            "start another run"
        )


def _state(
    model: AgpNet,
    twin: nn.Module | None,
    optimizer: torch.optim.Optimizer,
    document: dict[str, Any],
) -> State:
    tensors = {f"model.{key}": tensor for key, tensor in model.trained_state().items()}
    if twin is not None:
        tensors.update({f"twin.{key}": tensor for key, tensor in twin.state_dict().items()})
    for index, values in optimizer.state_dict()["state"].items():
        tensors.update({f"optimizer.{index}.{key}": value for key, value in values.items()})
    return State(tensors, document)


def _restore(
    state: State, model: AgpNet, twin: nn.Module | None, optimizer: torch.optim.Optimizer
) -> None:
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "twin": {}, "optimizer": {}}
    for name, tensor in state.tensors.items():
        part, _, key = name.partition(".")
        parts[part][key] = tensor
    model.load_trained_state(parts["model"])
    if twin is not None:
        twin.load_state_dict(parts["twin"])
    document = optimizer.state_dict()
    values: dict[int, dict[str, Tensor]] = {}
    for name, tensor in parts["optimizer"].items():
        index, _, key = name.partition(".")
        values.setdefault(int(index), {})[key] = tensor
    document["state"] = values
    optimizer.load_state_dict(document)


def _checkpoint(
    folder: Path,
    model_config: ModelConfig,
    config: TrainConfig,
    pretrained: Pretrained,
    data: TrainingData,
    entry: dict[str, Any],
) -> Checkpoint:
    root = data.root
    return Checkpoint(
        name=folder.resolve().name,
        model=model_config,
        train=config,
        weights_source=pretrained.source,
        mean=pretrained.mean,
        std=pretrained.std,
        data_root=str(root.resolve()),
        data_digest=data.digest,
        train_files=tuple(s.path.relative_to(root).as_posix() for s in data.train),
        held_out=tuple((s.path.relative_to(root).as_posix(), s.part) for s in data.held_out),
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


def _divergence(
    epoch: int,
    step: int,
    loss: float,
    clean: Tensor,
    samples: tuple[Sample, ...],
    indices: NDArray[np.intp],
    rate: float,
    best: dict[str, Any] | None,
) -> str:
    """The sentence for a loss or gradient that is not finite: step, cause, what is kept."""
    finite = torch.isfinite(clean).flatten(1).all(dim=1).tolist()
    bad = [samples[index].path for index, fine in zip(indices, finite, strict=True) if not fine]
    if bad:
        cause = f"the features of '{bad[0]}' are not finite; remove the image"
    else:
        cause = f"the training diverges at the learning rate {rate:g}; lower it"
    kept = (
        "no checkpoint was written"
        if best is None
        else f"epoch {best['epoch']}'s checkpoint is kept"
    )
    return (
        f"loss {loss} or its gradient is not finite in epoch {epoch}, step {step}: {cause}; {kept}"
    )
