"""Do two models say the same? Reads two models and a data set, from uint8 frame to decision.

Each model may be a checkpoint of torch, an ONNX file (FP32, FP16, INT8) or a TensorRT plan. All of
them run behind the same preprocessing and postprocessing, so what differs is the network.
"""

from __future__ import annotations

import ctypes
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agp_edge.dataset import open_dataset
from agp_edge.dependencies import require
from agp_edge.detector import Detector
from agp_edge.errors import DataError, ModelError
from agp_edge.images import read_image
from agp_edge.manifest import read_manifest
from agp_edge.metrics import image_auroc
from agp_edge.site import read_site

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from types import TracebackType

    from numpy.typing import NDArray

    from agp_edge.dataset import Sample

__all__ = [
    "TOLERANCES",
    "ComparedFrame",
    "Comparison",
    "Side",
    "Tolerances",
    "compare",
    "open_side",
]

CHECKPOINT_SUFFIXES = (".json", ".safetensors")


@dataclass(frozen=True, kw_only=True)
class Tolerances:
    """How far two models may differ and still be called the same."""

    score: float
    """Largest |difference|, of the first model's score."""

    map: float
    """Largest |difference| of a map's pixel, of the range of the first model's maps."""

    flips: int = 0
    """Frames with another verdict, borderline ones not counted."""


# By the coarser of the two precisions. FP32 engines differ by their order of summation; FP16 and
# INT8 round every activation. The scores' figures are those of the self-test where it has one.
TOLERANCES = {
    "fp32": Tolerances(score=1e-3, map=1e-3),
    "fp16": Tolerances(score=1e-2, map=2e-2),
    "int8": Tolerances(score=5e-2, map=1e-1),
}


@dataclass(frozen=True, kw_only=True)
class ComparedFrame:
    """One image and what both models said."""

    sample: Sample
    scores: tuple[float, float]
    verdicts: tuple[bool, bool] | None
    """Whether each calls it anomalous; None where a model has no threshold."""

    map_maximum: float
    """Largest |difference| of a pixel; raw, as the maps are."""

    map_mean: float

    @property
    def flips(self) -> bool:
        """Whether the verdicts differ."""
        return self.verdicts is not None and self.verdicts[0] != self.verdicts[1]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models over one data set; "share" is of the first model's value."""

    models: tuple[str, str]
    engines: tuple[str, str]
    precisions: tuple[str, str]
    thresholds: tuple[float, float] | None
    threshold_sources: tuple[str, str] | None
    """Whose each is: "site file", "model", or "other model" for a side that has none."""

    frames: tuple[ComparedFrame, ...]
    root: Path
    score_maximum: float
    score_share_maximum: float
    score_share_mean: float
    map_share_maximum: float
    map_share_mean: float
    rank_correlation: float | None
    """Spearman's, of the scores; None where all scores of one model are equal."""

    image_auroc: tuple[float, float] | None
    """Of each model; None without both good and defective images."""

    tolerances: Tolerances

    @property
    def flips(self) -> tuple[ComparedFrame, ...]:
        """Frames whose verdicts differ."""
        return tuple(frame for frame in self.frames if frame.flips)

    def is_borderline(self, frame: ComparedFrame) -> bool:
        """Whether the first model's score is as near its threshold as scores may differ at all.

        Such a verdict turns on a rounding that the tolerance allows: a threshold found on these
        very images is one of their scores.
        """
        if self.thresholds is None:
            return False
        threshold = self.thresholds[0]
        return abs(frame.scores[0] - threshold) <= self.tolerances.score * abs(threshold)

    @property
    def failures(self) -> tuple[str, ...]:
        """What is outside the tolerances, a sentence each; empty: the models agree."""
        limits = self.tolerances
        found = []
        # written so that NaN fails
        if not self.score_share_maximum <= limits.score:
            found.append(
                f"scores differ by up to {self.score_share_maximum:.2e} > {limits.score:g}"
            )
        if not self.map_share_maximum <= limits.map:
            found.append(f"maps differ by up to {self.map_share_maximum:.2e} > {limits.map:g}")
        flips = sum(not self.is_borderline(frame) for frame in self.flips)
        if flips > limits.flips:
            found.append(f"{flips} verdicts differ > {limits.flips}")
        return tuple(found)

    def name_of(self, frame: ComparedFrame) -> str:
        """The image's path from the data set's root, with forward slashes."""
        return frame.sample.path.relative_to(self.root).as_posix()

    def to_dict(self) -> dict[str, Any]:
        """The figures as `agp-edge compare --json` writes them."""
        aurocs = self.image_auroc
        return {
            "models": list(self.models),
            "engines": list(self.engines),
            "precisions": list(self.precisions),
            "thresholds": None if self.thresholds is None else list(self.thresholds),
            "threshold_sources": None
            if self.threshold_sources is None
            else list(self.threshold_sources),
            "n_images": len(self.frames),
            "score_maximum": self.score_maximum,
            "score_share_maximum": self.score_share_maximum,
            "score_share_mean": self.score_share_mean,
            "map_share_maximum": self.map_share_maximum,
            "map_share_mean": self.map_share_mean,
            "rank_correlation": self.rank_correlation,
            "image_auroc": None if aurocs is None else list(aurocs),
            "image_auroc_difference": None if aurocs is None else aurocs[1] - aurocs[0],
            "flips": [
                {
                    "file": self.name_of(frame),
                    "label": frame.sample.label,
                    "scores": frame.scores,
                    "borderline": self.is_borderline(frame),
                }
                for frame in self.flips
            ],
            "tolerances": asdict(self.tolerances),
            "failures": list(self.failures),
            "frames": [
                {
                    "file": self.name_of(frame),
                    "label": frame.sample.label,
                    "scores": frame.scores,
                    "map_maximum": frame.map_maximum,
                    "map_mean": frame.map_mean,
                }
                for frame in self.frames
            ],
        }


