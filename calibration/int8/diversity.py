"""Which good images to calibrate on: few that differ as much as possible, never the first N.

Each image becomes a vector: mean and spread of the channels at four depths of the network, so that
what counts as different is what the layers see. Greedy k-centre (Gonzalez, 1985) then takes the
image that is farthest from all taken so far.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from agp_edge.calibration.graph.run_graph import open_graph

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from agp_edge.calibration.int8.qdq_graph import Layer

__all__ = ["DEPTHS", "describer", "far_out", "k_centre"]

DEPTHS = 4


def describer(
    model: ModelProto, layers: Sequence[Layer]
) -> Callable[[NDArray[np.float32]], tuple[NDArray[np.float64], float]]:
    """A function from an input (1, 3, H, W) to its vector and its largest distance.

    Args:
        model: FP32.
        layers: of the model; those at a quarter, a half, three quarters and the end of them
            describe an image.
    """
    outputs = {node.name: node.output[0] for node in model.graph.node}
    places = sorted({(step + 1) * len(layers) // DEPTHS - 1 for step in range(DEPTHS)} - {-1})
    chosen = [layers[place] for place in places]
    # of a convolution the channels come second, of tokens last
    axes = [1 if "Conv" in layer.op else -1 for layer in chosen]
    run = open_graph(
        model, [*(outputs[layer.name] for layer in chosen), model.graph.output[0].name]
    )

    def describe(image: NDArray[np.float32]) -> tuple[NDArray[np.float64], float]:
        *features, distance = run(image)
        parts = []
        for feature, axis in zip(features, axes, strict=True):
            channels = np.moveaxis(feature, axis, 0).reshape(feature.shape[axis], -1)
            parts += [channels.mean(axis=1), channels.std(axis=1)]
        return np.concatenate(parts).astype(np.float64), float(distance.max())

    return describe


def k_centre(vectors: NDArray[np.float64], count: int) -> list[int]:
    """Indices of `count` vectors that cover all of them, in the order they were taken.

    Every component is first brought to unit spread. The first one taken is the nearest to the mean.

    Args:
        vectors: (n, d).
        count: at most n are taken.
    """
    spread = vectors.std(axis=0)
    scaled = (vectors - vectors.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    taken = [int(np.argmin((scaled**2).sum(axis=1)))]
    nearest = ((scaled - scaled[taken[0]]) ** 2).sum(axis=1)
    while len(taken) < min(count, len(scaled)):
        nearest[taken] = -1.0  # also where images are equal, none is taken twice
        taken.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, ((scaled - scaled[taken[-1]]) ** 2).sum(axis=1))
    return taken


def far_out(values: Sequence[float]) -> list[int]:
    """Indices of the values beyond Tukey's outer fence, Q3 + 3 (Q3 - Q1), the largest first."""
    numbers = np.asarray(values)
    low, high = np.quantile(numbers, [0.25, 0.75])
    found = np.flatnonzero(numbers > high + 3.0 * (high - low))
    return [int(index) for index in found[np.argsort(-numbers[found], kind="stable")]]
