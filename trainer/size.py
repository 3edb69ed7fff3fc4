"""Input size and layers per product: chosen from good images and synthetic defects alone.

On fine structures resolution decides everything, and on others it only costs. The default input
stays unless a larger one tells synthetic defects apart better by more than chance explains
(trial.py), and the layers of the chosen size stay unless an earlier one helps as clearly: synthetic
defects do not stand for every real one, and what they gain by a little is not to be trusted.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from agp_edge.dataset import part_of, split_by_part
from agp_edge.errors import DataError, ModelError
from agp_edge.trainer.data import read_frame
from agp_edge.trainer.trial import Found, Images, try_setting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from agp_edge.dataset import Sample
    from agp_edge.trainer.config import ModelConfig
    from agp_edge.trainer.model import AgpNet
    from agp_edge.trainer.trial import NewModel

__all__ = ["LEAST_PARTS", "Candidate", "SizeChoice", "choose_size", "measured_ms"]

LEAST_PARTS = 8  # fewer say nothing

# Sides of square inputs, and roots of the areas of oblong ones. Less than twice the default is no
# candidate: on real defects 384 lost wherever it was compared, also where it gained 0.12 to 0.15 on
# synthetic ones: docs/training.md.
_SIDES = (256, 512, 640)
# Tried first beside the default: where it brings nothing, the other is not tried.
_PROBE = 512
_SMALLER = (224, 192, 160, 128)  # where the budget allows no more
_OBLONG = 1.25  # aspect from which an input of the frames' aspect is a candidate
_SAME_ASPECT = 0.1  # spread of the frames' aspects up to which they count as one
_FIT, _JUDGED, _DEFECTS = 40, 24, 4  # images fitted, images judged, defects in each of these
_RESAMPLES = 1000
# Of the quality. Larger inputs that gained little or lost on real defects gained up to 0.08 on
# synthetic ones; where they decided, on boards with thin structures, it was 0.13:
# docs/training.md.
_LEAST_GAIN = 0.1
_LEAST_EARLY = 0.03  # what an earlier layer has to gain on top
_LEVEL = 0.025  # of the one-sided interval of a gain
_EQUAL = 0.01  # quality; a larger input than the cheapest has to bring more
# Self-attention over more tokens needs gigabytes in training; then each token is rebuilt by itself,
# by an MLP of this width through this bottleneck.
_MOST_ATTENDED = 2000
_WIDTH, _BOTTLENECK = 256, 64


@dataclass(frozen=True)
class Candidate:
    """A setting, how good it looks, and what it costs."""

    config: ModelConfig
    what: str  # which layers, for people
    quality: float  # Found.quality, in [0, 1]
    gain: float  # of quality, over the default input's
    least: float  # lower limit of the gain, by bootstrap over the parts
    gmacs: float  # 1e9 multiplications and additions of an inference
    milliseconds: float | None  # estimated; None: no budget was given


@dataclass(frozen=True)
class SizeChoice:
    """The winner and the table that it won."""

    config: ModelConfig
    candidates: tuple[Candidate, ...]  # in the order tried; none: there was nothing to choose
    reason: str

    def lines(self) -> list[str]:
        """The table for people, the winner marked."""
        lines = []
        if self.candidates:
            lines.append("  input      layers   quality  gain (at least)      GMACs      ms")
        for candidate in self.candidates:
            config = candidate.config
            mark = "*" if config == self.config else " "
            cost = "     -" if candidate.milliseconds is None else f"{candidate.milliseconds:6.1f}"
            lines.append(
                f"{mark} {_size(config):9s}  {candidate.what:7s}  "
                f"{candidate.quality:.3f}    {candidate.gain:+.3f} ({candidate.least:+.3f})    "
                f"{candidate.gmacs:6.2f}  {cost}"
            )
        return [*lines, self.reason]


@dataclass(frozen=True)
class _Trial:
    config: ModelConfig
    what: str
    found: Found


def choose_size(
    samples: Sequence[Sample],
    config: ModelConfig,
    new_model: NewModel,
    *,
    seed: int,
    budget_ms: float | None = None,
    progress: bool = True,
) -> SizeChoice:
    """Chooses height, width and layers; for a decoder that attends also its kind.

    The same images, config and seed give the same choice; with a budget it also depends on how fast
    this machine is.

    Args:
        samples: good images of the training side; a third of their parts is judged.
        config: of the model; its size is the one that others have to beat. Layers that are given
            stay.
        new_model: builds a network of a config, with pretrained weights.
        seed: of the split, the defects and the bootstrap.
        budget_ms: most milliseconds per frame of the network by ONNX Runtime on this machine:
            estimated for each candidate, measured for the winner. None: no limit.
        progress: whether to show a bar.

    Raises:
        DataError: there are too few parts.
        ModelError: no candidate fits the budget.
    """
    parts = len({part_of(sample) for sample in samples})
    if parts < LEAST_PARTS:
        raise DataError(
            f"{len(samples)} good images of {parts} parts are too few to choose the input size by; "
            f"expected {LEAST_PARTS} parts: give it, e.g. --size 256"
        )
    fitted, held = split_by_part(samples, 1 / 3, seed)
    fitted, held = _spread(fitted, _FIT), _spread(held, _JUDGED)
    step = _step(config, new_model)
    base = _sized(config, (config.height, config.width), step, new_model)
    costs = _Costs(base, new_model, budget_ms)
    if not costs.allowed(base):
        return _largest_that_fits(base, step, costs, new_model)
    aspects = [frame.shape[:2] for frame in map(read_frame, fitted)]
    shapes = _larger(base, aspects, step)
    larger = [_sized(config, shape, step, new_model) for shape in shapes]
    larger = [candidate for candidate in larger if costs.allowed(candidate)]
    if not larger:
        why = (
            "the next larger input would enlarge the frames" if not shapes else "the budget's limit"
        )
        return SizeChoice(base, (), f"{_size(base)}: {why}")
    images = Images(fitted, held, _DEFECTS, seed)
    trials: list[_Trial] = []
    with tqdm(desc="choose size", unit="setting", disable=not progress) as bar:

        def tried(candidate: ModelConfig, what: str = "default") -> None:
            trials.append(_Trial(candidate, what, try_setting(candidate, images, new_model, seed)))
            bar.update()

        tried(base)
        # smaller ones than the probe bring less of what it brings
        probe = max((c for c in larger if _area(c) <= _PROBE**2), key=_area, default=larger[0])
        tried(probe)
        if trials[1].found.quality() > trials[0].found.quality():
            for candidate in larger:
                if candidate is not probe:
                    tried(candidate)
            size = _chosen(trials, images, seed, costs).config
            early = None if size is base else _with_early_layer(size, new_model)
            if early is not None and costs.allowed(early):
                tried(early, "early")
    while True:
        choice = _chosen(trials, images, seed, costs)
        if choice.config is base or budget_ms is None:
            return choice
        taken = costs.milliseconds(choice.config)
        if taken <= budget_ms:
            told = f"{choice.reason}; it takes {taken:.1f} of {budget_ms:g} ms"
            return replace(choice, reason=told)
        trials = [trial for trial in trials if trial.config is not choice.config]


def measured_ms(model: AgpNet, config: ModelConfig) -> float:
    """Milliseconds of the exported network by ONNX Runtime here, median of ten after two."""
    import onnxruntime  # noqa: PLC0415  (heavy)

    from agp_edge.trainer.graph import graph_from_model  # noqa: PLC0415  (heavy)

    graph = graph_from_model(model.eval(), config.height, config.width).SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    image = np.zeros((1, 3, config.height, config.width), np.float32)
    taken = []
    for _ in range(12):
        start = time.perf_counter()
        session.run(None, {session.get_inputs()[0].name: image})
        taken.append(time.perf_counter() - start)
    return 1e3 * float(np.median(taken[2:]))


class _Costs:
    """What a setting costs, and whether the budget allows it."""

    def __init__(self, base: ModelConfig, new_model: NewModel, budget_ms: float | None) -> None:
        self._new_model = new_model
        self.budget_ms = budget_ms
        # what a millisecond buys, by one measurement
        self._speed: float | None = None
        if budget_ms is not None:
            self._speed = self.gmacs(base) / self.milliseconds(base)

    def gmacs(self, config: ModelConfig) -> float:
        """1e9 multiplications and additions of one inference, by torch's counter."""
        model, _ = self._new_model(config)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.zeros(1, 3, config.height, config.width))
        return float(counter.get_total_flops() / 2e9)

    def milliseconds(self, config: ModelConfig) -> float:
        """Measured."""
        return measured_ms(self._new_model(config)[0], config)

    def estimated(self, config: ModelConfig) -> float | None:
        """Milliseconds, from one measurement; None: there is no budget."""
        return None if self._speed is None else self.gmacs(config) / self._speed

    def allowed(self, config: ModelConfig) -> bool:
        """Whether the budget allows the setting, by estimate."""
        estimated = self.estimated(config)
        return estimated is None or self.budget_ms is None or estimated <= self.budget_ms


