"""Input size and layers per product: chosen from good images and synthetic defects alone.

On fine structures resolution and early layers decide everything, and on others they do harm, so
that no fixed size is right. Candidates are judged without training (judge.py) on held-out good
images; of those that are as good as the best, up to chance, the cheapest wins.
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
from agp_edge.trainer.data import ImageReader, read_frame
from agp_edge.trainer.judge import Defect, Scorer, Verdicts, defects_of, fit_judge

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from agp_edge.dataset import Sample
    from agp_edge.trainer.config import ModelConfig
    from agp_edge.trainer.model import AgpNet
    from agp_edge.trainer.weights import Pretrained

    NewModel = Callable[[ModelConfig], tuple[AgpNet, Pretrained]]

__all__ = ["Candidate", "SizeChoice", "choose_size", "measured_ms"]

# Sides of square inputs, and the areas of oblong ones. They are climbed: two in a row that bring
# nothing end it.
_SIDES = (256, 320, 384, 512, 640, 768, 1024)
_UPSAMPLED = 1.1  # frames are not enlarged by more: that adds cost and no detail
_OBLONG = 1.25  # aspect from which an input of the frames' aspect is a candidate
_SAME_ASPECT = 0.1  # spread of the frames' aspects up to which they count as one
_FIT, _JUDGED, _DEFECTS = 48, 24, 4  # images fitted, images judged, defects in each of these
_LEAST_IMAGES = 8  # fewer say nothing
_BATCH = 8
_RESAMPLES = 200
_CHANCE = 0.002  # quality; a smaller lead is none, whatever the bootstrap says
_IDLE = 2  # sizes in a row that bring nothing before the climb ends
# Self-attention over more tokens needs gigabytes in training; then each token is rebuilt by itself,
# by an MLP of this width through this bottleneck.
_MOST_ATTENDED = 2000
_WIDTH, _BOTTLENECK = 256, 64


@dataclass(frozen=True)
class Candidate:
    """A setting, how good it looks, and what it costs."""

    config: ModelConfig
    what: str  # which layers, for people
    quality: float  # Verdicts.quality, in [0, 1]
    behind: float  # the best candidate's quality minus this one's
    chance: float  # standard error of `behind`, by bootstrap over the images
    gmacs: float  # 1e9 multiplications and additions of an inference
    milliseconds: float | None  # estimated; None: no budget was given


@dataclass(frozen=True)
class SizeChoice:
    """The winner and the table that it won."""

    config: ModelConfig
    candidates: tuple[Candidate, ...]  # in the order tried
    reason: str

    def lines(self) -> list[str]:
        """The table for people, the winner marked."""
        lines = ["  input      layers   quality  behind the best   GMACs      ms"]
        for candidate in self.candidates:
            config = candidate.config
            mark = "*" if config == self.config else " "
            cost = "     -" if candidate.milliseconds is None else f"{candidate.milliseconds:6.1f}"
            lines.append(
                f"{mark} {f'{config.height}x{config.width}':9s}  {candidate.what:7s}  "
                f"{candidate.quality:.3f}    {candidate.behind:.3f} +- {candidate.chance:.3f}  "
                f"{candidate.gmacs:6.2f}  {cost}"
            )
        return [*lines, self.reason]


@dataclass(frozen=True)
class _Trial:
    config: ModelConfig
    what: str
    verdicts: Verdicts
    gmacs: float


def choose_size(
    samples: Sequence[Sample],
    config: ModelConfig,
    new_model: NewModel,
    *,
    seed: int,
    budget_ms: float | None = None,
    progress: bool = True,
) -> SizeChoice:
    """Chooses height, width, layers and decoder; the rest of `config` stays.

    The same images, config and seed give the same choice; with a budget it also depends on how fast
    this machine is.

    Args:
        samples: good images of the training side; a third of their parts is judged.
        config: of the model; layers that are given stay.
        new_model: builds a network of a config, with pretrained weights.
        seed: of the split, the defects and the bootstrap.
        budget_ms: most milliseconds per frame of the network by ONNX Runtime on this machine:
            estimated for each candidate, measured for the winner. None: no limit.
        progress: whether to show a bar.

    Raises:
        DataError: there are too few images or parts.
        ModelError: no candidate fits the budget.
    """
    fitted, held = _sides(samples, seed)
    images = _Images(fitted, held, defects_of(held, _DEFECTS, seed))
    # what a millisecond buys, by one measurement of the smallest input
    smallest = replace(config, height=_SIDES[0], width=_SIDES[0])
    speed = None
    if budget_ms is not None:
        model, _ = new_model(smallest)
        speed = _gmacs(model, smallest) / measured_ms(model, smallest)
    trials: list[_Trial] = []
    with tqdm(desc="choose size", unit="setting", disable=not progress) as bar:
        for ladder in _ladders(images.shapes, config):
            best, idle = -math.inf, 0
            for height, width in ladder:
                sized = replace(config, height=height, width=width)
                found = _tried(sized, images, new_model, budget_ms and speed and budget_ms * speed)
                bar.update(len(found))
                trials += found
                quality = max((trial.verdicts.quality() for trial in found), default=-math.inf)
                idle = 0 if quality > best + _CHANCE else idle + 1
                best = max(best, quality)
                if idle == _IDLE or not found:
                    break  # larger ones bring nothing, or are over the budget too
    while trials:
        choice = _chosen(trials, seed, speed)
        if budget_ms is None:
            return choice
        taken = measured_ms(new_model(choice.config)[0], choice.config)
        if taken <= budget_ms:
            told = f"{choice.reason}; it takes {taken:.1f} of {budget_ms:g} ms"
            return replace(choice, reason=told)
        trials = [trial for trial in trials if trial.config != choice.config]
    raise ModelError(
        f"no input size of backbone '{config.backbone}' takes at most {budget_ms:g} ms on this "
        "machine; raise --budget-ms or choose a lighter backbone"
    )


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


class _Images:
    """The frames that all candidates are judged on."""

    def __init__(
        self, fitted: Sequence[Sample], held: Sequence[Sample], defects: Sequence[Defect]
    ) -> None:
        self.fitted = [read_frame(sample) for sample in fitted]
        self.held = [read_frame(sample) for sample in held]
        self.defects = defects
        self.shapes = [frame.shape[:2] for frame in self.fitted]


def _sides(samples: Sequence[Sample], seed: int) -> tuple[Sequence[Sample], Sequence[Sample]]:
    parts = len({part_of(sample) for sample in samples})
    if len(samples) < _LEAST_IMAGES or parts < _LEAST_IMAGES:
        raise DataError(
            f"{len(samples)} good images of {parts} parts are too few to choose the input size by; "
            f"expected {_LEAST_IMAGES} parts: give it, e.g. --size 256"
        )
    fitted, held = split_by_part(samples, 1 / 3, seed)
    return _spread(fitted, _FIT), _spread(held, _JUDGED)


def _spread(samples: Sequence[Sample], most: int) -> list[Sample]:
    """At most so many, from all over the list."""
    count = min(len(samples), most)
    return [samples[index * len(samples) // count] for index in range(count)]


def _ladders(shapes: list[tuple[int, int]], config: ModelConfig) -> list[list[tuple[int, int]]]:
    """Input sizes, rising: square ones, and where all frames are oblong alike also such ones."""
    shorter = float(np.median([min(shape) for shape in shapes]))
    sides = [s for s in _SIDES if s <= max(_UPSAMPLED * shorter, _SIDES[0])]
    ladders = [[(side, side) for side in sides]]
    aspects = np.array([height / width for height, width in shapes])
    aspect = float(np.median(aspects))
    if max(aspect, 1 / aspect) >= _OBLONG and np.ptp(aspects) <= _SAME_ASPECT * aspect:
        step = 32  # the deepest stride of common backbones
        root = math.sqrt(aspect)
        ladders.append(
            [tuple(step * max(round(s * r / step), 1) for r in (root, 1 / root)) for s in sides]
        )
    return ladders


def _layer_sets(config: ModelConfig, new_model: NewModel) -> dict[str, tuple[int, ...]]:
    """Which layers may be the target: all that are by default, without the coarsest, early ones."""
    backbone = new_model(config)[0].backbone
    sets = {"given" if config.layers else "default": backbone.layers}
    if config.layers or len(set(backbone.strides)) == 1:
        return sets
    by_stride = list(zip(backbone.layers, backbone.strides, strict=True))
    for name, most in (("fine", 16), ("early", 8)):
        layers = tuple(layer for layer, stride in by_stride if stride <= most)
        if name == "early" and layers and layers[0] > 0:
            layers = (layers[0] - 1, *layers)  # the stage before: stride 4
        if layers and layers not in sets.values():
            sets[name] = layers
    return sets


@torch.no_grad()
def _tried(
    config: ModelConfig, images: _Images, new_model: NewModel, most_gmacs: float | None
) -> list[_Trial]:
    """All layer sets of one input size; the backbone runs once for them."""
    nets: dict[str, tuple[ModelConfig, AgpNet]] = {}
    gmacs = {}
    for what, layers in _layer_sets(config, new_model).items():
        own = replace(config, layers=layers, stride=8 if what == "early" else config.stride)
        try:
            net = new_model(own)[0]
            attends = own.decoder == "transformer"
            if attends and net.grid[0] * net.grid[1] > _MOST_ATTENDED:
                own = replace(own, decoder="mlp", decoder_width=_WIDTH, bottleneck=_BOTTLENECK)
                net = new_model(own)[0]
        except ModelError:  # the size does not fit the strides of these layers
            continue
        cost = _gmacs(net, own)
        if most_gmacs is None or cost <= most_gmacs:
            nets[what], gmacs[what] = (own, net), cost
    if not nets:
        return []
    union = tuple(sorted({layer for own, _ in nets.values() for layer in own.layers}))
    runner, pretrained = new_model(replace(config, layers=union))
    reader = ImageReader(config.height, config.width, pretrained.mean, pretrained.std)

    def tokens(frames: Sequence[NDArray[np.uint8]]) -> dict[str, Tensor]:
        features = runner.backbone(reader.tensor(frames))
        return {
            what: net.fusion([features[union.index(layer)] for layer in own.layers]).half()
            for what, (own, net) in nets.items()
        }

    fit = [tokens(images.fitted[i : i + _BATCH]) for i in range(0, len(images.fitted), _BATCH)]
    scorers = {}
    for what, (own, net) in nets.items():
        fit_judge(net, own, [batch[what].float() for batch in fit])
        scorers[what] = Scorer(net, own)
    del fit
    for start in range(0, len(images.held), _BATCH):
        for what, batch in tokens(images.held[start : start + _BATCH]).items():
            scorers[what].good(batch)
    for start in range(0, len(images.defects), _BATCH):
        defects = images.defects[start : start + _BATCH]
        frames = [defect.apply(images.held[defect.image]) for defect in defects]
        masks = [
            defect.full_mask(frame.shape) for defect, frame in zip(defects, frames, strict=True)
        ]
        for what, batch in tokens(frames).items():
            scorers[what].defective(batch, masks, [defect.image for defect in defects])
    return [
        _Trial(own, what, scorers[what].verdicts(), gmacs[what]) for what, (own, _) in nets.items()
    ]


def _gmacs(model: AgpNet, config: ModelConfig) -> float:
    """1e9 multiplications and additions of one inference, by torch's counter."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, config.height, config.width))
    return counter.get_total_flops() / 2e9


