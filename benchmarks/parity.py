"""Do torch, ONNX Runtime, OpenVINO and the Detector say the same on real images?

Four ways from an image file to score and anomaly map. The first three share nothing with the C++
library: resized, normalised, upsampled, blurred by PyTorch and SciPy, with the network in torch,
in ONNX Runtime or in OpenVINO. The other two are `agp_edge.Detector` with each CPU engine.
Prints the largest differences from the first way; writes benchmarks/results/parity.json.

    python benchmarks/parity.py [CHECKPOINT] [--images 50]

Without CHECKPOINT a small model is trained on 48 solar cells first. The images are solar cells
(elpv-dataset) and, where the folder AGP_EDGE_DATA (default ../shared/data) holds them, magnetic
tiles, whose sizes all differ.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
import torch
from numpy.typing import NDArray
from provenance import write_result
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

from agp_edge import Detector, read_manifest
from agp_edge.dataset import open_dataset
from agp_edge.demo_data import lay_out_cells, read_cells
from agp_edge.images import list_images, read_image
from agp_edge.trainer.checkpoint import load_model
from agp_edge.trainer.export import onnx_from_checkpoint
from agp_edge.trainer.train import train

ROOT = Path(__file__).parents[1]
TOLERANCE = 1e-3  # of scores, relative; of maps, share of the reference map's range

Answer = tuple[float, NDArray[np.float32]]
Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Difference:
    """The largest differences from the reference over some images."""

    images: int
    score_absolute: float
    score_relative: float
    map_absolute: float
    map_share: float  # of the range of the reference's map

    @property
    def is_within_tolerance(self) -> bool:
        """Whether scores and maps agree; false for NaN."""
        return self.score_relative <= TOLERANCE and self.map_share <= TOLERANCE


def tensor_from(image: NDArray[np.uint8], spec: dict[str, Any]) -> NDArray[np.float32]:
    """Image as stored (BGR or grey) -> float32 (1, 3, height, width), by PyTorch in float64."""
    pixels = np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else image[:, :, ::-1]
    planes = torch.from_numpy(pixels.astype(np.float64).transpose(2, 0, 1).copy())[None]
    resized = torch.nn.functional.interpolate(
        planes, (spec["height"], spec["width"]), mode="bilinear", antialias=True
    )
    mean, std = (np.reshape(spec[key], (1, 3, 1, 1)) for key in ("mean", "std"))
    return ((resized.numpy() - mean) / std).astype(np.float32)


def answer_from(grid: NDArray[np.float32], manifest: dict[str, Any]) -> Answer:
    """Distance grid (1, 1, h, w) -> score and map, by PyTorch and SciPy in float64."""
    rule = manifest["postprocess"]
    size = (manifest["input"]["height"], manifest["input"]["width"])
    upsampled = torch.nn.functional.interpolate(
        torch.from_numpy(grid.astype(np.float64)), size, mode="bilinear", align_corners=False
    )[0, 0].numpy()
    if rule["sigma"] > 0:
        upsampled = gaussian_filter(upsampled, rule["sigma"], mode="mirror", truncate=4.0)
    if rule["score"] == "power_mean":
        score = np.mean(np.maximum(upsampled, 0.0) ** rule["power"]) ** (1 / rule["power"])
    else:
        values = np.sort(upsampled, axis=None)
        count = 1 if rule["score"] == "max" else max(1, round(rule["top_share"] * values.size))
        score = values[-count:].mean()
    return float(score), upsampled.astype(np.float32)


def networks(checkpoint: Path, onnx_file: Path) -> dict[str, Network]:
    """The same network in three libraries: float32 (1, 3, H, W) -> float32 (1, 1, h, w)."""
    model, _ = load_model(checkpoint)
    session = onnxruntime.InferenceSession(str(onnx_file), providers=["CPUExecutionProvider"])
    # OpenVINO may choose bfloat16 on CPUs that have it; parity is about the same arithmetic
    compiled = openvino.compile_model(str(onnx_file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def in_torch(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            return model(torch.from_numpy(tensor)).numpy()

    return {
        "torch": in_torch,
        "onnxruntime": lambda tensor: session.run(None, {"image": tensor})[0],
        "openvino": lambda tensor: compiled([tensor])[0],
    }


def compare(checkpoint: Path, onnx_file: Path, images: list[Path]) -> dict[str, Difference]:
    """Largest difference of each way from torch over the images."""
    manifest = read_manifest(onnx_file)
    by_name = networks(checkpoint, onnx_file)
    with (
        Detector(onnx_file, engine="onnxruntime") as with_onnxruntime,
        Detector(onnx_file, engine="openvino") as with_openvino,
    ):
        detectors = {
            "detector, onnxruntime": with_onnxruntime,
            "detector, openvino": with_openvino,
        }
        rows: dict[str, list[tuple[float, ...]]] = {}
        for path in tqdm(images, unit="image", disable=not sys.stderr.isatty()):
            image = read_image(path)
            tensor = tensor_from(image, manifest["input"])
            answers = {
                name: answer_from(network(tensor), manifest) for name, network in by_name.items()
            }
            for name, detector in detectors.items():
                result = detector.score(image)
                answers[name] = (result.score, result.anomaly_map)
            score, reference = answers.pop("torch")
            for name, (other, anomaly_map) in answers.items():
                largest = float(np.abs(anomaly_map - reference).max())
                rows.setdefault(name, []).append(
                    (
                        abs(other - score),
                        abs(other - score) / abs(score),
                        largest,
                        largest / float(np.ptp(reference)),
                    )
                )
    return {
        name: Difference(len(images), *(float(value) for value in np.max(values, axis=0)))
        for name, values in rows.items()
    }


def train_small_model(folder: Path) -> Path:
    """A run folder: 48 solar cells."""
    lay_out_cells("mono", folder / "data", limit=48)
    result = train(
        open_dataset(folder / "data"),
        folder / "parity",
        weights="wheel",
        device="cpu",
        cache_dir=folder / "features",
        progress=sys.stderr.isatty(),
    )
    return result.folder


def image_sets(count: int) -> dict[str, list[Path]]:
    """Real images by data set, evenly spread over good and defective ones."""
    cells, _ = read_cells("mono")
    found = {"solar cells": [cell.path for cell in cells]}
    tiles = Path(os.environ.get("AGP_EDGE_DATA", ROOT.parent / "shared/data")) / "magnetic_tile"
    if tiles.is_dir():
        folders = sorted(path for path in (tiles / "test").iterdir() if path.is_dir())
        found["magnetic tiles"] = [path for folder in folders for path in list_images(folder)]
    return {
        name: [paths[n * len(paths) // count] for n in range(min(count, len(paths)))]
        for name, paths in found.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkpoint", nargs="?", type=Path, help="a run's folder")
    parser.add_argument("--images", type=int, default=50, help="of each data set (default: 50)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = arguments.checkpoint or train_small_model(Path(scratch))
        onnx_file = Path(scratch) / "model.onnx"
        onnx_from_checkpoint(checkpoint, onnx_file, progress=False)
        found = {
            name: compare(checkpoint, onnx_file, images)
            for name, images in image_sets(arguments.images).items()
        }
        manifest = read_manifest(onnx_file)
    print(f"{'images':<16}{'way':<24}{'scores, relative':>18}{'maps, share of range':>22}")
    for data, ways in found.items():
        for name, difference in ways.items():
            print(
                f"{data:<16}{name:<24}{difference.score_relative:18.2e}{difference.map_share:22.2e}"
            )
    within = all(d.is_within_tolerance for ways in found.values() for d in ways.values())
    write_result(
        "parity",
        {
            "reference": "torch, with PyTorch and SciPy in float64 around it",
            "tolerance": TOLERANCE,
            "within_tolerance": within,
            "model": {key: manifest[key] for key in ("backbone", "input", "output", "postprocess")},
            "largest_differences": {
                data: {name: vars(difference) for name, difference in ways.items()}
                for data, ways in found.items()
            },
        },
    )
    print("within" if within else "OUTSIDE", f"the tolerance of {TOLERANCE:g}")
    return 0 if within else 4


if __name__ == "__main__":
    sys.exit(main())
