"""Reads model.onnx (FP32) and good images, writes model.int8.onnx with an accuracy budget kept.

Static quantisation to explicit Q/DQ pairs. Good images chosen for their diversity give the ranges;
other good images with synthetic defects, or labelled ones, judge what is lost; the layers that
would lose too much stay FP16 (or FP32), or are trained to bear it. docs/int8.md says how each
choice was made.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from agp_edge.calibration.fp16.half_graph import half_graph, rounded_graph
from agp_edge.calibration.int8.accuracy import Accuracy
from agp_edge.calibration.int8.journal import Journal
from agp_edge.calibration.int8.paired import Loss
from agp_edge.calibration.int8.qat import STEPS, network_of, tuned_graph
from agp_edge.calibration.int8.qdq_graph import (
    layers_of,
    only_layers,
    quantised_graph,
    with_half_scales,
)
from agp_edge.calibration.int8.quantise_report import LayerReport, QuantiseReport
from agp_edge.calibration.int8.ranges import RANGES
from agp_edge.calibration.int8.rounding import input_moments, round_weights
from agp_edge.calibration.int8.sensitivity import Search, Step, scan, search
from agp_edge.calibration.int8.work import Work
from agp_edge.dataset import open_dataset, split_by_part
from agp_edge.dependencies import require
from agp_edge.errors import DataError, Error

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from onnx import ModelProto

    from agp_edge.calibration.int8.accuracy import Judge
    from agp_edge.calibration.int8.qdq_graph import Layer
    from agp_edge.dataset import Sample

__all__ = ["METHODS", "quantise_onnx"]

METHODS = ("ptq", "qat")
# Fewer show neither the ranges nor what is lost.
LEAST_IMAGES = 16
HELD_OUT = 0.3  # of the good parts: they judge, and are not calibrated on
SCANNED = 8  # calibration images of the scan of the layers


def quantise_onnx(
    onnx_path: str | os.PathLike[str],
    images: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    count: int = 64,
    ranges: str = "mse",
    budget: float | None = None,
    labelled: str | os.PathLike[str] | None = None,
    precision: str = "fp16",
    depthwise: bool = True,
    method: str = "ptq",
    checkpoint: str | os.PathLike[str] | None = None,
    steps: int = STEPS,
    progress: bool = False,
) -> QuantiseReport:
    """Quantises a model and measures what it costs.

    The same inputs give the same file. An interrupted run goes on where it stopped, from its record
    `output` + ".journal"; a training that was cut off begins anew.

    Args:
        onnx_path: an FP32 model made by `agp-edge export`.
        images: a folder of good images, or a data set whose train/good is taken.
        output: the INT8 model; appears complete or not at all.
        count: calibration images, chosen for their diversity.
        ranges: how the range of an activation is found, one of `ranges.RANGES`.
        budget: the most that may be lost, see `accuracy.Accuracy.worst`; layers that would lose
            more stay in `precision`. None: all layers become INT8, and the loss is reported.
        labelled: a data set with good and defective test images that judges the loss. Layers are
            chosen by these images, so their figures are no test any more. None: held-out good
            images and synthetic defects judge.
        precision: "fp16" or "fp32", of everything that is not INT8.
        depthwise: whether depthwise convolutions may be INT8; some compilers have poor kernels.
        method: "ptq", post-training; "qat": what post-training quantisation does not bring within
            the budget, without a budget every layer, is trained to bear INT8. The better of both
            is written.
        checkpoint: for "qat": the run that `onnx_path` was exported from.
        steps: for "qat": of the optimiser.
        progress: show progress bars on stderr where that is a terminal.

    Raises:
        ModelError: not an FP32 ONNX file of ours, nothing in it can be quantised, its values are
            not finite, or the checkpoint is another model's.
        DataError: too few images, blank or unreadable ones, or the record of another run.
        DependencyError: onnx or onnxruntime is not installed; for "qat" torch.
        Error: an option is unknown or out of range.
    """
    _check(ranges, precision, count, budget)
    _check_training(method, checkpoint, steps)
    require("onnx", extra="train")
    require("onnxruntime", extra="cpu")
    source = os.fspath(onnx_path)
    work = Work(source, progress, depthwise)
    network = None if checkpoint is None else network_of(checkpoint, work)
    good = _good_samples(images)
    known = None if labelled is None else open_dataset(labelled).test
    subject = {
        "model": _digest([Path(source)]),
        "images": _digest(sample.path for sample in good),
        "labelled images": None if known is None else _digest(sample.path for sample in known),
        "method": [
            "gptq",
            count,
            ranges,
            budget,
            precision,
            depthwise,
            metadata.version("onnxruntime"),
        ],
        # an earlier version's journal lacks some
        "figures": [field.name for field in (*fields(Accuracy), *fields(Loss))],
    }
    if network is not None:
        subject["training"] = [steps, metadata.version("torch")]
    pool, held_out = split_by_part(good, HELD_OUT, seed=0)
    choice = work.choose(pool, held_out, count)
    journal = Journal(f"{os.fspath(output)}.journal", subject)
    chosen = choice.calibrated
    judge = work.judge(held_out, known)
    stage = _Stage(work, chosen, ranges=ranges, precision=precision, judge=judge, journal=journal)
    graphs = stage.graphs(work.model, ranges)
    names = [layer.name for layer in graphs.layers]
    snr: dict[str, float] = {}
    if budget is None:
        result = _all_layers(graphs)
    else:
        inputs = [work.input_of(sample.path) for sample in chosen[:SCANNED]]
        bar = work.bar("scan", "layer")
        snr = scan(work.model, graphs.full, graphs.layers, inputs, journal, bar=bar)
        result = search(snr, budget, graphs.accuracy)
    before: Search | None = None
    in_vain: Search | None = None
    kept = Path(f"{os.fspath(output)}.trained")
    if network is not None and (budget is None or not _has_all(result)):
        carried = () if budget is None else result.order[: result.chosen.layers]
        model = tuned_graph(
            work,
            network,
            choice.usual,
            graphs.limits,
            rounded=names,
            trained=[name for name in names if name not in carried],
            steps=steps,
            kept=kept,
            journal=journal,
        )
        tuned = stage.graphs(model, f"{ranges}, trained", names)
        if budget is None:
            after = _all_layers(tuned)
        else:
            after = search({x.name: snr[x.name] for x in tuned.layers}, budget, tuned.accuracy)
        if _rank(after) > _rank(result):
            before, result, graphs = result, after, tuned
        else:
            in_vain = after
    taken = frozenset(result.order[: result.chosen.layers])
    report = QuantiseReport(
        path=Path(output),
        source=Path(source),
        method="ptq" if before is None else "qat",
        ranges=ranges,
        calibrated=tuple(sample.path for sample in chosen),
        highest=tuple((sample.path.name, value) for sample, value in choice.highest),
        warnings=tuple(choice.warnings),
        layers=_layer_reports(graphs.layers, snr, taken, precision),
        budget=budget,
        search=result,
        post_training=before,
        training=in_vain,
    )
    work.write(graphs.graph(taken), report, _digest(sample.path for sample in chosen))
    journal.remove()
    kept.unlink(missing_ok=True)
    return report


def _layer_reports(
    layers: Sequence[Layer], snr: Mapping[str, float], taken: frozenset[str], precision: str
) -> tuple[LayerReport, ...]:
    return tuple(
        LayerReport(
            name=layer.name,
            op=layer.op,
            weights=layer.weights,
            snr=snr.get(layer.name),
            precision="int8" if layer.name in taken else precision,
        )
        for layer in layers
    )


class _Stage:
    """What is the same for the model before and after a training."""

    def __init__(
        self,
        work: Work,
        chosen: Sequence[Sample],
        *,
        ranges: str,
        precision: str,
        judge: Judge,
        journal: Journal,
    ) -> None:
        self.work = work
        self.chosen = chosen
        self.method = ranges
        self.half = precision == "fp16"
        self.judge = judge
        self.journal = journal

    def graphs(self, model: ModelProto, key: str, names: Collection[str] | None = None) -> _Graphs:
        """Of an FP32 model, with its own ranges.

        Args:
            model: the original one or a trained one.
            key: tells it apart in the journal.
            names: of the layers that may be INT8; None: all.
        """
        work = self.work
        limits = work.ranges(model, self.chosen, self.method, self.journal, key)
        wide: frozenset[str] = frozenset()
        if self.half:
            wide = work.wide_nodes(model, self.chosen[:SCANNED])
        layers = work.quantisable(layers_of(model), limits, wide)
        if names is not None:
            layers = [layer for layer in layers if layer.name in names]
        inputs = (work.input_of(s.path) for s in work.bar("round", "image")(list(self.chosen)))
        moments = input_moments(model, layers, inputs)
        return _Graphs(self, key, model, layers, limits, moments=moments, wide=wide)


class _Graphs:
    """One FP32 graph with any choice of its layers in INT8, and what each choice loses."""

    def __init__(
        self,
        stage: _Stage,
        key: str,
        model: ModelProto,
        layers: list[Layer],
        limits: Mapping[str, float],
        *,
        moments: Mapping[str, NDArray[np.float64]],
        wide: frozenset[str],
    ) -> None:
        self.layers = layers
        self.limits = limits
        full = quantised_graph(model, layers, limits)
        self.full = with_half_scales(full) if stage.half else full
        round_weights(self.full, layers, moments)
        self._wide = wide
        self._stage = stage
        self._key = key

    def graph(self, names: frozenset[str]) -> ModelProto:
        """With these layers in INT8."""
        subset = only_layers(self.full, self.layers, names)
        return half_graph(subset, self._wide) if self._stage.half else subset

    def accuracy(self, names: frozenset[str]) -> Accuracy:
        """Of that graph; what the journal knows is not measured again."""
        text = " ".join([self._key, *sorted(names)])
        place = hashlib.sha256(text.encode()).hexdigest()
        stage = self._stage
        noted = stage.journal.get("accuracy", place)
        if noted is not None:
            return Accuracy.from_dict(noted)
        candidate = self.graph(names)
        found = stage.judge.judge(rounded_graph(candidate) if stage.half else candidate)
        stage.journal.put("accuracy", place, found.to_dict())
        return found


def _all_layers(graphs: _Graphs) -> Search:
    order = tuple(layer.name for layer in graphs.layers)
    step = Step(layers=len(order), accuracy=graphs.accuracy(frozenset(order)))
    return Search(order=order, chosen=step, within_budget=True, curve=(step,))


def _has_all(result: Search) -> bool:
    return result.within_budget and result.chosen.layers == len(result.order)


def _rank(result: Search) -> tuple[bool, int, float]:
    """Within the budget comes first, then the number of layers, then maps nearer to FP32's.

    Beside equally many layers a share of flips or a loss on few frames is left to chance; the mean
    difference of all maps is not.
    """
    if not result.within_budget:
        return False, 0, -result.chosen.accuracy.worst
    return True, result.chosen.layers, -result.chosen.accuracy.map_difference


def _check(ranges: str, precision: str, count: int, budget: float | None) -> None:
    if ranges not in RANGES:
        raise Error(f"unknown ranges '{ranges}': expected one of {', '.join(RANGES)}")
    if precision not in ("fp16", "fp32"):
        raise Error(f"unknown precision '{precision}' beside INT8: expected fp16 or fp32")
    if count < LEAST_IMAGES:
        raise Error(f"{count} calibration images were asked for: expected {LEAST_IMAGES} or more")
    if budget is not None and not budget > 0.0:
        raise Error(f"the budget is {budget}: expected more than 0, such as 0.002")


def _check_training(method: str, checkpoint: str | os.PathLike[str] | None, steps: int) -> None:
    if method not in METHODS:
        raise Error(f"unknown method '{method}': expected one of {', '.join(METHODS)}")
    if method == "qat" and checkpoint is None:
        raise Error(
            "the method qat trains the network: give the checkpoint that the ONNX file was "
            "exported from, the folder that `agp-edge train` wrote"
        )
    if method != "qat" and checkpoint is not None:
        raise Error("a checkpoint is of use with the method qat only: leave it out, or ask for qat")
    if steps < 1:
        raise Error(f"{steps} training steps were asked for: expected 1 or more")


def _good_samples(images: str | os.PathLike[str]) -> tuple[Sample, ...]:
    samples = open_dataset(images).train
    if len(samples) < LEAST_IMAGES:
        raise DataError(
            f"'{os.fspath(images)}' holds {len(samples)} good images: calibration needs "
            f"{LEAST_IMAGES} or more"
        )
    return samples


def _digest(paths: Iterable[Path]) -> str:
    """SHA-256 over the files' contents, in order; names do not count."""
    whole = hashlib.sha256()
    for path in paths:
        try:
            whole.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            raise DataError(f"cannot read '{path}': {error.strerror or error}") from error
    return f"sha256:{whole.hexdigest()}"
