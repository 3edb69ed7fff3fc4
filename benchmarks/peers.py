"""AGPNet beside anomalib's detectors: the same images, the same backbone weights, one run.

Each detector learns from the same good training images through anomalib's own engine and its own
defaults, on the ImageNet weights that AGPNet uses (timm's tf_efficientnet_lite0), with 256 x 256
pixels, and is judged by the same functions on the same test images. Beside the accuracy stands the
time from a decoded frame to its score and map on one thread: AGPNet through `agp_edge.Detector`,
the others through anomalib's own OpenVINO inferencer where the export works, and through PyTorch,
one frame of each after the other.

Needs anomalib (pip install anomalib); writes benchmarks/results/peers.json and .md.

    python benchmarks/peers.py [--sets tiles mono poly] [--minutes 10] [--fitted FOLDER]

Not run: Reverse Distillation and FastFlow (anomalib builds them for ResNets only, whose weights no
package on PyPI carries), EfficientAD and Dinomaly (they download weights of their own).
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from anomalib.data import Folder
from anomalib.deploy import OpenVINOInferencer
from anomalib.engine import Engine
from anomalib.models import Padim, Patchcore, Stfpm, Supersimplenet
from anomalib.models.components import KCenterGreedy
from anomalib.pre_processing import PreProcessor
from baselines import Scores
from data_sets import NAMES, STUDIED, lay_out
from magnetic_tile import figures, paired_difference
from numpy.typing import NDArray
from provenance import write_result
from torchvision.transforms.v2 import Compose, Normalize, Resize
from tqdm import tqdm

import agp_edge
from agp_edge.dataset import Sample, open_dataset
from agp_edge.demo_data import DATA_NOTE
from agp_edge.files import write_aside
from agp_edge.images import read_image
from agp_edge.trainer.config import TrainConfig
from agp_edge.trainer.export import onnx_from_checkpoint
from agp_edge.trainer.train import train
from agp_edge.trainer.weights import pretrained_model

BACKBONE = "tf_efficientnet_lite0"
SIZE = (256, 256)
TIMED_FRAMES = 30
# A decoded frame (H, W, 3) BGR or (H, W) -> score and anomaly map.
Score = Callable[[NDArray[np.uint8]], tuple[float, NDArray[np.float32]]]


@contextmanager
def local_weights() -> Iterator[tuple[list[float], list[float]]]:
    """Makes timm give the wheel's weights where anomalib asks for pretrained ones.

    Yields mean and standard deviation that belong to them, in the unit [0, 1].
    """
    pretrained = pretrained_model(BACKBONE, "wheel")
    state = pretrained.model.state_dict()
    create = timm.create_model

    def create_local(name: str, **options: Any) -> Any:
        if options.get("pretrained"):
            options["pretrained_cfg_overlay"] = {"state_dict": dict(state)}
        return create(name, **options)

    timm.create_model = create_local
    try:
        yield [m / 255 for m in pretrained.mean], [s / 255 for s in pretrained.std]
    finally:
        timm.create_model = create


@contextmanager
def quick_coreset() -> Iterator[None]:
    """Makes anomalib choose PatchCore's vectors in a tenth of the time: the same, up to rounding.

    One product of a matrix and a vector for each distance, where anomalib writes two matrices of
    differences: an hour of one core for 559 tiles.
    """
    original = KCenterGreedy.update_distances

    def update(self: Any, cluster_center: Any) -> None:
        if getattr(self, "squares_of", None) is not self.features:
            self.squares_of = self.features
            self.squares = self.features.square().sum(dim=1)
        centre = self.features[cluster_center].squeeze()
        square = self.squares - 2.0 * (self.features @ centre) + centre.square().sum()
        distances = square.clamp_(min=0.0).sqrt_().unsqueeze(1)
        known = self.min_distances
        self.min_distances = distances if known is None else torch.minimum(known, distances)

    KCenterGreedy.update_distances = update
    try:
        yield
    finally:
        KCenterGreedy.update_distances = original


def peer(name: str, mean: Sequence[float], std: Sequence[float]) -> Any:
    """An untrained detector of anomalib's, with its defaults but for what is shared here."""
    shared = {
        "backbone": BACKBONE,
        "pre_processor": PreProcessor(
            transform=Compose([Resize(SIZE, antialias=True), Normalize(mean, std)])
        ),
        "post_processor": False,  # raw scores and maps: it would clip them to [0, 1]
        "evaluator": False,
        "visualizer": False,
    }
    # strides 8 and 16 in timm's names, and 4 where the method's own default has three layers
    two, three = ["blocks.2", "blocks.4"], ["blocks.1", "blocks.2", "blocks.4"]
    if name == "PatchCore":  # its default of 10 % would be 57,000 vectors for 559 tiles
        return Patchcore(layers=two, coreset_sampling_ratio=0.01, **shared)
    if name == "PaDiM":
        return Padim(layers=three, n_features=100, **shared)
    if name == "STFPM":
        return Stfpm(layers=three, **shared)
    return Supersimplenet(layers=two, **shared)


