"""What a model is: the JSON document inside an ONNX file or a plan (docs/manifest.md).

Written here, by export and build; read back through C++ (`read_manifest`), which checks it with the
same code that serves the line.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from os import fspath
from typing import TYPE_CHECKING, Any

from agp_edge.errors import ModelError

if TYPE_CHECKING:
    from os import PathLike

    from typing_extensions import Buffer

    from agp_edge import _core

__all__ = [
    "MANIFEST_KEY",
    "MANIFEST_LIMIT",
    "MANIFEST_VERSION",
    "CalibrationTail",
    "InputSpec",
    "Manifest",
    "OutputSpec",
    "PostprocessSpec",
    "PrecisionSpec",
    "SelfTest",
    "ThresholdSpec",
    "read_manifest",
]

MANIFEST_VERSION = "1.2"
MANIFEST_KEY = "agp_edge.manifest"
# TensorRT keeps at most 4,096 bytes of a network's name and drops a longer one silently.
MANIFEST_LIMIT = 4095


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """The tensor (1, 3, height, width) and how a frame becomes it."""

    name: str
    height: int
    width: int
    mean: tuple[float, float, float]  # 8-bit pixel units, in the order of `channels`
    std: tuple[float, float, float]
    dtype: str = "float32"
    channels: str = "rgb"
    resize: str = "antialias"
    roi: tuple[int, int, int, int] | None = None  # x, y, width, height; frame pixels


@dataclass(frozen=True, kw_only=True)
class OutputSpec:
    """The tensor (1, 1, height, width): the distance map on the token grid."""

    name: str
    height: int
    width: int
    dtype: str = "float32"


@dataclass(frozen=True, kw_only=True)
class PostprocessSpec:
    """From the distance map to the anomaly map (of the input's size) and the image score."""

    sigma: float = 4.0  # map pixels
    score: str = "max"  # or "top_mean", "power_mean" (since 1.2)
    top_share: float = 0.01  # used by score="top_mean"
    power: int = 24  # used by score="power_mean", and left out of the document without it

    @classmethod
    def of(cls, document: dict[str, Any]) -> PostprocessSpec:
        """What a manifest's document says; keys of a newer minor version are passed over."""
        known = {item.name for item in fields(cls)}
        return cls(**{k: v for k, v in document["postprocess"].items() if k in known})

    def native(self, grid: tuple[int, int], size: tuple[int, int]) -> _core.Postprocessor:
        """The stage that serves the line, for a distance map of shape `grid` and a map of `size`.

        Raises:
            ModelError: a value is out of range.
            DependencyError: the compiled part is not there.
        """
        from agp_edge import _core  # noqa: PLC0415  (the extension stays out of this import)

        return _core.Postprocessor(
            grid_height=grid[0],
            grid_width=grid[1],
            map_height=size[0],
            map_width=size[1],
            sigma=self.sigma,
            score=self.score,
            top_share=self.top_share,
            power=self.power,
        )


@dataclass(frozen=True, kw_only=True)
class CalibrationTail:
    """The largest scores of held-out good parts: what p-values are read from."""

    n: int
    """How many good parts were scored in all."""

    scores: tuple[float, ...]
    """The largest of their scores (each part's largest), rising."""

    def p_value(self, score: float) -> float:
        """Conformal p-value: (1 + good parts with at least this score) / (n + 1), in (0, 1].

        Under exchangeability a good part gets a value of alpha or less with a probability of at
        most alpha (Vovk et al. 2005). Below the tail nothing is known: there it is 1. Scores are
        compared as float32; it is the function that gives `Result.p_value`.
        """
        from agp_edge import _core  # noqa: PLC0415  (the extension stays out of this import)

        return _core.p_value(self.n, self.scores, score)


@dataclass(frozen=True, kw_only=True)
class ThresholdSpec:
    """The default decision threshold, how it was found, and what it promises.

    What follows `mask_value` came with version 1.1 and is left out of the document where it is
    None.
    """

    value: float
    method: str  # "conformal", "f1", "recall" or "copies"
    false_reject: float  # promised on average; 1.0: nothing is
    n: int
    unit: str  # "images" or "parts"
    mask_value: float | None = None  # None: `value`
    target: float | None = None  # false-reject rate that was asked for
    confidence: float | None = None  # that this very threshold keeps `target`
    recall: float | None = None  # share of defective ones found, as promised
    mask_target: float | None = None  # rate of good ones with any region, where it is another
    images: int | None = None  # photos that were scored; n counts what is independent
    images_sha256: str | None = None  # "sha256:<hex>" over the photos' own hashes, sorted
    scored_by: str | None = None  # "sha256:<hex>" of model and settings that gave the scores
    created: str | None = None  # ISO 8601, UTC
    tail: CalibrationTail | None = None  # p-values

    def to_dict(self) -> dict[str, Any]:
        """The object in the document."""
        optional = list(asdict(self))[6:]
        return {k: v for k, v in asdict(self).items() if k not in optional or v is not None}

    def record(self) -> dict[str, Any]:
        """How it was found, without the numbers that a site file keeps under keys of their own."""
        return {k: v for k, v in self.to_dict().items() if k not in ("value", "mask_value", "tail")}


@dataclass(frozen=True, kw_only=True)
class PrecisionSpec:
    """Precision asked for in the graph, and the one read back from a built engine."""

    asked: str = "fp32"
    built: str | None = None


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """A seeded synthetic frame and the score that it must give."""

    seed: int
    score: float


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The whole document; docs/manifest.md explains every key."""

    name: str
    backbone: str
    input: InputSpec
    output: OutputSpec
    postprocess: PostprocessSpec = field(default_factory=PostprocessSpec)
    setup: str = "one-class"
    classes: tuple[str, ...] = ()
    threshold: ThresholdSpec | None = None
    precision: PrecisionSpec = field(default_factory=PrecisionSpec)
    opset: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    created: str = ""
    self_test: SelfTest | None = None
    # "epoch": the checkpoint's, from 0; "epochs": that the training was allowed; "input_size": why
    # it is this one. None where a model was not trained here.
    training: dict[str, Any] | None = None

    def to_json(self) -> str:
        """Compact JSON, the version first: that prefix is how the document is found in a plan."""
        document = {"agp_edge_manifest": MANIFEST_VERSION, **asdict(self)}
        if self.training is None:
            del document["training"]
        if self.postprocess.score != "power_mean":
            del document["postprocess"]["power"]
        if self.threshold is not None:
            document["threshold"] = self.threshold.to_dict()
        return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def read_manifest(path: str | PathLike[str]) -> dict[str, Any]:
    """The manifest document of an ONNX file or a plan, with every key that the file has.

    Loads neither the model nor any inference library.

    Raises:
        ModelError: the file is missing, unreadable, truncated, not a model of ours, keeps weights
            in another file, or its manifest is of a newer major version or lacks a key.
    """
    return read_manifest_text(path)[1]


def read_manifest_text(
    path: str | PathLike[str], content: Buffer | None = None
) -> tuple[str, dict[str, Any]]:
    """The manifest as it stands in the file, checked, and the document that it is.

    Args:
        path: the file; only its name in messages where `content` is given.
        content: its bytes; None: the file is read.

    Raises:
        ModelError: as `read_manifest`.
    """
    from agp_edge import _core  # noqa: PLC0415  (the extension stays out of this module's import)
    from agp_edge.engines import is_plan  # noqa: PLC0415  (imports this package's types)

    source = fspath(path)
    try:
        source.encode()
    except UnicodeEncodeError as error:  # inference libraries take paths as UTF-8
        raise ModelError(
            f"the model's path {source!a} is not UTF-8 text: rename the file or its folder"
        ) from error
    try:
        text = _core.read_manifest_json(source, content)
        _core.check_manifest_json(text, source)
        document = json.loads(text)
    except (ValueError, RecursionError) as error:  # not UTF-8; numbers or nesting without end
        raise ModelError(
            f"the manifest of '{source}' cannot be read ({error}): the file is corrupt, "
            "copy or export it again"
        ) from error
    if not isinstance(document, dict):  # C++ has checked it; for the type checker
        raise ModelError(f"the manifest of '{source}' is not a JSON object")
    if not is_plan(source, content):
        _core.refuse_external_data(source, content)
    return text, document
