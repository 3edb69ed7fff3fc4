"""Reads model.onnx (FP32) and images, writes model.fp16.onnx with the same manifest.

Weights and activations become FP16; what FP16 cannot hold, the distance's tail, the first small
layers, and where accuracy asks for it reductions and more of the first layers stay FP32. The result
is compared with the FP32 graph, from frame to score, before it is written. Threshold and self-test
stay those of the FP32 model.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from agp_edge.calibration.fp16.half_graph import (
    REDUCTION_OPS,
    distance_tail,
    entrance,
    float_tensors,
    half_graph,
    out_of_range_nodes,
    peak_graph,
    rounded_graph,
)
from agp_edge.calibration.graph.model_file import load_fp32, preprocessor_of, scorer, set_manifest
from agp_edge.dependencies import require
from agp_edge.errors import ModelError
from agp_edge.files import write_aside
from agp_edge.images import read_image
from agp_edge.manifest import read_manifest_text
from agp_edge.self_test import self_test_frame

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

__all__ = [
    "MAP_TOLERANCE",
    "SCORE_TOLERANCE",
    "Difference",
    "Fp16Report",
    "fp16_from_onnx",
]

# Of the FP32 score: that of the self-test, which the plan has to pass on every start.
SCORE_TOLERANCE = 1e-2
# Of the range of the FP32 maps: a single pixel may be off by more than a score.
MAP_TOLERANCE = 2e-2
# Enough to show what is wrong; each costs three runs of the network on the CPU.
IMAGE_LIMIT = 16
# Of the FP32 score: what nodes are kept for. The largest difference of 16 images is two to three
# times smaller than that of hundreds, and all of them have to stay below SCORE_TOLERANCE.
SCORE_AIM = 4e-3
# Of the weights, at the network's beginning. A depthwise kernel of nine weights has few roundings
# that could cancel, and all layers inherit them. The first share always stays FP32, since synthetic
# frames do not show what it saves (benchmarks/fp16.py); the others where the images ask for them.
ENTRANCE_SHARES = (0.0025, 0.01, 0.02)
SYNTHETIC_SEEDS = (1, 2, 3, 4)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far scores and anomaly maps of the FP16 graph lie from those of the FP32 graph."""

    images: int
    score_maximum: float  # shares of the FP32 score
    score_mean: float
    map_maximum: float  # shares of the range that the FP32 maps span over all images
    map_mean: float

    def __str__(self) -> str:
        """One line for people."""
        return (
            f"{self.images} images: scores differ by at most {self.score_maximum:.2e} of the score "
            f"(mean {self.score_mean:.2e}), maps by {self.map_maximum:.2e} of their range "
            f"(mean {self.map_mean:.2e})"
        )


@dataclass(frozen=True, kw_only=True)
class Fp16Report:
    """What was converted, and how well it went."""

    path: Path
    kept: dict[str, str]
    """Nodes that stayed FP32, by name, and why.

    "distance": behind the last weights; "range": FP16 cannot hold it; "entrance": the first layers
    (0.25 % of the weights, up to 2 % where accuracy asks for it); "reduction": only where the
    others alone were not accurate enough. The manifest's `precision.kept_fp32` has their counts.
    """

    nodes: int
    """All nodes of the FP32 graph."""

    source: str
    """What the images were: "synthetic" or the number and place of real ones."""

    difference: Difference


def fp16_from_onnx(
    onnx_path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    images: Sequence[str | os.PathLike[str]] = (),
    score_tolerance: float = SCORE_TOLERANCE,
    map_tolerance: float = MAP_TOLERANCE,
) -> Fp16Report:
    """Converts a model to FP16 and checks it; `output` appears only when it agrees with FP32.

    The check runs a graph in which every FP16 tensor is rounded (`half_graph.rounded_graph`): the
    FP16 graph itself would be computed in FP32 by ONNX Runtime's CPU kernels, and look better than
    it is.

    Args:
        onnx_path: an FP32 model made by `agp-edge export`.
        output: the FP16 model.
        images: image files for the check, the first 16 are used; empty: synthetic frames.
        score_tolerance: largest relative difference of a score.
        map_tolerance: largest difference of a map's pixel, of the range of the FP32 maps.

    Raises:
        ModelError: not an FP32 ONNX file of ours, or FP16 is too far from FP32.
        DataError: an image is unreadable.
        DependencyError: onnx or onnxruntime is not installed.
    """
    require("onnx", extra="train")
    source = os.fspath(onnx_path)
    text, manifest = read_manifest_text(source)
    model = load_fp32(source, manifest)
    frames = [read_image(path) for path in list(images)[:IMAGE_LIMIT]]
    origin = f"{len(frames)} of {len(images)} images" if frames else "synthetic"
    frames = frames or [self_test_frame(manifest, seed) for seed in SYNTHETIC_SEEDS]

    choices = _choices(model, _peaks(manifest, model, frames))
    reference = list(map(scorer(text, source, source), frames))
    best: tuple[Difference, dict[str, str], ModelProto] | None = None
    with TemporaryDirectory(prefix="agp-edge-fp16-") as folder:
        for kept in choices:
            half = half_graph(model, kept)
            rounded = Path(folder) / "rounded.onnx"
            rounded.write_bytes(rounded_graph(half).SerializeToString())
            difference = _difference(reference, _run(text, rounded, frames))
            if best is None or _loss(difference) < _loss(best[0]):
                best = difference, kept, half
            if _agrees(difference, min(SCORE_AIM, score_tolerance), map_tolerance):
                break
    assert best is not None  # there is a first choice
    difference, kept, half = best
    if not _agrees(difference, score_tolerance, map_tolerance):
        raise ModelError(
            f"'{source}' loses too much in FP16 ({difference}; expected at most "
            f"{score_tolerance:g} and {map_tolerance:g}): build it with precision fp32"
        )
    counts = dict(sorted(Counter(kept.values()).items()))
    manifest["precision"] = {"asked": "fp16", "built": None, "kept_fp32": counts}
    set_manifest(half, manifest)
    target = Path(output)
    with write_aside(target) as aside:
        aside.write_bytes(half.SerializeToString())
        # opened as it will be: whether ONNX Runtime takes the graph shows here
        difference_of_file = _difference(reference[:1], _run(text, aside, frames[:1]))
        if not _agrees(difference_of_file, score_tolerance, map_tolerance):
            raise ModelError(
                f"the FP16 graph of '{source}' gives other answers in ONNX Runtime "
                f"({difference_of_file}): nothing was written, build it with precision fp32"
            )
    return Fp16Report(
        path=target,
        kept=kept,
        nodes=len(model.graph.node),
        source=origin,
        difference=difference,
    )