def _chosen(trials: Sequence[_Trial], seed: int, speed: float | None) -> SizeChoice:
    qualities = [trial.verdicts.quality() for trial in trials]
    best = int(np.argmax(qualities))
    random = np.random.default_rng(seed)
    count = len(trials[0].verdicts.good)
    draws = np.empty((_RESAMPLES, len(trials)))
    for row in draws:  # the same images for all, so that hard ones cancel
        weight = np.bincount(random.integers(0, count, count), minlength=count).astype(float)
        row[:] = [trial.verdicts.quality(weight) for trial in trials]
    errors = (draws[:, [best]] - draws).std(axis=0)
    candidates = tuple(
        Candidate(
            config=trial.config,
            what=trial.what,
            quality=qualities[index],
            behind=qualities[best] - qualities[index],
            chance=float(errors[index]),
            gmacs=trial.gmacs,
            milliseconds=None if speed is None else trial.gmacs / speed,
        )
        for index, trial in enumerate(trials)
    )
    equal = [c for c in candidates if c.behind <= max(c.chance, _CHANCE)]
    winner = min(equal, key=lambda c: c.gmacs)
    size = f"{winner.config.height}x{winner.config.width}, {winner.what} layers"
    leader = candidates[best]
    reason = (
        f"{size}: told good images and synthetic defects apart best"
        if winner is leader
        else f"{size}: the cheapest that is as good as the best, "
        f"{leader.config.height}x{leader.config.width}, {leader.what} layers, up to chance"
    )
    return SizeChoice(winner.config, candidates, reason)
