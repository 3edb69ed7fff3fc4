"""The page about an INT8 model: what became of each layer, and what it costs.

Reads the report of `agp_edge.calibration.int8.quantize`; writes one HTML file.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from agp_edge.report.render import write_page

if TYPE_CHECKING:
    import os

    from agp_edge.calibration.int8.quantise_report import QuantiseReport

__all__ = ["write_quantisation"]

WIDTH, HEIGHT = 620.0, 200.0


def write_quantisation(path: str | os.PathLike[str], report: QuantiseReport) -> None:
    """Writes the page, aside and renamed.

    Args:
        path: the HTML file.
        report: what `quantise_onnx` returned.

    Raises:
        DependencyError: Jinja2 is not installed.
    """
    document = report.to_dict()
    curve = document["curve"]
    losses = [step["accuracy"]["worst"] for step in curve]
    top = _round_up(max([*losses, report.budget or 0.0, 1e-4]))

    def place(loss: float) -> float:
        return round(HEIGHT * (1.0 - max(loss, 0.0) / top), 1)

    write_page(
        path,
        "quantisation.html.j2",
        r={**document, "source_name": document["model"]},
        points=[_point(step, document, place) for step in curve],
        levels=[(place(top * part / 4), f"{top * part / 4:.3g}") for part in range(5)],
        ticks=[(WIDTH * part / 4, f"{25 * part} %") for part in range(5)],
        budget_y=None if report.budget is None else place(report.budget),
    )


def _point(step: dict[str, Any], document: dict[str, Any], place: Any) -> dict[str, Any]:
    worst = step["accuracy"]["worst"]
    budget = document["budget"]
    return {
        "x": round(WIDTH * step["weights"], 1),
        "y": place(worst),
        "chosen": step["layers"] == document["int8_layers"],
        "over": budget is not None and worst > budget,
        "title": f"{step['layers']} layers, {100 * step['weights']:.1f} % of the weights: "
        f"{worst:.4g}",
    }


def _round_up(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1.0, 2.0, 5.0, 10.0) if step * power >= value * 0.999999)
