"""Training of one network for several products: each product by itself, then joined.

Writes products/NAME/ for each, a run like that of the product alone, and the joined checkpoint.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agp_edge.dataset import Dataset
from agp_edge.errors import ModelError
from agp_edge.trainer.checkpoint import load_model, write_checkpoint
from agp_edge.trainer.data import ImageReader, added_images, training_data
from agp_edge.trainer.log import write_log
from agp_edge.trainer.network import new_model, tensor_digest
from agp_edge.trainer.products import ProductsNet
from agp_edge.trainer.record import new_checkpoint
from agp_edge.trainer.setups import decided_size
from agp_edge.trainer.state import Identity, write_state
from agp_edge.trainer.train import TrainResult, train

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agp_edge.trainer.config import ModelConfig, TrainConfig
    from agp_edge.trainer.data import TrainingData
    from agp_edge.trainer.setups import SizeBudget
    from agp_edge.trainer.state import State

__all__ = ["train_products"]

FOLDER = "products"
_SCALED = 64  # good images of a product that its map's scale is known from
_BATCH = 16


def train_products(
    dataset: Dataset,
    folder: Path,
    model_config: ModelConfig,
    config: TrainConfig,
    *,
    state: State | None,
    size: SizeBudget | None,
    weights: str,
    device: str,
    processes: int,
    cache_dir: str | Path | None,
    progress: bool,
    say: Callable[[str], None],
) -> TrainResult:
    """Trains a branch per product and joins them.

    Args:
        dataset: of several products.
        folder: of the run.
        model_config: of the network; the number of products is set here.
        config: of the training; its setup is "multi-class".
        state: of the run that goes on; None: it is new.
        size: as `train` takes it; one size for all products.
        weights: as `train` takes it.
        device: as `train` takes it.
        processes: one: what is fitted and not trained gains nothing by more.
        cache_dir: as `train` takes it.
        progress: whether to show bars.
        say: is called with each line about what was chosen.

    Raises:
        DataError, ModelError, DependencyError, DeviceError: as `train`.
    """
    start = time.perf_counter()
    if processes != 1 or "TORCHELASTIC_RUN_ID" in os.environ:
        raise ModelError(
            "several processes were asked for, and the decoder of several products is "
            "fitted by one: leave --processes and torchrun out"
        )
    data = training_data(dataset, config, progress=progress)
    one, reason = decided_size(
        size,
        folder,
        data,
        replace(model_config, products=1),
        config,
        weights=weights,
        started=None if state is None else state.identity,
        say=say,
        progress=progress,
    )
    joined = replace(one, products=len(data.products))
    model, pretrained = new_model(joined, weights, config.seed)
    assert isinstance(model, ProductsNet)  # for the type checker: there are several
    identity = Identity(
        model=joined,
        train=config,
        weights=weights,
        backbone=tensor_digest(model.backbone),
        data=data.digest,
    )
    if state is None:
        write_state(folder, identity, [], model=model, twin=None, optimizer=None)
    else:
        identity.check(state.identity, folder)
        if state.history:  # written last: all of it is done, and its scales stay as they are
            return _result(folder, state.history[-1], start, data)
    reader = ImageReader(one.height, one.width, pretrained.mean, pretrained.std)
    errors = []
    for index, product in enumerate(data.products):
        own = tuple(
            replace(sample, product=None) for sample in dataset.train if sample.product == product
        )
        say(f"product {product}")
        result = train(
            Dataset(dataset.root, own, (), dataset.has_parts),
            folder / FOLDER / product,
            one,
            replace(config, setup="one-class"),
            weights=weights,
            resume=True,
            device=device,
            cache_dir=cache_dir,
            progress=progress,
            say=say,
        )
        errors.append(result.held_out_error)
        known = [sample for sample in data.train if sample.product == product]
        some = known[:: -(-len(known) // _SCALED)]
        images = (reader.read(some[i : i + _BATCH]) for i in range(0, len(some), _BATCH))
        model.set_branch(index, load_model(result.folder)[0].trained_state(), images)
    known_errors = [error for error in errors if error is not None]
    entry = {
        "epoch": 0,
        "held_out_error": sum(known_errors) / len(errors) if known_errors == errors else None,
        "seconds": round(time.perf_counter() - start, 3),
    }
    checkpoint = new_checkpoint(folder, identity, pretrained, data, entry, size_reason=reason)
    write_checkpoint(folder, model, replace(checkpoint, finished=True))
    write_state(folder, identity, [entry], model=model, twin=None, optimizer=None)
    write_log(folder, [entry])
    return _result(folder, entry, start, data)


def _result(folder: Path, entry: dict[str, Any], start: float, data: TrainingData) -> TrainResult:
    return TrainResult(
        folder=folder,
        epochs=1,
        best_epoch=0,
        held_out_error=entry["held_out_error"],
        seconds=time.perf_counter() - start,
        added=len(added_images(data)),
        is_first=True,
    )
