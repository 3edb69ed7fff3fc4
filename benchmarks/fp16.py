"""How far do scores move in FP16, and what do the first layers in FP32 save?

Reads an FP32 model and a folder of images, rounds every FP16 tensor (as the check of `agp-edge
build --precision fp16` does), and keeps ever more of the first layers in FP32. Synthetic frames
stand beside the images: they are what the check has where no images are given.

    python benchmarks/magnetic_tile.py --seeds 1 --sets mono --output ...   # or any other model
    python benchmarks/fp16.py mono.onnx runs/demo/data/test
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from provenance import write_result

from agp_edge.calibration.fp16.convert import ENTRANCE_SHARES, IMAGE_LIMIT
from agp_edge.calibration.fp16.half_graph import distance_tail, entrance, half_graph, rounded_graph
from agp_edge.calibration.graph.model_file import load_fp32, scorer
from agp_edge.images import list_images, read_image
from agp_edge.manifest import read_manifest_text
from agp_edge.self_test import self_test_frame

SYNTHETIC = 20


def figures(errors: np.ndarray) -> dict[str, float]:
    """Of |difference| / FP32 score; and the maximum that 16 images show, in the median."""
    starts = range(0, max(1, len(errors) - IMAGE_LIMIT + 1), IMAGE_LIMIT)
    return {
        "max": float(errors.max()),
        "p99": float(np.quantile(errors, 0.99)),
        "mean": float(errors.mean()),
        "max_of_16": float(np.median([errors[at : at + IMAGE_LIMIT].max() for at in starts])),
    }


def main() -> int:
    """Measure, print, write benchmarks/results/fp16.json."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("images")
    parser.add_argument("--limit", type=int, default=200)
    args = parser.parse_args()

    text, manifest = read_manifest_text(args.model)
    model = load_fp32(args.model, manifest)
    paths = list_images(args.images)
    order = np.random.default_rng(0).permutation(len(paths))[: args.limit]
    images = [read_image(paths[index]) for index in order]
    frames = images + [self_test_frame(manifest, seed) for seed in range(1, SYNTHETIC + 1)]
    score = scorer(text, args.model, "the FP32 model")
    expected = np.array([score(frame)[0] for frame in frames])
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        file = Path(folder) / "rounded.onnx"
        for share in (0.0, *ENTRANCE_SHARES):
            first = entrance(model.graph, share)
            half = half_graph(model, distance_tail(model.graph) | first)
            file.write_bytes(rounded_graph(half).SerializeToString())
            score = scorer(text, str(file), "the FP16 model")
            errors = np.abs(np.array([score(frame)[0] for frame in frames]) / expected - 1)
            rows.append(
                {
                    "entrance_share": share,
                    "entrance_nodes": len(first),
                    "images": figures(errors[: len(images)]),
                    "synthetic": figures(errors[len(images) :]),
                }
            )
            print(rows[-1], flush=True)
    write_result(
        "fp16",
        {
            "model": manifest["name"],
            "backbone": manifest["backbone"],
            "hashes": manifest.get("hashes"),
            "n_images": len(images),
            "rows": rows,
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
