"""Quantisation-aware fine-tuning: a checkpoint and good images -> weights that bear eight bits.

The FP32 network teaches a copy of itself whose layers round as the INT8 graph will: at the same
places, by the same scales, gradients straight through the rounding (Bengio, Leonard and Courville
2013). The copy learns the teacher's features and distance map, so that no labels are needed.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from agp_edge.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from agp_edge.calibration.int8.qdq_graph import Layer
    from agp_edge.trainer.model import AgpNet

__all__ = ["finetuned", "rounded_copy"]

LEARNING_RATE = 1e-4  # Adam, at its peak
BATCH = 8
_SMALLEST_SCALE = 2.0**-24  # of FP16
_ATEN = torch.ops.aten
_LAYERS = (_ATEN.conv2d.default, _ATEN.linear.default, _ATEN.matmul.default)
_ADDITIONS = (_ATEN.add.Tensor, _ATEN.add_.Tensor)


class _Observed(nn.Module):
    """Image -> distance map and the backbone's features."""

    def __init__(self, network: AgpNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        features = self.network.backbone(image)
        return self.network.distance_map(features), *features


def finetuned(
    network: AgpNet,
    layers: Sequence[Layer],
    limits: Mapping[str, float],
    images: Callable[[int], NDArray[np.float32]],
    *,
    rounded: Collection[str],
    trained: Collection[str],
    steps: int,
    bar: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> AgpNet:
    """A copy of the network that loses less when layers are rounded to INT8.

    Args:
        network: in inference mode, on the CPU; not changed.
        layers: all of the network's exported graph (`qdq_graph.layers_of`).
        limits: the ranges of the tensors that layers read.
        images: an input (3, H, W) by its number, from 0 on.
        rounded: names of the layers that are rounded.
        trained: names of those among them whose weights may change.
        steps: of the optimiser, each of `BATCH` images.
        bar: wraps the steps; shows progress.

    Raises:
        ModelError: the layers are not those of the network, or training diverged.
    """
    teacher = _Observed(network)
    example = torch.from_numpy(np.stack([images(0)] * BATCH))
    student, weights = rounded_copy(
        network, layers, limits, example, rounded=rounded, trained=trained
    )
    optimizer = torch.optim.Adam(weights, lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1
    )
    for step in bar(range(steps)):
        batch = torch.from_numpy(np.stack([images(step * BATCH + i) for i in range(BATCH)]))
        with torch.no_grad():
            expected = teacher(batch)
        distance, *features = (
            functional.mse_loss(got, wanted) / wanted.square().mean()
            for got, wanted in zip(student(batch), expected, strict=True)
        )
        loss = distance + torch.stack(features).mean()
        if not torch.isfinite(loss):
            raise ModelError(
                f"quantisation-aware training diverged at step {step + 1}: quantise without it"
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
    state = student.state_dict()
    result = copy.deepcopy(network)
    result.load_state_dict({key: state[f"network.{key}"] for key in result.state_dict()})
    return result.eval()


def rounded_copy(
    network: AgpNet,
    layers: Sequence[Layer],
    limits: Mapping[str, float],
    example: Tensor,
    *,
    rounded: Collection[str],
    trained: Collection[str],
) -> tuple[torch.fx.GraphModule, list[Tensor]]:
    """The network with fake quantisation where the INT8 graph has its Q/DQ pairs.

    Batch normalisation is folded into the exported weights but not here: one scale per output
    channel rounds both alike.

    Args:
        network: not changed.
        layers: of its exported graph.
        limits: ranges of the tensors they read.
        example: (B, 3, H, W); inputs have its shape.
        rounded: names of the layers that are rounded.
        trained: names of those among them whose weights may change.

    Returns:
        A module image -> (distance map, features...), and those of its tensors that are trained.

    Raises:
        ModelError: the layers are not those of the network.
    """
    module = _traced(copy.deepcopy(network), example)
    constants = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for tensor in constants.values():
        tensor.requires_grad_(False)
    nodes = [
        node
        for node in module.graph.nodes
        if node.target in _LAYERS
        and isinstance(node.args[1], torch.fx.Node)
        and node.args[1].op == "get_attr"
        # stacks of matrices are no layers, see `qdq_graph.layers_of`
        and (node.target is not _ATEN.matmul.default or constants[node.args[1].target].ndim == 2)
    ]
    sizes = [constants[node.args[1].target].numel() for node in nodes]
    if sizes != [layer.weights for layer in layers]:
        raise ModelError(
            f"the checkpoint has {len(sizes)} layers of other sizes than the {len(layers)} of the "
            "ONNX file: export the checkpoint again and quantise that file"
        )
    weights: list[Tensor] = []
    for node, layer in zip(nodes, layers, strict=True):
        if layer.name not in rounded:
            continue
        if layer.name in trained:
            weights += [constants[name].requires_grad_() for name in _own_constants(node)]
        _round(module.graph, node, 0, limits[layer.activation])
        with module.graph.inserting_before(node):
            axis = 1 if node.target is _ATEN.matmul.default else 0
            weight = module.graph.call_function(_rounded_weight, (node.args[1], axis))
        node.update_arg(1, weight)
        if layer.shortcut is not None:
            _round_shortcut(module.graph, node, limits[layer.shortcut])
    module.recompile()
    return module, weights


def _traced(network: AgpNet, example: Tensor) -> torch.fx.GraphModule:
    """The operators in the order in which the exporter to ONNX sees them."""
    module: torch.fx.GraphModule = torch.export.export(_Observed(network), (example,)).module()
    return module


def _round(graph: torch.fx.Graph, node: torch.fx.Node, index: int, limit: float) -> None:
    scale = _half(limit / 127.0)
    with graph.inserting_before(node):
        rounded = graph.call_function(
            torch.fake_quantize_per_tensor_affine, (node.args[index], scale, 0, -128, 127)
        )
    node.update_arg(index, rounded)


def _round_shortcut(graph: torch.fx.Graph, node: torch.fx.Node, limit: float) -> None:
    """Rounds what is added to a convolution's result, behind its batch normalisation."""
    while len(node.users) == 1:
        (user,) = node.users
        if user.target in _ADDITIONS:
            _round(graph, user, 1 if user.args[0] is node else 0, limit)
            return
        if user.target is not _ATEN.batch_norm.default:
            return
        node = user


def _own_constants(node: torch.fx.Node) -> list[str]:
    """Names of a layer's weight and bias, and of the batch normalisation behind it."""
    found = [node.args[1], *node.args[2:3]]
    if len(node.users) == 1 and next(iter(node.users)).target is _ATEN.batch_norm.default:
        found += next(iter(node.users)).args[1:3]
    return [
        str(item.target)
        for item in found
        if isinstance(item, torch.fx.Node) and item.op == "get_attr"
    ]


def _rounded_weight(weight: Tensor, axis: int) -> Tensor:
    others = [dim for dim in range(weight.ndim) if dim != axis]
    scale = weight.detach().abs().amax(dim=others) / 127.0
    scale = scale.half().float().clamp(min=_SMALLEST_SCALE)
    zeros = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zeros, axis, -128, 127)


def _half(value: float) -> float:
    return max(float(np.float16(value)), _SMALLEST_SCALE)
