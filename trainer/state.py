"""The training state: writes and reads runs/NAME/state.safetensors, all that --resume needs.

One file holds the tensors (decoder, whitening, momentum copy, optimiser) and, as JSON in its
header, the history of epochs and what makes the run this run. It is replaced after each epoch, so
that a killed run has the old state or the new one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file

from agp_edge.errors import DataError, ModelError
from agp_edge.files import write_aside
from agp_edge.trainer.checkpoint import read_header, read_tensors
from agp_edge.trainer.config import ModelConfig, TrainConfig, config_from_dict, config_to_dict

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor, nn

    from agp_edge.trainer.model import AgpNet

__all__ = ["Identity", "State", "read_state", "restore", "write_state"]

STATE_NAME = "state.safetensors"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What must be equal for a run to be the same run."""

    model: ModelConfig
    train: TrainConfig
    weights: str  # of the backbone, as the caller gave it
    backbone: str  # hash of the backbone's tensors
    data: str  # hash of the training images

    def check(self, started: Identity, folder: Path) -> None:
        """Refuses to go on with a run that was started as another one.

        Raises:
            ModelError: a setting or the backbone's weights differ.
            DataError: the training images differ.
        """
        for before, now in ((started.model, self.model), (started.train, self.train)):
            old, new = config_to_dict(before), config_to_dict(now)
            for key in new:
                if old[key] != new[key]:
                    raise ModelError(
                        f"run '{folder}' was started with {key} = {old[key]!r}, now it is "
                        f"{new[key]!r}; resume with the same settings or start another run"
                    )
        if started.data != self.data:
            raise DataError(
                f"run '{folder}' was started on other training images; resume with the same "
                "images or start another run"
            )
        if started.backbone != self.backbone:
            raise ModelError(
                f"run '{folder}' was started with other backbone weights ('{started.weights}', now "
                f"'{self.weights}'); resume with the same or start another run"
            )


@dataclass(frozen=True)
class State:
    """A run after one of its epochs."""

    identity: Identity
    history: list[dict[str, Any]]  # one entry per finished epoch, as in log.jsonl
    tensors: dict[str, Tensor]


def write_state(
    folder: Path,
    identity: Identity,
    history: list[dict[str, Any]],
    *,
    model: AgpNet,
    twin: nn.Module | None,
    optimizer: torch.optim.Optimizer | None,
) -> None:
    """Writes the state after an epoch.

    Args:
        folder: of the run.
        identity: of the run.
        history: of all epochs so far.
        model: what `trained_state` gives is saved; the backbone does not change.
        twin: the decoder's momentum copy, if there is one.
        optimizer: of the decoder, if it is trained.
    """
    tensors = {f"model.{key}": tensor for key, tensor in model.trained_state().items()}
    if twin is not None:
        tensors.update({f"twin.{key}": tensor for key, tensor in twin.state_dict().items()})
    trained = {} if optimizer is None else optimizer.state_dict()["state"]
    for index, values in trained.items():
        tensors.update({f"optimizer.{index}.{key}": value for key, value in values.items()})
    document = {
        "model": config_to_dict(identity.model),
        "train": config_to_dict(identity.train),
        "weights": identity.weights,
        "backbone": identity.backbone,
        "data": identity.data,
        "history": history,
    }
    contiguous = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    with write_aside(folder / STATE_NAME) as aside:
        save_file(contiguous, aside, {"state": json.dumps(document)})


def read_state(folder: Path) -> State | None:
    """The state of a run; None where no epoch has finished yet.

    Raises:
        ModelError: the file is not a state of ours.
    """
    path = folder / STATE_NAME
    if not path.exists():
        return None
    tensors, header = read_tensors(path), read_header(path)
    try:
        document = json.loads(header["state"])
        identity = Identity(
            model=config_from_dict(ModelConfig, document["model"], f"'{path}'"),
            train=config_from_dict(TrainConfig, document["train"], f"'{path}'"),
            weights=document["weights"],
            backbone=document["backbone"],
            data=document["data"],
        )
        return State(identity, list(document["history"]), tensors)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"'{path}' is not a training state of ours; start another run") from error


def restore(
    state: State,
    model: AgpNet,
    twin: nn.Module | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Puts the tensors back to where `write_state` took them from."""
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "twin": {}, "optimizer": {}}
    for name, tensor in state.tensors.items():
        part, _, key = name.partition(".")
        parts[part][key] = tensor
    model.load_trained_state(parts["model"])
    if twin is not None:
        twin.load_state_dict(parts["twin"])
    if optimizer is None:
        return
    values: dict[int, dict[str, Tensor]] = {}
    for name, tensor in parts["optimizer"].items():
        index, _, key = name.partition(".")
        values.setdefault(int(index), {})[key] = tensor
    document = optimizer.state_dict()
    document["state"] = values
    optimizer.load_state_dict(document)
