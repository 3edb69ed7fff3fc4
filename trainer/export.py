"""Reads a checkpoint and its held-out good images, writes model.onnx with the manifest inside.

The graph is compared with torch on the held-out images, and their scores, from the very pipeline
that serves the line, set the default threshold. Of several products one threshold serves all, since
nothing says at inference which one it is. After few-shot training nothing is held out: changed
copies of the images stand in, and no rate of false rejects is promised.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from tqdm import tqdm

from agp_edge.calibration.decision.threshold import conformal_threshold
from agp_edge.dataset import GOOD, Sample
from agp_edge.engines.onnxruntime import open_onnx
from agp_edge.errors import DataError, ModelError
from agp_edge.files import write_aside
from agp_edge.manifest import (
    MANIFEST_KEY,
    MANIFEST_LIMIT,
    InputSpec,
    Manifest,
    OutputSpec,
    SelfTest,
    ThresholdSpec,
)
from agp_edge.self_test import self_test_frame
from agp_edge.trainer.augment import changed_copies
from agp_edge.trainer.checkpoint import Checkpoint, load_model
from agp_edge.trainer.config import FITTED, postprocess_spec
from agp_edge.trainer.data import read_frame
from agp_edge.trainer.graph import INPUT_NAME, OPSET, OUTPUT_NAME, graph_from_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from agp_edge import _core
    from agp_edge.trainer.model import AgpNet

__all__ = ["ExportResult", "Parity", "ProductScores", "checkpoint_manifest", "onnx_from_checkpoint"]

# Both compute in float32; only the order of summation differs.
_TOLERANCE = 1e-3
# The comparison with torch takes as long as the scoring itself, and 50 images show what is wrong.
_PARITY_IMAGES = 50
_SELF_TEST_SEED = 1


@dataclass(frozen=True)
class Parity:
    """The largest differences between torch and the exported pipeline."""

    images: int
    score_absolute: float
    score_relative: float  # of torch's score
    map_absolute: float
    map_relative: float  # of the range of torch's map

    def __str__(self) -> str:
        """One line for people."""
        return (
            f"{self.images} images: scores differ by at most {self.score_absolute:.2e} "
            f"(relative {self.score_relative:.2e}), maps by {self.map_absolute:.2e} "
            f"({self.map_relative:.2e} of their range)"
        )


@dataclass(frozen=True)
class ProductScores:
    """How the held-out good images of one product stand to the common threshold."""

    name: str
    images: int
    rejected: int  # of them
    median: float  # score
    largest: float


@dataclass(frozen=True)
class ExportResult:
    """What an export gives."""

    path: Path
    manifest: Manifest
    parity: Parity
    held_out_scores: tuple[float, ...]  # of the images, or copies, that set the threshold
    products: tuple[ProductScores, ...]  # (): there is one product


def onnx_from_checkpoint(
    checkpoint: str | Path,
    output: str | Path,
    *,
    data: str | Path | None = None,
    false_reject: float | None = None,
    tolerance: float = _TOLERANCE,
    progress: bool = True,
) -> ExportResult:
    """Exports the inference branch of a checkpoint.

    Args:
        checkpoint: the run's folder, or a file of the checkpoint in it.
        output: the ONNX file; appears only when everything was checked.
        data: root of the data set, where it moved since the training.
        false_reject: share of good parts that the threshold may reject; None: as trained.
        tolerance: largest relative difference from torch, of scores and of the maps' range.
        progress: whether to show bars.

    Raises:
        ModelError: the checkpoint is not usable, or the graph differs from torch.
        DataError: a held-out image is missing or unreadable.
    """
    model, info = load_model(checkpoint)
    if not info.finished:
        raise ModelError(
            f"the training of '{checkpoint}' was cut off before its end; finish it with "
            "`agp-edge train DATA -o RUN --resume`, then export"
        )
    samples = _held_out_samples(info, data)
    graph = graph_from_model(model, info.model.height, info.model.width)
    manifest = checkpoint_manifest(info, model)
    path = Path(output)
    with write_aside(path) as aside:
        # scored as it will be: through the file, ONNX Runtime and the C++ stages
        _write(graph, manifest, aside)
        score = _scorer(manifest, aside)
        reference = _Reference(model, info)
        scores, peaks, differences = [], [], []
        for index, sample in enumerate(
            tqdm(samples, desc="score held-out", unit="image", disable=not progress)
        ):
            frame = read_frame(sample)
            result = score(frame)
            scores.append(result.score)
            peaks.append(float(_map(result).max()))
            if index < _PARITY_IMAGES:
                differences.append(_differences(reference.score(frame), result))
        parity = _checked_parity(differences, tolerance)
        manifest = dataclasses.replace(
            manifest,
            threshold=_threshold(info, scores, peaks, false_reject),
            self_test=_self_test(manifest, score),
        )
        _write(graph, manifest, aside)
    return ExportResult(path, manifest, parity, tuple(scores), _products(info, scores, manifest))


def checkpoint_manifest(info: Checkpoint, model: AgpNet) -> Manifest:
    """What the checkpoint says of itself; threshold and self-test are found by exporting."""
    config = info.model
    return Manifest(
        name=info.name,
        setup=info.train.setup,
        classes=info.products,
        backbone=" + ".join(filter(None, (config.backbone, config.second_backbone))),
        input=InputSpec(
            name=INPUT_NAME, height=config.height, width=config.width, mean=info.mean, std=info.std
        ),
        output=OutputSpec(
            name=OUTPUT_NAME, height=model.output_grid[0], width=model.output_grid[1]
        ),
        postprocess=postprocess_spec(config),
        opset=OPSET,
        versions={**info.versions, "onnx": metadata.version("onnx")},
        training={
            "epoch": info.epoch,
            "epochs": 1 if config.decoder in FITTED else info.train.epochs,
            "input_size": info.size_reason,
        },
        hashes={"data": info.data_digest, "weights": info.weights_digest},
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )


def _threshold(
    info: Checkpoint, scores: list[float], peaks: list[float], false_reject: float | None
) -> ThresholdSpec:
    if info.train.setup == "few-shot":
        # Copies of an image are more like it than the next part will be: their largest score is a
        # start, and no rate follows from it. 1.0 is the manifest's word for that.
        return ThresholdSpec(
            value=max(scores),
            method="copies",
            false_reject=1.0,
            n=len(info.held_out),
            unit="images",
            mask_value=None if info.model.score == "max" else max(peaks),
        )
    rate = info.train.false_reject if false_reject is None else false_reject
    return conformal_threshold(
        scores,
        [part for _, part in info.held_out],
        rate,
        None if info.model.score == "max" else peaks,
    )


def _self_test(
    manifest: Manifest, score: Callable[[NDArray[np.uint8]], _core.NativeResult]
) -> SelfTest:
    frame = self_test_frame(json.loads(manifest.to_json()), _SELF_TEST_SEED)
    return SelfTest(seed=_SELF_TEST_SEED, score=score(frame).score)


def _held_out_samples(info: Checkpoint, data: str | Path | None) -> list[Sample]:
    root = Path(data if data is not None else info.data_root)
    samples = [Sample(root / file, GOOD, part=part) for file, part in info.held_out]
    for sample in samples:
        if not sample.path.is_file():
            raise DataError(
                f"held-out image '{sample.path}' of the run '{info.name}' does not exist; give the "
                "data set's folder with --data if it moved"
            )
    if info.train.setup == "few-shot":
        config = info.train
        return list(
            changed_copies(
                samples, config.threshold_copies, config.augment, config.seed, "threshold"
            )
        )
    return samples


def _products(
    info: Checkpoint, scores: list[float], manifest: Manifest
) -> tuple[ProductScores, ...]:
    found = []
    for product in info.products:
        own = [
            score
            for score, name in zip(scores, info.held_out_products, strict=True)
            if name == product
        ]
        threshold = np.inf if manifest.threshold is None else manifest.threshold.value
        rejected = sum(score > threshold for score in own)
        found.append(ProductScores(product, len(own), rejected, float(np.median(own)), max(own)))
    return tuple(found)


def _write(graph: onnx.ModelProto, manifest: Manifest, path: Path) -> None:
    text = manifest.to_json()
    if len(text.encode()) > MANIFEST_LIMIT:
        raise ModelError(
            f"the manifest of '{manifest.name}' takes {len(text.encode())} bytes; a plan holds "
            f"{MANIFEST_LIMIT}: shorten the run's name"
        )
    del graph.metadata_props[:]
    onnx.helper.set_model_props(graph, {MANIFEST_KEY: text})
    path.write_bytes(graph.SerializeToString())


def _scorer(manifest: Manifest, path: Path) -> Callable[[NDArray[np.uint8]], _core.NativeResult]:
    from agp_edge import _core  # noqa: PLC0415  (the compiled part; its absence has its error)

    # no threshold yet; any number will do for scores and maps
    detector = _core.Detector(
        manifest.to_json(), str(path), open_onnx(str(path)), threshold=0.0, outputs=1
    )
    return detector.score


class _Reference:
    """Torch between the same C++ stages: frame -> image score and anomaly map."""

    def __init__(self, model: AgpNet, info: Checkpoint) -> None:
        from agp_edge import _core  # noqa: PLC0415  (the compiled part; its absence has its error)

        config = info.model
        self._model = model
        self._preprocessor = _core.Preprocessor(
            height=config.height, width=config.width, mean=info.mean, std=info.std
        )
        self._postprocessor = postprocess_spec(config).native(
            model.output_grid, (config.height, config.width)
        )

    @torch.no_grad()
    def score(self, frame: NDArray[np.uint8]) -> _core.NativeResult:
        image = torch.from_numpy(self._preprocessor.run(frame))
        distance = self._model(image.unsqueeze(0))[0, 0]
        return self._postprocessor.run(distance.numpy(), outputs=1)


def _map(result: _core.NativeResult) -> NDArray[np.float32]:
    if result.anomaly_map is None:
        raise ModelError("the pipeline gave no anomaly map")
    return result.anomaly_map


def _differences(
    expected: _core.NativeResult, got: _core.NativeResult
) -> tuple[float, float, float, float]:
    """Of score and map, absolute and relative, as the fields of Parity."""
    score = abs(got.score - expected.score)
    reference = _map(expected)
    largest = float(np.abs(_map(got) - reference).max())
    tiny = 1e-12
    return (
        score,
        score / max(abs(expected.score), tiny),
        largest,
        largest / max(float(np.ptp(reference)), tiny),
    )


def _checked_parity(
    differences: list[tuple[float, float, float, float]], tolerance: float
) -> Parity:
    worst: Any = np.max(np.asarray(differences), axis=0)
    parity = Parity(len(differences), *(float(value) for value in worst))
    # written so that NaN is refused too
    if not (parity.score_relative <= tolerance and parity.map_relative <= tolerance):
        raise ModelError(
            f"the exported graph differs from torch ({parity}); expected at most {tolerance:g}: "
            "nothing was written"
        )
    return parity
