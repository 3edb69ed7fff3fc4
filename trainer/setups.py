"""The three setups: one-class, multi-class, few-shot; and what differs between their defaults."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from agp_edge.dataset import open_dataset, open_products, part_of
from agp_edge.errors import DataError
from agp_edge.files import write_aside
from agp_edge.trainer.config import FITTED, ModelConfig, TrainConfig
from agp_edge.trainer.network import new_model

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from agp_edge.dataset import Dataset
    from agp_edge.trainer.data import TrainingData
    from agp_edge.trainer.state import Identity

__all__ = [
    "SETUPS",
    "SizeBudget",
    "decided_augment",
    "decided_size",
    "open_setup",
    "setup_defaults",
]

SIZE_NAME = "size.json"

SETUPS = ("one-class", "multi-class", "few-shot")


def setup_defaults(setup: str, decoder: str | None = None) -> tuple[ModelConfig, TrainConfig]:
    """The configs that a setup starts from with that decoder; None: the default one."""
    decoder = decoder or ModelConfig.decoder
    if setup == "few-shot":
        # From copies of a few images no full covariance can be learned.
        return ModelConfig(decoder=decoder, shrinkage=1.0), TrainConfig(setup=setup)
    if setup == "multi-class":
        # One decoder for all: a position means something else in each product. What is fitted has
        # a branch per product (products.py).
        position = decoder in FITTED
        return ModelConfig(decoder=decoder, position_scale=position), TrainConfig(setup=setup)
    return ModelConfig(decoder=decoder), TrainConfig(setup=setup)


def open_setup(setup: str, folders: Sequence[str | os.PathLike[str]]) -> Dataset:
    """The data set that a setup trains on.

    Args:
        setup: one of SETUPS.
        folders: one data set; with "multi-class" one per product, or a folder of them.

    Raises:
        DataError: as `open_dataset` and `open_products`, or there are too many folders.
    """
    if setup == "multi-class":
        return open_products(folders)
    if len(folders) != 1:
        raise DataError(
            f"{len(folders)} data sets were given to setup '{setup}', which learns one product; "
            "give one, or train one model for all with --setup multi-class"
        )
    return open_dataset(folders[0])


@dataclass(frozen=True)
class SizeBudget:
    """That the input size is to be chosen, and within what."""

    milliseconds: float | None = None  # per frame of the network on this machine; None: no limit
    required: bool = True  # whether too few images are an error; else the size then stays


def decided_augment(
    dataset: Dataset,
    model_config: ModelConfig,
    config: TrainConfig,
    *,
    weights: str,
    started: Identity | None,
    say: Callable[[str], None],
) -> TrainConfig:
    """The config with augment="auto" replaced: as the run was started, or by the good images."""
    if config.augment != "auto":
        return config
    if started is not None:
        return replace(config, augment=started.train.augment)
    if config.setup != "few-shot" or not dataset.train:
        return replace(config, augment="shift")
    from agp_edge.trainer.few_shot import choose_augment  # noqa: PLC0415  (few trainings need it)

    augment, reason = choose_augment(
        dataset.train,
        model_config,
        lambda config_: new_model(config_, weights, config.seed),
        config.seed,
    )
    say(reason)
    return replace(config, augment=augment)


def decided_size(
    budget: SizeBudget | None,
    folder: Path,
    data: TrainingData,
    model_config: ModelConfig,
    config: TrainConfig,
    *,
    weights: str,
    started: Identity | None,
    say: Callable[[str], None],
    progress: bool,
) -> tuple[ModelConfig, str]:
    """The config with its input size decided, and why it has this size.

    A choice is written to size.json in the run's folder, all candidates in it.

    Args:
        budget: None: the size stays.
        folder: of the run.
        data: its training side is looked at.
        model_config: where the choice starts from.
        config: seed and setup are used.
        weights: of the backbone.
        started: the run that is resumed; it keeps its size.
        say: is called with each line of the table.
        progress: whether to show a bar.

    Raises:
        DataError, ModelError: as `choose_size`.
    """
    table = folder / SIZE_NAME
    reason = "as given"
    if started is not None and table.is_file():
        reason = json.loads(table.read_text(encoding="utf-8"))["reason"]
    if started is not None and budget is not None:
        same = ("height", "width", "layers", "decoder", "decoder_width", "bottleneck")
        kept = {name: getattr(started.model, name) for name in same}
        return replace(model_config, **kept), reason
    if started is not None or budget is None:
        return model_config, reason
    from agp_edge.trainer.size import LEAST_PARTS, choose_size  # noqa: PLC0415  (heavy)

    samples = [*data.train, *data.stop]
    few = config.setup == "few-shot"
    if few and budget.required:
        raise DataError(
            "few-shot training has no images to choose the input size by; give it, e.g. --size 256"
        )
    if few or (not budget.required and len({part_of(s) for s in samples}) < LEAST_PARTS):
        size = f"{model_config.height}x{model_config.width}"
        return model_config, f"{size}: too few good images to choose by"
    choice = choose_size(
        samples,
        model_config,
        lambda config_: new_model(config_, weights, config.seed),
        seed=config.seed,
        budget_ms=budget.milliseconds,
        progress=progress,
    )
    for line in choice.lines():
        say(line)
    with write_aside(table) as aside:
        aside.write_text(json.dumps(asdict(choice), indent=1), encoding="utf-8")
    return choice.config, choice.reason
