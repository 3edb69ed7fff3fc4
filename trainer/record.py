"""What a run writes about itself beside its weights: the checkpoint's document."""

from __future__ import annotations

import datetime
from importlib import metadata
from typing import TYPE_CHECKING, Any

from agp_edge.trainer.checkpoint import Checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from agp_edge.dataset import Sample
    from agp_edge.trainer.data import TrainingData
    from agp_edge.trainer.state import Identity
    from agp_edge.trainer.weights import Pretrained

__all__ = ["new_checkpoint"]


def new_checkpoint(
    folder: Path,
    identity: Identity,
    pretrained: Pretrained,
    data: TrainingData,
    entry: dict[str, Any],
    *,
    size_reason: str,
) -> Checkpoint:
    """The document of an epoch.

    Args:
        folder: of the run; its name is the model's.
        identity: of the run.
        pretrained: the backbone.
        data: what the run sees.
        entry: of the epoch, from the history.
        size_reason: why the input has this size.
    """
    held_out = {  # each once, as in _names
        (sample.path.relative_to(data.root).as_posix(), sample.part): sample.product
        for sample in data.held_out
    }
    return Checkpoint(
        name=folder.resolve().name,
        model=identity.model,
        train=identity.train,
        weights_source=pretrained.source,
        mean=pretrained.mean,
        std=pretrained.std,
        data_root=str(data.root.resolve()),
        data_digest=data.digest,
        products=data.products,
        train_files=_names(data, data.train),
        stop_files=_names(data, data.stop),
        held_out=tuple(held_out),
        held_out_products=tuple(product for product in held_out.values() if product is not None),
        size_reason=size_reason,
        epoch=entry["epoch"],
        held_out_error=entry["held_out_error"],
        versions={name: metadata.version(name) for name in ("agp-edge", "torch", "timm")},
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )


def _names(data: TrainingData, samples: tuple[Sample, ...]) -> tuple[str, ...]:
    """Paths from the root, each once: few-shot training has many copies of an image."""
    names = (sample.path.relative_to(data.root).as_posix() for sample in samples)
    return tuple(dict.fromkeys(names))