def fit(model: Any, root: Path, minutes: float, scratch: Path) -> dict[str, Any]:
    """Trains through anomalib's engine; at most `minutes`, or its default number of epochs."""
    data = Folder(
        name="good",
        root=root,
        normal_dir="train/good",
        train_batch_size=16,
        num_workers=0,
        test_split_mode="none",
        val_split_mode="none",
        seed=0,
    )
    epochs = {} if model.trainer_arguments.get("max_epochs") else {"max_epochs": 100}
    engine = Engine(
        default_root_dir=scratch,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        max_time={"minutes": minutes},
        limit_val_batches=0,
        **epochs,
    )
    start = time.perf_counter()
    engine.fit(model, datamodule=data)
    model.eval().cpu()
    return {"seconds": time.perf_counter() - start, "epochs": engine.trainer.current_epoch}


def fitted(name: str, root: Path, minutes: float, folder: Path) -> tuple[Any, dict[str, Any]]:
    """A trained detector and how it was trained; kept in `folder` and taken from there."""
    path = folder / f"{name}.pt"
    if path.exists():
        model, training = torch.load(path, weights_only=False)
        return model, training
    with local_weights() as (mean, std):
        model = peer(name, mean, std)
    with quick_coreset():
        training = fit(model, root, minutes, folder / name)
    model.trainer = None  # holds the data; not needed any more
    with write_aside(path) as aside:
        torch.save((model, training), aside)
    return model, training


