"""A training from end to end: good images -> runs/NAME/ (checkpoint, state, log, loss.png)."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from agp_edge.dataset import part_of
from agp_edge.errors import ModelError
from agp_edge.files import remove_leftovers
from agp_edge.trainer.augment import copies_of_each
from agp_edge.trainer.checkpoint import load_model, write_checkpoint
from agp_edge.trainer.config import FITTED, ModelConfig, TrainConfig, check_train_config
from agp_edge.trainer.data import (
    ImageReader,
    added_images,
    changed_images,
    check_unchanged,
    epoch_order,
    image_key,
    training_data,
)
from agp_edge.trainer.decoder_fitting import fit_decoder
from agp_edge.trainer.device import open_fabric
from agp_edge.trainer.discriminator_training import fit_discriminator, scale_discriminator
from agp_edge.trainer.features import FeaturesPart, default_cache_dir, in_order, open_features
from agp_edge.trainer.fine_training import add_fine
from agp_edge.trainer.log import best_epoch, draw_loss
from agp_edge.trainer.loop import Run, remember, run_epochs, what_is_kept
from agp_edge.trainer.network import new_model, tensor_digest
from agp_edge.trainer.setups import decided_augment, decided_size
from agp_edge.trainer.state import Identity, read_state, restore
from agp_edge.trainer.suspects import drawn, training_shares

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from agp_edge.dataset import Dataset
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
    state = read_state(folder)
    if state is not None and not resume:
        raise ModelError(
            f"run folder '{folder}' holds a run already; go on with --resume, or give another one"
        )
    if config.setup == "multi-class" and model_config.decoder in FITTED:
        from agp_edge.trainer.multi_class import train_products  # noqa: PLC0415  (trains by this)

        return train_products(
            dataset,
            folder,
            model_config,
            config,
            state=state,
            size=size,
            weights=weights,
            device=device,
            processes=processes,
            cache_dir=cache_dir,
            progress=progress,
            say=say,
        )
    fabric = open_fabric(device, processes, config.precision)
    on = fabric.device
    first = fabric.is_global_zero
    progress = progress and first

    # ---- data, network, features
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
                "backbone": tensor_digest(model.backbone.first),
                "mean": pretrained.mean,
                "std": pretrained.std,
                "images": [image_key(data, sample) for sample in samples],
            },
            cache_dir=default_cache_dir() if cache_dir is None else Path(cache_dir),
            cache_gb=config.cache_gb,
            device=on,
            progress=progress,
        )
    check_unchanged(data, what_is_kept(None))
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

    run = Run(
        folder=folder,
        fabric=fabric,
        identity=identity,
        pretrained=pretrained,
        data=data,
        size_reason=choice,
        model=model,
        reader=reader,
        features=train_features,
        stop_features=stop_features,
        shares=shares[: len(data.train)],
        progress=progress,
    )

    # ---- what is learned
    if state is not None:
        restore(state, model)
    elif first:
        if model.whitening is not None:
            tokens_only = (tokens for tokens, _ in in_order(features, config.batch, fit_order))
            model.whitening.fit(tokens_only, model_config.shrinkage)
        parts = [part_of(sample) for sample in samples]
        fit_decoder(model, features, fit_order, config.seed, parts=parts)
        if model.discriminator is not None:
            fit_discriminator(model.discriminator, features, fit_order, config)
    model.load_trained_state(fabric.broadcast(model.trained_state()))
    history = [] if state is None else state.history
    completed = False
    try:
        if model_config.decoder in FITTED:
            remember(run, history)
        else:
            run_epochs(run, history, state)
        completed = True
    finally:  # also after Ctrl-C or a loss that is not finite: the best epoch stays usable
        if history and first:
            draw_loss(folder, history)
            changed = set(changed_images(data))
            good = [index for index in fit_order if samples[index].path not in changed]
            own = np.array(good, np.intp)
            random = np.random.default_rng([config.seed, 29])
            _finish(
                folder,
                in_order(features, config.batch, own),
                in_order(features, config.batch, random.permutation(own)),
                on,
                copies=copies_of_each([samples[index] for index in own]),
                awaits_fine=completed and bool(model.fine_maps()),
            )
    if first and model.fine_maps():
        add_fine(
            folder,
            [samples[index] for index in fit_order],
            reader=reader,
            on=on,
            progress=progress,
        )
    fabric.barrier()
    best = best_epoch(history)
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


@torch.no_grad()
def _finish(
    folder: Path,
    batches: Iterable[tuple[Tensor, Tensor]],
    again: Iterable[tuple[Tensor, Tensor]],
    on: torch.device,
    *,
    copies: float,
    awaits_fine: bool,
) -> None:
    """Fits the best epoch's scales; the checkpoint is finished unless more follows.

    Args:
        folder: of the run.
        batches: fused tokens and prior masks of good images.
        again: the same in another order, read after the first.
        on: the device.
        copies: see `PositionScale.fit`.
        awaits_fine: whether the fine maps come after this.
    """
    model, checkpoint = load_model(folder)
    if checkpoint.finished:
        return
    model.to(on)
    if model.position is not None:
        model.position.fit(
            (model.raw_distance(model.whitened(tokens.to(on))) for tokens, _ in batches),
            copies=copies,
        )
    if model.discriminator is not None:
        scale_discriminator(
            model,
            model.discriminator,
            (tokens for tokens, _ in again),
            checkpoint.model.discriminator_weight,
        )
    write_checkpoint(folder, model, replace(checkpoint, finished=not awaits_fine))