def _spread(samples: Sequence[Sample], most: int) -> tuple[Sample, ...]:
    """At most so many, from all over the list."""
    count = min(len(samples), most)
    return tuple(samples[index * len(samples) // count] for index in range(count))


def _step(config: ModelConfig, new_model: NewModel) -> int:
    """Pixels that an input's sides are multiples of."""
    side = 448  # takes strides up to 32 with any even number of tokens, and patches of 14
    model, _ = new_model(replace(config, height=side, width=side))
    return math.lcm(model.stride, *model.backbone.strides)


def _sized(
    config: ModelConfig, shape: tuple[int, int], step: int, new_model: NewModel
) -> ModelConfig:
    """The config with that input, its sides brought to multiples of `step`."""
    height, width = (max(round(side / step), 1) * step for side in shape)
    sized = replace(config, height=height, width=width)
    if sized.decoder == "transformer" and shape != (config.height, config.width):
        grid = new_model(sized)[0].grid
        if grid[0] * grid[1] > _MOST_ATTENDED:
            return replace(sized, decoder="mlp", decoder_width=_WIDTH, bottleneck=_BOTTLENECK)
    return sized


def _with_early_layer(config: ModelConfig, new_model: NewModel) -> ModelConfig | None:
    """One stage more before the first; None: layers were given, or there is none."""
    if config.layers:
        return None
    backbone = new_model(config)[0].backbone
    if len(set(backbone.strides)) == 1 or backbone.layers[0] == 0:
        return None
    return replace(config, layers=(backbone.layers[0] - 1, *backbone.layers))


def _larger(
    base: ModelConfig, shapes: Sequence[tuple[int, ...]], step: int
) -> list[tuple[int, int]]:
    """Inputs larger than the base that enlarge no frame, rising.

    They are square, or of the frames' aspect where all frames are oblong alike.
    """
    height, width = (float(np.median([shape[axis] for shape in shapes])) for axis in (0, 1))
    aspects = np.array([shape[0] / shape[1] for shape in shapes])
    aspect = float(np.median(aspects))
    alike = np.ptp(aspects) <= _SAME_ASPECT * aspect
    root = math.sqrt(aspect) if alike and max(aspect, 1 / aspect) >= _OBLONG else 1.0
    found = []
    for side in _SIDES:
        shape = (round(side * root / step) * step, round(side / root / step) * step)
        grown = shape[0] * shape[1] > _area(base)
        if grown and shape[0] <= height and shape[1] <= width:
            found.append(shape)
    return found


def _largest_that_fits(
    base: ModelConfig, step: int, costs: _Costs, new_model: NewModel
) -> SizeChoice:
    """The budget is too small for the base: then it decides alone."""
    for side in _SMALLER:
        smaller = _sized(base, (side, side), step, new_model)
        if _area(smaller) < _area(base) and costs.allowed(smaller):
            taken = costs.milliseconds(smaller)
            if costs.budget_ms is not None and taken <= costs.budget_ms:
                reason = f"{_size(smaller)}: the largest that takes at most {costs.budget_ms:g} ms"
                return SizeChoice(smaller, (), f"{reason}, {taken:.1f}")
    raise ModelError(
        f"no input size of backbone '{base.backbone}' takes at most {costs.budget_ms:g} ms on this "
        "machine; raise --budget-ms or choose a lighter backbone"
    )


def _chosen(trials: Sequence[_Trial], images: Images, seed: int, costs: _Costs) -> SizeChoice:
    """The first trial stays unless another one is better beyond chance."""
    qualities = [trial.found.quality() for trial in trials]
    draws = _resampled(trials, images, seed)
    candidates = tuple(
        Candidate(
            config=trial.config,
            what=trial.what,
            quality=quality,
            gain=quality - qualities[0],
            least=float(np.quantile(draws[:, index] - draws[:, 0], _LEVEL)),
            gmacs=costs.gmacs(trial.config),
            milliseconds=costs.estimated(trial.config),
        )
        for index, (trial, quality) in enumerate(zip(trials, qualities, strict=True))
    )
    base = candidates[0]
    better = [c for c in candidates[1:] if c.gain >= _LEAST_GAIN and c.least > 0.0]
    if not better:
        larger = len(candidates) > 1
        why = "larger inputs are not clearly better" if larger else "the budget's limit"
        return SizeChoice(base.config, candidates, f"{_size(base.config)}: {why}")
    sizes = [candidate for candidate in better if candidate.what != "early"]
    best = max(candidate.quality for candidate in sizes)
    winner = min((c for c in sizes if best - c.quality <= _EQUAL), key=lambda c: c.gmacs)
    for index, early in enumerate(candidates):
        if early.what == "early" and early.quality - winner.quality >= _LEAST_EARLY:
            lead = draws[:, index] - draws[:, candidates.index(winner)]
            winner = early if np.quantile(lead, _LEVEL) > 0.0 else winner
    return SizeChoice(
        winner.config,
        candidates,
        f"{_size(winner.config)}, {winner.what} layers: told synthetic defects better than "
        f"{_size(base.config)} by {winner.gain:.3f} (at least {winner.least:.3f})",
    )


def _resampled(trials: Sequence[_Trial], images: Images, seed: int) -> NDArray[np.float64]:
    """Qualities (resamples, trials) over parts drawn again, the same ones for all trials."""
    random = np.random.default_rng(seed)
    count = int(images.parts.max()) + 1
    draws = np.empty((_RESAMPLES, len(trials)))
    for row in draws:
        drawn = np.bincount(random.integers(0, count, count), minlength=count).astype(float)
        row[:] = [trial.found.quality(drawn[images.parts]) for trial in trials]
    return draws


def _area(config: ModelConfig) -> int:
    area: int = config.height * config.width  # mypy takes frozen fields for Any
    return area


def _size(config: ModelConfig) -> str:
    return f"{config.height}x{config.width}"