def rgb(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """As anomalib wants it, (H, W, 3) RGB."""
    if frame.ndim == 2:
        return np.repeat(frame[:, :, None], 3, axis=2)
    return np.ascontiguousarray(frame[:, :, ::-1])


def through_torch(model: Any) -> Score:
    """Scores frames through the PyTorch module."""

    def score(frame: NDArray[np.uint8]) -> tuple[float, NDArray[np.float32]]:
        image = torch.from_numpy(rgb(frame)).permute(2, 0, 1).float().div_(255).unsqueeze(0)
        with torch.inference_mode():
            found = model(image)
        return float(found.pred_score), found.anomaly_map.squeeze().numpy()

    return score


def through_openvino(model: Any, scratch: Path) -> Score:
    """Scores frames through anomalib's OpenVINO inferencer, on one thread."""
    path = model.to_openvino(export_root=scratch, input_size=SIZE)
    inferencer = OpenVINOInferencer(path, config={"INFERENCE_NUM_THREADS": 1})

    def score(frame: NDArray[np.uint8]) -> tuple[float, NDArray[np.float32]]:
        # the exported graph has a fixed input size: resizing stays with the caller
        import cv2  # noqa: PLC0415

        found = inferencer.predict(cv2.resize(rgb(frame), SIZE, interpolation=cv2.INTER_AREA))
        return float(np.squeeze(found.pred_score)), np.squeeze(found.anomaly_map)

    return score


def through_detector(path: Path) -> Score:
    """Scores frames as users of this package do."""
    detector = agp_edge.Detector(path, threshold=0.0, threads=1)

    def score(frame: NDArray[np.uint8]) -> tuple[float, NDArray[np.float32]]:
        result = detector.score(frame)
        assert result.anomaly_map is not None
        return result.score, result.anomaly_map

    return score


def all_scores(score: Score, samples: Sequence[Sample]) -> Scores:
    """Scores and copies of the maps, in order."""
    values, maps = [], []
    for sample in tqdm(samples, leave=False, disable=not sys.stderr.isatty()):
        value, anomaly_map = score(read_image(sample.path))
        values.append(value)
        maps.append(np.array(anomaly_map, np.float32))
    return Scores(np.array(values), maps)


def times(scorers: dict[str, Score], samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """Milliseconds per frame, p50 and p90; the detectors take turns with each frame."""
    frames = [read_image(sample.path) for sample in samples[:: len(samples) // TIMED_FRAMES]]
    found: dict[str, list[float]] = {name: [] for name in scorers}
    for index, frame in enumerate([*frames[:3], *frames]):
        for name, score in scorers.items():
            start = time.perf_counter()
            score(frame)
            if index >= 3:  # the first ones warm up
                found[name].append(1e3 * (time.perf_counter() - start))
    return {
        name: {"p50": float(np.median(values)), "p90": float(np.quantile(values, 0.9))}
        for name, values in found.items()
    }


def run_set(
    root: Path, names: Sequence[str], minutes: float, scratch: Path, kept: Path
) -> dict[str, Any]:
    """Figures and times of all detectors on one data set; `kept` holds fitted peers."""
    dataset = open_dataset(root)
    samples = dataset.test
    start = time.perf_counter()
    run = train(
        dataset,
        scratch / "agpnet",
        config=TrainConfig(seed=0),
        weights="wheel",
        device="cpu",
        cache_dir=scratch / "features",
        progress=False,
    )
    trained = {"AGPNet": {"seconds": time.perf_counter() - start, "epochs": run.epochs}}
    onnx_from_checkpoint(run.folder, scratch / "agpnet.onnx", progress=False)
    scorers = {"AGPNet": through_detector(scratch / "agpnet.onnx")}
    inferencers: dict[str, Score] = {}
    for other in names:
        model, trained[other] = fitted(other, root, minutes, kept)
        scorers[other] = through_torch(model)
        try:
            inferencer = through_openvino(model, scratch / other)
            inferencer(read_image(samples[0].path))  # some exports load and then fail
            inferencers[f"{other}, OpenVINO"] = inferencer
        except Exception as error:  # whatever the export cannot do is part of the answer
            trained[other]["openvino"] = f"{type(error).__name__}: {error}"[:200]
        print(f"{other}: {trained[other]}", flush=True)
    scores = {way: all_scores(score, samples) for way, score in scorers.items()}
    latency = times({**scorers, **inferencers}, samples)
    return {
        way: {
            **figures(samples, scores[way]),
            "training": trained[way],
            "latency_ms": latency[way],
            "latency_openvino_ms": latency.get(f"{way}, OpenVINO"),
            "agpnet_minus_this": paired_difference(
                samples, scores["AGPNet"].values, scores[way].values
            ),
        }
        for way in scorers
    }


def summary_lines(results: dict[str, dict[str, Any]]) -> list[str]:
    """The Markdown table."""
    lines = [
        "| data | detector | image AUROC (95 % interval) | AUPRO | AGPNet is better by (paired) "
        "| ms per frame: its own runtime | PyTorch | training s | epochs |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, rows in results.items():
        for way, row in rows.items():
            low, high = row["image_auroc_interval"]
            pro = "-" if row["aupro"] is None else f"{row['aupro']:.3f}"
            better, openvino = "", row["latency_openvino_ms"]
            own = f"{row['latency_ms']['p50']:.1f}"
            runtime, eager = (own, "-") if way == "AGPNet" else ("-", own)
            if openvino is not None:
                runtime = f"{openvino['p50']:.1f}"
            if way != "AGPNet":
                paired = row["agpnet_minus_this"]
                better = f"{paired['difference']:+.3f} ({paired['interval'][0]:+.3f} to "
                better += f"{paired['interval'][1]:+.3f})"
            lines.append(
                f"| {NAMES[name]} | {way} | {row['image_auroc']:.3f} ({low:.3f} to {high:.3f}) "
                f"| {pro} | {better} | {runtime} | {eager} | {row['training']['seconds']:.0f} "
                f"| {row['training']['epochs']} |"
            )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sets", nargs="+", choices=list(NAMES), default=list(STUDIED))
    everyone = ["PaDiM", "PatchCore", "STFPM", "SuperSimpleNet"]
    parser.add_argument("--peers", nargs="+", choices=everyone, default=everyone)
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="most training time of each (default: 10)"
    )
    parser.add_argument("--fitted", type=Path, help="keep trained peers here, and reuse them")
    parser.add_argument("--seed", type=int, default=0, help="of the split, see data_sets.py")
    parser.add_argument("--output", default="peers", help="name of the result files")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("anomalib").setLevel(logging.ERROR)
    with suppress(AttributeError):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    results: dict[str, dict[str, Any]] = {}
    for name in arguments.sets:
        with tempfile.TemporaryDirectory() as scratch:
            kept = (arguments.fitted or Path(scratch) / "fitted") / name
            kept.mkdir(parents=True, exist_ok=True)
            root = lay_out(name, Path(scratch) / "data", arguments.seed)
            results[name] = run_set(root, arguments.peers, arguments.minutes, Path(scratch), kept)
        path = write_result(
            arguments.output,
            {
                "minutes": arguments.minutes,
                "seed": arguments.seed,
                "data": {"solar cells": DATA_NOTE},
                "results": results,
            },
        )
    lines = [
        f"Training stopped after {arguments.minutes:g} minutes on one core, or at the detector's "
        "own number of epochs: one that wants 100 and had few is not judged by its row.",
        "",
        *summary_lines(results),
    ]
    print("\n".join(lines))
    with write_aside(path.with_suffix(".md")) as aside:
        aside.write_text(f"# {arguments.output}\n\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
