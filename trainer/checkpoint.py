"""Checkpoint and training state: tensors as safetensors, the rest as JSON; neither runs code.

runs/NAME/checkpoint.safetensors   the best epoch's weights, backbone included
runs/NAME/checkpoint.json          what they are: configs, data, backbone, epoch
runs/NAME/state.safetensors        all that --resume needs; rewritten after each epoch
"""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from agp_edge.errors import ModelError
from agp_edge.files import write_aside
from agp_edge.trainer.config import ModelConfig, TrainConfig, config_from_dict, config_to_dict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from agp_edge.trainer.model import AgpNet

__all__ = [
    "Checkpoint",
    "file_digest",
    "load_model",
    "read_checkpoint",
    "read_header",
    "read_tensors",
    "write_checkpoint",
]

FORMAT = "5.0"
WEIGHTS_NAME = "checkpoint.safetensors"
DOCUMENT_NAME = "checkpoint.json"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """checkpoint.json: everything about the weights beside it."""

    name: str
    model: ModelConfig
    train: TrainConfig
    weights_source: str  # of the backbone, for people
    mean: tuple[float, float, float]  # 8-bit pixel units, RGB
    std: tuple[float, float, float]
    data_root: str  # absolute at training time
    data_digest: str  # "sha256:<hex>" of all training images
    train_files: tuple[str, ...]  # relative to data_root
    stop_files: tuple[str, ...] = ()  # early stop's; no part of these or those is held out below
    held_out: tuple[tuple[str, str | None], ...]  # file, part; the threshold's
    held_out_products: tuple[str, ...] = ()  # of each of these; (): there is one product
    products: tuple[str, ...] = ()  # names; (): one
    size_reason: str = "as given"  # why the input has this size
    epoch: int
    held_out_error: float | None  # on early stop's images
    finished: bool = False  # the training ended, and what is fitted after the loop is there
    weights_digest: str = ""  # "sha256:<hex>" of checkpoint.safetensors
    versions: dict[str, str] = field(default_factory=dict)
    created: str = ""  # ISO 8601, UTC


def write_checkpoint(folder: Path, model: AgpNet, checkpoint: Checkpoint) -> None:
    """Writes weights and JSON.

    The weights' file holds the document in its header too: a run that is killed between the two
    files leaves weights of one epoch and JSON of another, and still can be read.
    """
    tensors = {key: tensor.cpu().contiguous() for key, tensor in model.state_dict().items()}
    document = {
        "format": FORMAT,
        **{
            key: config_to_dict(value) if isinstance(value, ModelConfig | TrainConfig) else value
            for key, value in vars(checkpoint).items()
        },
    }
    path = folder / WEIGHTS_NAME
    with write_aside(path) as aside:
        save_file(tensors, aside, {DOCUMENT_NAME: json.dumps(document)})
    document["weights_digest"] = file_digest(path)
    with write_aside(folder / DOCUMENT_NAME) as aside:
        aside.write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8")


def read_checkpoint(path: str | Path) -> tuple[Checkpoint, Path]:
    """The document of a run folder, checkpoint.json or checkpoint.safetensors, and the folder.

    It is checkpoint.json where that names the hash of the weights' file, else the header of that
    file.

    Raises:
        ModelError: a file is missing, cut or of a newer version.
    """
    given = Path(path)
    folder = given if given.is_dir() else given.parent
    document, weights = folder / DOCUMENT_NAME, folder / WEIGHTS_NAME
    for needed in (document, weights):
        if not needed.is_file():
            raise ModelError(
                f"checkpoint '{given}': '{needed}' does not exist; give the folder that "
                "`agp-edge train` wrote"
            )
    try:
        checkpoint = _checkpoint_from(document.read_text(encoding="utf-8"), document)
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"'{document}' cannot be read: {error}") from error
    digest = file_digest(weights)
    if checkpoint.weights_digest != digest:
        header = read_header(weights).get(DOCUMENT_NAME, "")
        checkpoint = replace(_checkpoint_from(header, weights), weights_digest=digest)
    return checkpoint, folder


def load_model(path: str | Path) -> tuple[AgpNet, Checkpoint]:
    """The network of a checkpoint, in inference mode on the CPU; needs no other weights.

    Raises:
        ModelError: as `read_checkpoint`, or the weights do not fit the model.
    """
    # the network's modules are heavy and not needed to read a state
    from agp_edge.trainer.network import frozen_backbone  # noqa: PLC0415
    from agp_edge.trainer.products import network  # noqa: PLC0415

    checkpoint, folder = read_checkpoint(path)
    backbone, _ = frozen_backbone(checkpoint.model, "random")
    model = network(checkpoint.model, backbone)
    tensors = read_tensors(folder / WEIGHTS_NAME)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[0]
        raise ModelError(f"the weights of '{folder}' do not fit its model: {first}") from error
    return model.eval(), checkpoint


def file_digest(path: Path) -> str:
    """Hash of a file's bytes, "sha256:<hex>"."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ModelError: the file is missing, cut or of another kind.
    """
    with _opened(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (no mapping)


def read_header(path: Path) -> dict[str, str]:
    """The strings in the header of a safetensors file.

    Raises:
        ModelError: the file is missing, cut or of another kind.
    """
    with _opened(path) as file:
        return dict(file.metadata() or {})


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise ModelError(f"'{path}' cannot be read ({error}); is it cut?") from error


def _checkpoint_from(text: str, path: Path) -> Checkpoint:
    """The checkpoint that a JSON document describes; `path` is named in messages."""
    try:
        document = json.loads(text)
        version = document.pop("format")
        major = int(version.split(".", maxsplit=1)[0])
        if major < int(FORMAT.split(".", maxsplit=1)[0]):
            raise ModelError(
                f"'{path}' has the format {version} of a network that this version has no more; "
                "train again"
            )
        if major > int(FORMAT.split(".", maxsplit=1)[0]):
            raise ModelError(
                f"'{path}' has the format {version}; this version reads {FORMAT}: update agp-edge"
            )
        return Checkpoint(
            **{
                **document,
                "model": config_from_dict(ModelConfig, document["model"], f"'{path}'"),
                "train": config_from_dict(TrainConfig, document["train"], f"'{path}'"),
                "mean": tuple(document["mean"]),
                "std": tuple(document["std"]),
                **{
                    key: tuple(document.get(key, ()))
                    for key in ("stop_files", "held_out_products", "products")
                },
                "train_files": tuple(document["train_files"]),
                "held_out": tuple((file, part) for file, part in document["held_out"]),
            }
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"'{path}' is not a checkpoint of ours ({error}); train again") from error