def compare(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    limit: int | None = None,
    tolerances: Tolerances | None = None,
    progress: bool = False,
) -> Comparison:
    """Scores every test image with both models and measures how far they lie apart.

    Each model decides with its own threshold, its site file's before its manifest's; one that has
    none (a checkpoint never has) takes the other's. Self-tests are not run: a difference is what is
    looked for.

    Args:
        first: the reference: a checkpoint, an ONNX file or a plan.
        second: the model that is compared with it.
        data: a data set in the MVTec-AD layout, of which the test images are taken, or a folder of
            images.
        limit: take at most so many images, spread evenly; None: all.
        tolerances: None: `TOLERANCES` of the coarser precision.
        progress: show a progress bar on stderr where that is a terminal.

    Raises:
        DataError: no images, or one is unreadable.
        ModelError: a model cannot be opened, or their maps have different sizes.
        DependencyError: scikit-learn, SciPy, or torch for a checkpoint is missing.
    """
    tqdm = require("tqdm").tqdm
    dataset = open_dataset(data)
    samples = _spread(dataset.test or dataset.train, limit)
    if not samples:
        raise DataError(f"data set '{dataset.root}' has no images to compare models on")
    own = (_own_threshold(first), _own_threshold(second))
    thresholds = _thresholds(*own)
    frames: list[ComparedFrame] = []
    lowest, highest = np.inf, -np.inf
    with (
        open_side(first, None if thresholds is None else thresholds[0]) as a,
        open_side(second, None if thresholds is None else thresholds[1]) as b,
    ):
        for sample in tqdm(
            samples, desc="comparing", unit="image", disable=None if progress else True
        ):
            image = read_image(sample.path)
            answers = a.score(image), b.score(image)
            maps = [_map(answer) for answer in answers]
            if maps[0].shape != maps[1].shape:
                raise ModelError(
                    f"the maps of '{a.name}' are {maps[0].shape} and those of '{b.name}' "
                    f"{maps[1].shape}: only models of one input size can be compared"
                )
            lowest, highest = min(lowest, maps[0].min()), max(highest, maps[0].max())
            difference = np.abs(maps[0] - maps[1])
            frames.append(
                ComparedFrame(
                    sample=sample,
                    scores=(answers[0].score, answers[1].score),
                    verdicts=None
                    if thresholds is None
                    else (answers[0].is_anomalous, answers[1].is_anomalous),
                    map_maximum=float(difference.max()),
                    map_mean=float(difference.mean()),
                )
            )
        used = None if thresholds is None else (a.threshold, b.threshold)
        engines, precisions = (a.engine, b.engine), (a.precision, b.precision)
    return _figures(
        frames,
        float(highest - lowest),
        models=(str(first), str(second)),
        engines=engines,
        precisions=precisions,
        thresholds=used,
        threshold_sources=None if thresholds is None else (_source(own[0]), _source(own[1])),
        root=dataset.root,
        tolerances=tolerances or TOLERANCES[max(precisions, key=list(TOLERANCES).index)],
    )


def _figures(
    frames: Sequence[ComparedFrame],
    span: float,
    *,
    models: tuple[str, str],
    engines: tuple[str, str],
    precisions: tuple[str, str],
    thresholds: tuple[float, float] | None,
    threshold_sources: tuple[str, str] | None,
    root: Path,
    tolerances: Tolerances,
) -> Comparison:
    scores = np.array([frame.scores for frame in frames])  # (images, 2)
    tiny = 1e-12
    differences = np.abs(scores[:, 1] - scores[:, 0])
    shares = differences / np.maximum(np.abs(scores[:, 0]), tiny)
    defective = [frame.sample.is_defective for frame in frames]
    aurocs = None
    if len(set(defective)) == 2:
        aurocs = (image_auroc(defective, scores[:, 0]), image_auroc(defective, scores[:, 1]))
    return Comparison(
        models=models,
        engines=engines,
        precisions=precisions,
        thresholds=thresholds,
        threshold_sources=threshold_sources,
        frames=tuple(frames),
        root=root,
        score_maximum=float(differences.max()),
        score_share_maximum=float(shares.max()),
        score_share_mean=float(shares.mean()),
        map_share_maximum=max(frame.map_maximum for frame in frames) / max(span, tiny),
        map_share_mean=float(np.mean([frame.map_mean for frame in frames])) / max(span, tiny),
        rank_correlation=_rank_correlation(scores),
        image_auroc=aurocs,
        tolerances=tolerances,
    )


