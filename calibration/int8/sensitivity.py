"""Which layers may be INT8: harm of each by itself, then as many of the harmless as a budget bears.

The harm of a layer is the noise that it alone, quantised, adds to the distance map. Layers are
taken in the order of their harm, the least harmful first; a larger share of INT8 is taken to lose
more (monotone), so bisection over that order finds the most layers with a few full measurements.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agp_edge.calibration.graph.run_graph import open_graph
from agp_edge.calibration.int8.qdq_graph import only_layers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from agp_edge.calibration.int8.accuracy import Accuracy
    from agp_edge.calibration.int8.journal import Journal
    from agp_edge.calibration.int8.qdq_graph import Layer

__all__ = ["Search", "Step", "scan", "search"]

# Decibels given to a layer whose quantisation changes nothing.
PERFECT = 200.0


@dataclass(frozen=True, kw_only=True)
class Step:
    """One point of the curve: so many layers INT8, and what that loses."""

    layers: int
    accuracy: Accuracy

    def meets(self, budget: float) -> bool:
        """Whether the loss stays within the budget; NaN does not."""
        return self.accuracy.worst <= budget


@dataclass(frozen=True, kw_only=True)
class Search:
    """What the bisection found."""

    order: tuple[str, ...]
    """Names of all layers, the least harmful first; the first `chosen.layers` are INT8."""

    chosen: Step
    within_budget: bool
    curve: tuple[Step, ...]
    """Every graph that was measured, by number of layers."""


def scan(
    model: ModelProto,
    full: ModelProto,
    layers: Sequence[Layer],
    inputs: Sequence[NDArray[np.float32]],
    journal: Journal,
    *,
    bar: Callable[[Iterable[Layer]], Iterable[Layer]] = iter,
) -> dict[str, float]:
    """Signal-to-noise ratio of the distance map in dB, with each layer alone in INT8.

    Args:
        model: FP32.
        full: of `qdq_graph.quantised_graph`.
        layers: what is scanned.
        inputs: (1, 3, H, W) each.
        journal: what it knows already is not measured again.
        bar: wraps the layers; shows progress.
    """
    expected: list[NDArray[np.float64]] | None = None
    found: dict[str, float] = {}
    for layer in bar(layers):
        known = journal.get("snr", layer.name)
        if known is None:
            if expected is None:
                run = open_graph(model)
                expected = [run(image)[0].astype(np.float64) for image in inputs]
            run = open_graph(only_layers(full, layers, {layer.name}))
            noise = sum(
                float(((run(image)[0] - before) ** 2).sum())
                for image, before in zip(inputs, expected, strict=True)
            )
            signal = sum(float((before**2).sum()) for before in expected)
            known = PERFECT if noise == 0.0 else 10.0 * math.log10(signal / noise)
            journal.put("snr", layer.name, known)
        found[layer.name] = known
    return found


def search(
    snr: dict[str, float],
    budget: float,
    judge: Callable[[frozenset[str]], Accuracy],
) -> Search:
    """The most layers in INT8 within the budget.

    Args:
        snr: of each layer alone, dB.
        budget: largest allowed `Accuracy.worst`.
        judge: accuracy with those layers in INT8 and the others in the wider type.

    Returns:
        With at least one layer in INT8. Where no measured graph meets the budget, the one that
        loses least, and `within_budget` is False.
    """
    order = tuple(sorted(snr, key=lambda name: (-snr[name], name)))
    steps: dict[int, Step] = {}

    def measured(count: int) -> Step:
        if count not in steps:
            steps[count] = Step(layers=count, accuracy=judge(frozenset(order[:count])))
        return steps[count]

    low, high = 0, len(order)  # low: known or hoped to meet the budget; high: known not to
    if measured(high).meets(budget):
        low = high
    while high - low > 1:
        middle = (low + high) // 2
        if measured(middle).meets(budget):
            low = middle
        else:
            high = middle
    measured(1)
    candidates = [step for count, step in steps.items() if count > 0]
    fitting = [step for step in candidates if step.meets(budget)]
    chosen = (
        max(fitting, key=lambda step: step.layers)
        if fitting
        else min(candidates, key=lambda step: (step.accuracy.worst, -step.layers))
    )
    return Search(
        order=order,
        chosen=chosen,
        within_budget=bool(fitting),
        curve=tuple(steps[count] for count in sorted(steps)),
    )
