"""What comparing two models over a data set found, and how far they may differ."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from agp_edge.dataset import Sample

__all__ = ["TOLERANCES", "ComparedFrame", "Comparison", "Tolerances"]


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