def _rank_correlation(scores: NDArray[np.float64]) -> float | None:
    if any(len(set(column)) < 2 for column in scores.T):
        return None
    stats = require("scipy.stats", extra="eval")
    return float(stats.spearmanr(scores[:, 0], scores[:, 1]).statistic)


def _spread(samples: Sequence[Sample], limit: int | None) -> list[Sample]:
    if limit is None or len(samples) <= limit:
        return list(samples)
    # rounding down keeps the places apart
    return [samples[index * len(samples) // limit] for index in range(limit)]


def _map(answer: Any) -> NDArray[np.float32]:
    if answer.anomaly_map is None:
        raise ModelError("a model gave no anomaly map")
    found: NDArray[np.float32] = answer.anomaly_map
    return found


# A model's threshold and whose it is: "site file" or "model".
_Own = tuple[float, str]


def _thresholds(
    first: _Own | None, second: _Own | None
) -> tuple[float | None, float | None] | None:
    """What each side is told: None for its own; no pair where neither has one."""
    if first is None and second is None:
        return None
    return (
        second[0] if first is None and second is not None else None,
        first[0] if second is None and first is not None else None,
    )


def _source(own: _Own | None) -> str:
    return "other model" if own is None else own[1]


def _own_threshold(path: str | os.PathLike[str]) -> _Own | None:
    if _is_checkpoint(path):
        return None
    site = read_site(path)
    if site is not None and site.threshold is not None:
        return site.threshold, "site file"
    threshold = read_manifest(path)["threshold"]
    return None if threshold is None else (float(threshold["value"]), "model")


def _is_checkpoint(path: str | os.PathLike[str]) -> bool:
    return Path(path).is_dir() or Path(path).suffix in CHECKPOINT_SUFFIXES


class Side:
    """One of the two models, open: name, engine, precision, threshold, score(frame)."""

    def __init__(self, name: str, detector: Any, engine: str, precision: str) -> None:
        self.name = name
        self.engine = engine
        self.precision = precision
        self._detector = detector

    @property
    def threshold(self) -> float:
        """The one in use."""
        return float(self._detector.threshold)

    def score(self, frame: NDArray[np.uint8]) -> Any:
        """The result: `score`, `is_anomalous`, `anomaly_map`, and what else the detector gives."""
        return self._detector.score(frame)

    def __enter__(self) -> Side:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._detector = None


def open_side(path: str | os.PathLike[str], threshold: float | None) -> Side:
    """Opens a model for comparing.

    Args:
        path: a checkpoint, an ONNX file or a plan.
        threshold: None: the model's own; one without any decides nothing.
    """
    if _is_checkpoint(path):
        return _open_checkpoint(path, threshold)
    manifest = read_manifest(path)
    if threshold is None and _own_threshold(path) is None:
        threshold = 0.0  # its verdicts are not used
    detector = Detector(path, threshold=threshold, self_test=False)
    precision = manifest["precision"]
    return Side(str(path), detector, detector.engine_name, precision["built"] or precision["asked"])


def _open_checkpoint(path: str | os.PathLike[str], threshold: float | None) -> Side:
    """Torch between the stages that serve the line."""
    from agp_edge import _core  # noqa: PLC0415  (kept out of the import)

    torch = require("torch", extra="train")
    from agp_edge.trainer.checkpoint import load_model  # noqa: PLC0415  (torch is there)
    from agp_edge.trainer.export import checkpoint_manifest  # noqa: PLC0415

    model, info = load_model(Path(path))
    manifest = checkpoint_manifest(info, model)
    shapes = (
        (1, 3, manifest.input.height, manifest.input.width),
        (1, 1, manifest.output.height, manifest.output.width),
    )

    def run(stream: int, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        del stream
        with torch.no_grad():
            image = torch.from_numpy(_borrowed(inputs[0], shapes[0]))
            _borrowed(outputs[0], shapes[1])[:] = model(image).numpy()

    engine = _core.CallableEngine(
        f"torch {torch.__version__}",
        [(manifest.input.name, "float32", list(shapes[0]))],
        [(manifest.output.name, "float32", list(shapes[1]))],
        run,
    )
    detector = _core.Detector(
        manifest.to_json(), str(path), engine, threshold=0.0 if threshold is None else threshold
    )
    return Side(str(path), detector, detector.engine_name, "fp32")


def _borrowed(address: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Float32 memory of the pipeline as an array."""
    size = int(np.prod(shape))
    array = np.ctypeslib.as_array((ctypes.c_float * size).from_address(address))
    borrowed: NDArray[np.float32] = array.reshape(shape)
    return borrowed
