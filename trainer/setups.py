"""The three setups: one-class, multi-class, few-shot; and what differs between their defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agp_edge.dataset import open_dataset, open_products
from agp_edge.errors import DataError
from agp_edge.trainer.config import ModelConfig, TrainConfig

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from agp_edge.dataset import Dataset

__all__ = ["SETUPS", "open_setup", "setup_defaults"]

SETUPS = ("one-class", "multi-class", "few-shot")


def setup_defaults(setup: str) -> tuple[ModelConfig, TrainConfig]:
    """The configs that a setup starts from."""
    return ModelConfig(), TrainConfig(setup=setup)


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
