"""Quantisation-aware training: an ONNX file and its checkpoint -> an FP32 graph to quantise.

The weights of the result are meant to be rounded: as an FP32 model it is worth no more than the
original.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from agp_edge.calibration.graph.model_file import with_names
from agp_edge.calibration.int8.qdq_graph import layers_of
from agp_edge.dependencies import require
from agp_edge.errors import ModelError
from agp_edge.files import write_aside

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto

    from agp_edge.calibration.int8.journal import Journal
    from agp_edge.calibration.int8.qdq_graph import Layer
    from agp_edge.calibration.int8.work import Work
    from agp_edge.dataset import Sample
    from agp_edge.trainer.model import AgpNet

__all__ = ["STEPS", "network_of", "tuned_graph"]

STEPS = 40  # of the optimiser: two minutes of one CPU core for the default model


def network_of(checkpoint: str | os.PathLike[str], work: Work) -> AgpNet:
    """The network that the ONNX file was exported from.

    Raises:
        ModelError: the checkpoint is unusable, or that of another model.
        DependencyError: torch or another part of the training is not installed.
    """
    require("torch", extra="train")
    from agp_edge.trainer.checkpoint import load_model  # noqa: PLC0415  (torch)

    network, info = load_model(str(checkpoint))
    if info.weights_digest != work.manifest["hashes"].get("weights"):
        raise ModelError(
            f"'{work.source}' was not exported from the checkpoint '{checkpoint}' (other weights): "
            "give the run that it came from, or export this one"
        )
    return network


def tuned_graph(
    work: Work,
    network: AgpNet,
    images: Sequence[Sample],
    limits: Mapping[str, float],
    *,
    rounded: Collection[str],
    trained: Collection[str],
    steps: int,
    kept: Path,
    journal: Journal,
) -> ModelProto:
    """The FP32 graph after a fine-tuning in which layers are rounded to INT8.

    Args:
        work: the model.
        network: of `network_of`.
        images: good ones, which the held-out ones are not among.
        limits: ranges of the model's tensors.
        rounded: names of the layers that are to be INT8.
        trained: names of the layers whose weights may change; of those.
        steps: of the optimiser.
        kept: where the graph is kept for an interrupted run that goes on.
        journal: knows whether that is this run's.

    Raises:
        ModelError: the training diverged, or the checkpoint's graph is no longer the file's.
    """
    import onnx  # noqa: PLC0415  (heavy)

    digest = journal.get("tuned", "graph")
    if digest is not None and kept.is_file() and _sha256(kept) == digest:
        return onnx.load(kept)
    # torch, needed for this method alone
    from agp_edge.calibration.int8.finetune import finetuned  # noqa: PLC0415
    from agp_edge.trainer.graph import graph_from_model  # noqa: PLC0415

    layers = work.layers()
    result = finetuned(
        network,
        layers,
        limits,
        _inputs(work, images),
        rounded=rounded,
        trained=trained,
        steps=steps,
        bar=work.bar("train", "step"),
    )
    graph = graph_from_model(result, *work.shape)
    del graph.metadata_props[:]
    _take_names(with_names(graph), layers, work.source)
    with write_aside(kept) as aside:
        aside.write_bytes(graph.SerializeToString())
    journal.put("tuned", "graph", _sha256(kept))
    return graph


def _take_names(graph: ModelProto, layers: Sequence[Layer], source: str) -> None:
    """Gives the layers the names that they have in the file: the exporter numbers as it goes."""
    found = layers_of(graph)
    if [(x.op, x.weights) for x in found] != [(x.op, x.weights) for x in layers]:
        raise ModelError(
            f"'{source}' was exported by another version, whose graph has other layers: export the "
            "checkpoint again and quantise that file"
        )
    names = {new.name: old.name for new, old in zip(found, layers, strict=True)}
    taken = set(names.values())
    for node in graph.graph.node:
        if node.name in names:
            node.name = names[node.name]
        elif node.name in taken:
            node.name = f"{node.name}_{node.output[0]}"


def _inputs(work: Work, images: Sequence[Sample]) -> Callable[[int], NDArray[np.float32]]:
    """Inputs (3, H, W) by number: all images in random order, then in another."""

    def make(number: int) -> NDArray[np.float32]:
        turn, place = divmod(number, len(images))
        order = np.random.default_rng(turn).permutation(len(images))
        return work.input_of(images[int(order[place])].path)[0]

    return make


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
