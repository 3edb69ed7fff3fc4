"""What a quantisation did: layer by layer, and what it costs; for people, JSON and pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from agp_edge.calibration.int8.accuracy import Accuracy
    from agp_edge.calibration.int8.sensitivity import Search, Step

__all__ = ["LayerReport", "QuantiseReport"]


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """One layer and what became of it."""

    name: str
    op: str
    weights: int
    snr: float | None
    """dB of the distance map with this layer alone in INT8; None where nothing was scanned."""

    precision: str
    """ "int8", "fp16" or "fp32"."""


@dataclass(frozen=True, kw_only=True)
class QuantiseReport:
    """What was quantised, and what it costs."""

    path: Path
    source: Path
    method: str
    """ "ptq" or "qat"."""

    ranges: str
    calibrated: tuple[Path, ...]
    """The calibration images, in the order they were chosen."""

    highest: tuple[tuple[str, float], ...]
    """Names of the good images that look most like defective ones, with their largest distance."""

    warnings: tuple[str, ...]
    layers: tuple[LayerReport, ...]
    budget: float | None
    """None: every layer was quantised, whatever it costs."""

    search: Search
    post_training: Search | None = None
    """What was reached before the training; None where the file is not trained."""

    training: Search | None = None
    """What a training reached that did no better, so that the file is not trained."""

    @property
    def accuracy(self) -> Accuracy:
        """Of the file that was written."""
        return self.search.chosen.accuracy

    @property
    def int8_weights(self) -> float:
        """Share of the layers' weights in INT8."""
        total = sum(layer.weights for layer in self.layers)
        return sum(x.weights for x in self.layers if x.precision == "int8") / total

    def weights_share(self, step: Step) -> float:
        """Share of the layers' weights in INT8 at a step of the search."""
        weights = {layer.name: layer.weights for layer in self.layers}
        return sum(weights[name] for name in self.search.order[: step.layers]) / sum(
            weights.values()
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON; no path of this machine but the names of the files."""
        return {
            "model": self.source.name,
            "method": self.method,
            "ranges": self.ranges,
            "calibration_images": [path.name for path in self.calibrated],
            "highest_good": [{"image": name, "distance": value} for name, value in self.highest],
            "warnings": list(self.warnings),
            "budget": self.budget,
            "within_budget": self.search.within_budget,
            "accuracy": self.accuracy.to_dict(),
            "int8_layers": self.search.chosen.layers,
            "int8_weights": self.int8_weights,
            "layers": [vars(layer) for layer in self.layers],
            "post_training": _reached(self.post_training),
            "training": _reached(self.training),
            "curve": [
                {
                    "layers": step.layers,
                    "weights": self.weights_share(step),
                    "accuracy": step.accuracy.to_dict(),
                }
                for step in self.search.curve
            ],
        }


def _reached(search: Search | None) -> dict[str, Any] | None:
    if search is None:
        return None
    return {
        "int8_layers": search.chosen.layers,
        "within_budget": search.within_budget,
        "accuracy": search.chosen.accuracy.to_dict(),
    }