def _choices(model: ModelProto, peaks: dict[str, float]) -> list[dict[str, str]]:
    """Which nodes stay FP32 and why: ever more of them."""
    graph = model.graph
    fixed = dict.fromkeys(out_of_range_nodes(graph, peaks), "range")
    fixed |= dict.fromkeys(distance_tail(graph), "distance")
    reductions = {node.name for node in graph.node if node.op_type in REDUCTION_OPS}
    entrances = [
        dict.fromkeys(entrance(graph, share), "entrance") | fixed for share in ENTRANCE_SHARES
    ]
    more = [dict.fromkeys(reductions, "reduction") | kept for kept in entrances]
    choices = [entrances[0], *more]
    return [kept for index, kept in enumerate(choices) if kept not in choices[:index]]


def _peaks(
    manifest: dict[str, Any], model: ModelProto, frames: Sequence[NDArray[np.uint8]]
) -> dict[str, float]:
    """The largest absolute value of each FP32 tensor over the frames."""
    preprocessor = preprocessor_of(manifest)
    runtime = require("onnxruntime", extra="cpu")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    tensors = float_tensors(model)
    session = runtime.InferenceSession(
        peak_graph(model, tensors).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    peaks = np.zeros(len(tensors))
    for frame in frames:
        answer = session.run(None, {manifest["input"]["name"]: preprocessor.run(frame)[None]})
        # NaN has to stay: it is out of every range
        peaks = np.maximum(peaks, np.asarray(answer, np.float64))
    return dict(zip(tensors, peaks.tolist(), strict=True))


def _run(
    text: str, path: Path, frames: Sequence[NDArray[np.uint8]]
) -> list[tuple[float, NDArray[np.float32]]] | None:
    """Scores and maps, or None where one is not finite."""
    score = scorer(text, str(path), path.name)
    try:
        return [score(frame) for frame in frames]
    except ModelError:
        return None


def _difference(
    expected: list[tuple[float, NDArray[np.float32]]],
    got: list[tuple[float, NDArray[np.float32]]] | None,
) -> Difference:
    if got is None:
        infinite = float("inf")
        return Difference(
            images=len(expected),
            score_maximum=infinite,
            score_mean=infinite,
            map_maximum=infinite,
            map_mean=infinite,
        )
    tiny = 1e-12
    scores = [abs(a - b) / max(abs(a), tiny) for (a, _), (b, _) in zip(expected, got, strict=True)]
    lowest = min(float(values.min()) for _, values in expected)
    span = max(max(float(values.max()) for _, values in expected) - lowest, tiny)
    maps = [np.abs(a - b) / span for (_, a), (_, b) in zip(expected, got, strict=True)]
    return Difference(
        images=len(expected),
        score_maximum=max(scores),
        score_mean=float(np.mean(scores)),
        map_maximum=max(float(values.max()) for values in maps),
        map_mean=float(np.mean([values.mean() for values in maps])),
    )


def _loss(difference: Difference) -> float:
    """What the choice goes by; NaN is the worst."""
    worst = max(difference.score_maximum / SCORE_TOLERANCE, difference.map_maximum / MAP_TOLERANCE)
    return worst if np.isfinite(worst) else float("inf")


def _agrees(difference: Difference, score_tolerance: float, map_tolerance: float) -> bool:
    # written so that NaN is refused too
    return difference.score_maximum <= score_tolerance and difference.map_maximum <= map_tolerance
