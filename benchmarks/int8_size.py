"""How many bytes of a plan does a weight take in FP16 and in INT8, and why?

Compiles single kinds of layers, and whole networks with different kinds of layers in INT8, with
TensorRT for RTX, which needs no GPU. A kind's bytes per weight are the growth of the plan from a
narrow to a wide layer over the growth of its weights, so that what every plan carries does not
count. Blocks of zeros are counted too: weights that are padded to a kernel's tile show as zeros.
The plans of TensorRT on a Jetson are other ones.

    python benchmarks/int8_size.py
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from provenance import write_result

from agp_edge.calibration.fp16.half_graph import distance_tail, half_graph
from agp_edge.calibration.graph.model_file import set_manifest
from agp_edge.calibration.int8.qdq_graph import (
    Layer,
    calibrated_tensors,
    layers_of,
    only_layers,
    quantised_graph,
    with_half_scales,
)
from agp_edge.files import write_aside
from agp_edge.manifest import InputSpec, Manifest, OutputSpec
from agp_edge.plan.build import plan_from_onnx
from agp_edge.trainer.backbone import Backbone, backbone_options
from agp_edge.trainer.config import ModelConfig
from agp_edge.trainer.graph import graph_from_model
from agp_edge.trainer.model import AgpNet
from agp_edge.trainer.weights import pretrained_model

TARGET = 86
ZEROS = bytes(64)
NETWORKS = {"tf_efficientnet_lite0": ("wheel", 256), "vit_small_patch16_224": ("random", 256)}
VARIANTS: dict[str, Callable[[Layer], bool]] = {
    "int8, all layers": lambda layer: True,
    "int8, depthwise fp16": lambda layer: layer.op != "depthwise Conv",
    "int8, depthwise only": lambda layer: layer.op == "depthwise Conv",
    "int8, dense convolutions only": lambda layer: layer.op == "Conv",
    "int8, matrix products only": lambda layer: layer.op == "MatMul",
}


def compiled(model: onnx.ModelProto, precision: str, folder: Path) -> tuple[int, int]:
    """Bytes of the plan, and bytes of it that are zeros in blocks of 64."""
    document = Manifest(
        name="size",
        backbone="none",
        input=InputSpec(name="image", height=1, width=1, mean=(0.0,) * 3, std=(1.0,) * 3),
        output=OutputSpec(name="distance", height=1, width=1),
    )
    manifest: dict[str, Any] = json.loads(document.to_json())
    manifest["precision"]["asked"] = precision
    set_manifest(model, manifest)
    onnx.save(model, folder / "m.onnx")
    plan_from_onnx(folder / "m.onnx", folder / "m.plan", backend="rtx", targets=(TARGET,))
    plan = (folder / "m.plan").read_bytes()
    zeros = sum(plan[i : i + 64] == ZEROS for i in range(0, len(plan), 64)) * 64
    return len(plan), zeros


def one_layer(kind: str, channels: int) -> onnx.ModelProto:
    """A layer of a kind, and a ReLU."""
    rng = np.random.default_rng(0)
    shapes = {
        "1x1 convolution": (channels, channels, 1, 1),
        "3x3 depthwise convolution": (channels, 1, 3, 3),
        "matrix product": (channels, channels),
    }
    weights = rng.normal(size=shapes[kind]).astype(np.float32)
    shape = [1, 256, channels] if kind == "matrix product" else [1, channels, 16, 16]
    if kind == "matrix product":
        node = helper.make_node("MatMul", ["image", "w"], ["y"], name="layer")
    else:
        size = weights.shape[2]
        node = helper.make_node(
            "Conv", ["image", "w"], ["y"], name="layer", pads=[size // 2] * 4,
            group=channels if "depthwise" in kind else 1,
        )  # fmt: skip
    graph = helper.make_graph(
        [node, helper.make_node("Relu", ["y"], ["distance"], name="relu")],
        "layer",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("distance", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def network(name: str) -> onnx.ModelProto:
    """The trainer's network with its defaults; the decoder's weights are random."""
    weights, side = NETWORKS[name]
    torch.manual_seed(0)
    config = ModelConfig(backbone=name, height=side, width=side)
    full = pretrained_model(name, weights, **backbone_options(name, side, side))
    model = graph_from_model(
        AgpNet(config, Backbone(full.model, name, config.layers)).eval(), side, side
    )
    for index, node in enumerate(model.graph.node):
        node.name = f"node_{index}"
    return model


def int8_of(model: onnx.ModelProto, layers: Sequence[Layer]) -> onnx.ModelProto:
    """All layers in INT8; the ranges do not matter for the size."""
    full = quantised_graph(model, layers, dict.fromkeys(calibrated_tensors(layers), 4.0))
    return with_half_scales(full)


def kinds(folder: Path) -> list[dict[str, Any]]:
    """Each kind of layer, narrow and wide."""
    rows = []
    for kind, narrow, wide in (
        ("1x1 convolution", 512, 1024),
        ("3x3 depthwise convolution", 256, 1024),
        ("matrix product", 512, 1024),
    ):
        row: dict[str, Any] = {"kind": kind, "channels": [narrow, wide]}
        for precision in ("fp16", "int8"):
            sizes, weights = [], []
            for channels in (narrow, wide):
                model = one_layer(kind, channels)
                layers = layers_of(model)
                weights.append(layers[0].weights)
                graph = int8_of(model, layers) if precision == "int8" else model
                sizes.append(compiled(half_graph(graph, ()), precision, folder))
            growth = weights[1] - weights[0]
            row[precision] = {
                "plan_bytes": [size for size, _ in sizes],
                "bytes_per_weight": (sizes[1][0] - sizes[0][0]) / growth,
                "zero_bytes_per_weight": (sizes[1][1] - sizes[0][1]) / growth,
            }
        rows.append(row)
    return rows


def networks(folder: Path) -> dict[str, Any]:
    """Whole networks, with different kinds of layers in INT8."""
    found = {}
    for name in NETWORKS:
        model = network(name)
        layers = layers_of(model)
        weights = sum(layer.weights for layer in layers)
        tail = distance_tail(model.graph)
        full = int8_of(model, layers)
        rows = {
            "fp32": compiled(model, "fp32", folder),
            "fp16": compiled(half_graph(model, tail), "fp16", folder),
        }
        for variant, wanted in VARIANTS.items():
            names = {layer.name for layer in layers if wanted(layer)}
            if names:
                graph = half_graph(only_layers(full, layers, names), tail)
                rows[variant] = compiled(graph, "int8", folder)
        by_kind: dict[str, int] = {}
        for layer in layers:
            by_kind[layer.op] = by_kind.get(layer.op, 0) + layer.weights
        found[name] = {
            "weights": weights,
            "weights_by_kind": by_kind,
            "plans": {
                variant: {"plan_bytes": size, "zero_bytes": zeros, "per_weight": size / weights}
                for variant, (size, zeros) in rows.items()
            },
        }
    return found


def summary_lines(layers: list[dict[str, Any]], whole: dict[str, Any]) -> list[str]:
    """The Markdown tables."""
    lines = ["| layer | fp16 bytes a weight | INT8 | of them zeros |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {row['kind']} | {row['fp16']['bytes_per_weight']:.2f} "
        f"| {row['int8']['bytes_per_weight']:.2f} | {row['int8']['zero_bytes_per_weight']:.2f} |"
        for row in layers
    ]
    for name, entry in whole.items():
        lines += ["", f"{name}, {entry['weights']:,} weights:", ""]
        lines += ["| plan | bytes | a weight | zeros |", "| --- | --- | --- | --- |"]
        lines += [
            f"| {variant} | {row['plan_bytes']:,} | {row['per_weight']:.2f} "
            f"| {row['zero_bytes']:,} |"
            for variant, row in entry["plans"].items()
        ]
    return lines


def main() -> int:
    argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0]).parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        layers, whole = kinds(Path(folder)), networks(Path(folder))
    path = write_result(
        "int8_size", {"compiler": "TensorRT for RTX", "target": TARGET, "layers": layers,
                      "networks": whole}
    )  # fmt: skip
    lines = summary_lines(layers, whole)
    print("\n".join(lines))
    with write_aside(path.with_suffix(".md")) as aside:
        aside.write_text("\n".join([f"# {path.stem}", "", *lines]) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
