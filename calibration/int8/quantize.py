"""Reads model.onnx (FP32) and good images, writes model.int8.onnx with an accuracy budget kept.

Post-training static quantisation to explicit Q/DQ pairs. Good images chosen for their diversity
give the ranges; other good images with synthetic defects, or labelled ones, judge what is lost; the
layers that would lose too much stay FP16 (or FP32). docs/int8.md says how each choice was made.
"""

from __future__ import annotations

import hashlib
import os
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agp_edge.calibration.fp16.half_graph import (
    distance_tail,
    float_tensors,
    half_graph,
    out_of_range_nodes,
    peak_graph,
    rounded_graph,
)
from agp_edge.calibration.graph.model_digest import graph_sha256
from agp_edge.calibration.graph.model_file import load_fp32, preprocessor_of, scorer, set_manifest
from agp_edge.calibration.graph.run_graph import open_graph
from agp_edge.calibration.int8.accuracy import Accuracy, Judge, labelled_frames, unlabelled_frames
from agp_edge.calibration.int8.diversity import describer, far_out, k_centre
from agp_edge.calibration.int8.journal import Journal
from agp_edge.calibration.int8.qdq_graph import (
    FP16_OPSET,
    Layer,
    calibrated_tensors,
    layers_of,
    only_layers,
    quantised_graph,
    with_half_scales,
)
from agp_edge.calibration.int8.quantise_report import LayerReport, QuantiseReport
from agp_edge.calibration.int8.ranges import RANGES, collect_ranges
from agp_edge.calibration.int8.sensitivity import Search, Step, scan, search
from agp_edge.dataset import open_dataset, split_by_part
from agp_edge.dependencies import require
from agp_edge.errors import DataError, Error, ModelError
from agp_edge.files import write_aside
from agp_edge.images import read_image
from agp_edge.manifest import read_manifest_text
from agp_edge.self_test import self_test_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from agp_edge.dataset import Sample

__all__ = ["quantise_onnx"]

# Fewer show neither the ranges nor what is lost.
LEAST_IMAGES = 16
HELD_OUT = 0.3  # of the good parts: they judge, and are not calibrated on
MOST_DESCRIBED = 1000  # good images that the choice is made from, spread evenly over more
MOST_JUDGED = 128  # held-out good images, spread evenly over more
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
    progress: bool = False,
) -> QuantiseReport:
    """Quantises a model and measures what it costs.

    The same inputs give the same file. An interrupted run goes on where it stopped, from its record
    `output` + ".journal".

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
        progress: show progress bars on stderr where that is a terminal.

    Raises:
        ModelError: not an FP32 ONNX file of ours, nothing in it can be quantised, or its values are
            not finite.
        DataError: too few images, blank or unreadable ones, or the record of another run.
        DependencyError: onnx or onnxruntime is not installed.
        Error: an option is unknown or out of range.
    """
    if ranges not in RANGES:
        raise Error(f"unknown ranges '{ranges}': expected one of {', '.join(RANGES)}")
    if precision not in ("fp16", "fp32"):
        raise Error(f"unknown precision '{precision}' beside INT8: expected fp16 or fp32")
    if count < LEAST_IMAGES:
        raise Error(f"{count} calibration images were asked for: expected {LEAST_IMAGES} or more")
    if budget is not None and not budget > 0.0:
        raise Error(f"the budget is {budget}: expected more than 0, such as 0.002")
    require("onnx", extra="train")
    require("onnxruntime", extra="cpu")
    source = os.fspath(onnx_path)
    work = _Work(source, progress, depthwise)
    good = _good_samples(images)
    known = None if labelled is None else open_dataset(labelled).test
    subject = {
        "model": _digest([Path(source)]),
        "images": _digest(sample.path for sample in good),
        "labelled images": None if known is None else _digest(sample.path for sample in known),
        "method": [count, ranges, budget, precision, depthwise, metadata.version("onnxruntime")],
    }
    pool, held_out = split_by_part(good, HELD_OUT, seed=0)
    chosen, warnings = work.choose(pool, held_out, count)
    journal = Journal(f"{os.fspath(output)}.journal", subject)
    wide = work.wide_nodes(chosen[:SCANNED]) if precision == "fp16" else frozenset()
    full, layers = work.quantise(chosen, ranges, journal, wide)
    if precision == "fp16":
        full = with_half_scales(full)
    judge = work.judge(held_out, known)

    def graph(names: frozenset[str]) -> ModelProto:
        subset = only_layers(full, layers, names)
        return subset if precision == "fp32" else half_graph(subset, wide)

    def accuracy(names: frozenset[str]) -> Accuracy:
        place = hashlib.sha256(" ".join(sorted(names)).encode()).hexdigest()
        noted = journal.get("accuracy", place)
        if noted is not None:
            return Accuracy.from_dict(noted)
        candidate = graph(names)
        found = judge.judge(candidate if precision == "fp32" else rounded_graph(candidate))
        journal.put("accuracy", place, found.to_dict())
        return found

    if budget is None:
        every = frozenset(layer.name for layer in layers)
        step = Step(layers=len(layers), accuracy=accuracy(every))
        result = Search(
            order=tuple(layer.name for layer in layers),
            chosen=step,
            within_budget=True,
            curve=(step,),
        )
        snr: dict[str, float] = {}
    else:
        inputs = [work.input_of(sample.path) for sample in chosen[:SCANNED]]
        snr = scan(work.model, full, layers, inputs, journal, bar=work.bar("scan", "layer"))
        result = search(snr, budget, accuracy)
    taken = frozenset(result.order[: result.chosen.layers])
    report = QuantiseReport(
        path=Path(output),
        source=Path(source),
        ranges=ranges,
        calibrated=tuple(sample.path for sample in chosen),
        warnings=tuple(warnings),
        layers=tuple(
            LayerReport(
                name=layer.name,
                op=layer.op,
                weights=layer.weights,
                snr=snr.get(layer.name),
                precision="int8" if layer.name in taken else precision,
            )
            for layer in layers
        ),
        budget=budget,
        search=result,
    )
    work.write(graph(taken), report, _digest(sample.path for sample in chosen))
    journal.remove()
    return report


class _Work:
    """The model and what every stage needs of it."""

    def __init__(self, source: str, progress: bool, depthwise: bool) -> None:
        self.source = source
        self._depthwise = depthwise
        self.text, self.manifest = read_manifest_text(source)
        self.model = load_fp32(source, self.manifest)
        opset = next(o.version for o in self.model.opset_import if o.domain in ("", "ai.onnx"))
        if opset < FP16_OPSET:
            raise ModelError(
                f"'{source}' is of ONNX opset {opset}: Q/DQ pairs of FP16 tensors need "
                f"{FP16_OPSET} or newer, export the model again"
            )
        self._preprocess = preprocessor_of(self.manifest)
        self._progress = progress

    def bar(self, title: str, unit: str) -> Callable[[Iterable[Any]], Iterable[Any]]:
        tqdm = require("tqdm").tqdm

        def wrap(items: Iterable[Any]) -> Iterable[Any]:
            wrapped: Iterable[Any] = tqdm(
                items, desc=title, unit=unit, leave=False, disable=None if self._progress else True
            )
            return wrapped

        return wrap

    def input_of(self, path: Path) -> NDArray[np.float32]:
        frame = read_image(path)
        if int(np.ptp(frame)) == 0:
            raise DataError(
                f"image '{path}' is blank (every pixel is {int(frame.flat[0])}): remove it, or "
                "check the camera"
            )
        return np.asarray(self._preprocess.run(frame)[None])

    def choose(
        self, pool: Sequence[Sample], held_out: Sequence[Sample], count: int
    ) -> tuple[list[Sample], list[str]]:
        """The calibration images, and what looked wrong; every good image is read on the way."""
        describe = describer(self.model, self.layers())
        samples = [*_spread(pool, MOST_DESCRIBED), *_spread(held_out, MOST_JUDGED)]
        own = min(len(pool), MOST_DESCRIBED)
        bar = self.bar("read good images", "image")
        found = [describe(self.input_of(sample.path)) for sample in bar(samples)]
        strange = far_out([distance for _, distance in found])
        warnings = []
        if strange:
            names = ", ".join(f"'{samples[index].path.name}'" for index in strange[:5])
            warnings.append(
                f"{len(strange)} of the good images score far above the others and are not "
                f"calibrated on; are they defective? {names}{' ...' if len(strange) > 5 else ''}"
            )
        usual = [index for index in range(own) if index not in set(strange)]
        if len(usual) < count:
            warnings.append(
                f"{len(usual)} good images are there to calibrate on, {count} were asked for: all "
                "are taken"
            )
        vectors = np.stack([found[index][0] for index in usual])
        return [samples[usual[index]] for index in k_centre(vectors, count)], warnings

    def layers(self) -> list[Layer]:
        layers = layers_of(self.model)
        if not layers:
            raise ModelError(
                f"'{self.source}' has no convolution or matrix product with weights: there is "
                "nothing to quantise"
            )
        return layers

    def wide_nodes(self, chosen: Sequence[Sample]) -> frozenset[str]:
        """Names of the nodes that stay FP32 in an FP16 graph, as `fp16_from_onnx` chooses them."""
        tensors = float_tensors(self.model)
        run = open_graph(peak_graph(self.model, tensors))
        peaks = np.zeros(len(tensors))
        for sample in chosen:
            peaks = np.maximum(peaks, np.asarray(run(self.input_of(sample.path)), np.float64))
        found = out_of_range_nodes(
            self.model.graph, dict(zip(tensors, peaks.tolist(), strict=True))
        )
        return frozenset(distance_tail(self.model.graph) | found)

    def quantise(
        self, chosen: Sequence[Sample], method: str, journal: Journal, wide: frozenset[str]
    ) -> tuple[ModelProto, list[Layer]]:
        """The graph with all layers in INT8, and those layers.

        Layers that read nothing but zeros, or that FP16 cannot hold, stay as they are, and
        depthwise convolutions where it was asked for.
        """
        layers = self.layers()
        limits: dict[str, float] | None = journal.get("ranges", method)
        if limits is None:
            inputs = (self.input_of(s.path) for s in self.bar("calibrate", "image")(list(chosen)))
            limits = collect_ranges(self.model, calibrated_tensors(layers), inputs, method=method)
            journal.put("ranges", method, limits)
        alive = [
            layer
            for layer in layers
            if (self._depthwise or layer.op != "depthwise Conv")
            and layer.name not in wide
            and all(limits[name] > 0.0 for name in calibrated_tensors([layer]))
        ]
        if not alive:
            raise ModelError(
                f"every layer of '{self.source}' reads zeros on the calibration images: give "
                "images of parts"
            )
        return quantised_graph(self.model, alive, limits), alive

    def judge(self, held_out: Sequence[Sample], labelled: Sequence[Sample] | None) -> Judge:
        shape = (self.manifest["input"]["height"], self.manifest["input"]["width"])
        if labelled is not None:
            frames = labelled_frames(labelled, shape)
        else:
            frames = unlabelled_frames(_spread(held_out, MOST_JUDGED), shape)
        return Judge(
            self.model,
            self.manifest,
            frames,
            labelled=labelled is not None,
            bar=self.bar("judge", "frame"),
        )

    def write(self, graph: ModelProto, report: QuantiseReport, digest: str) -> None:
        """The file, opened as it will be before it takes its name."""
        manifest = dict(self.manifest)
        manifest["precision"] = {"asked": "int8", "built": None}
        manifest["quantisation"] = {
            "method": "ptq",
            "ranges": report.ranges,
            "images": len(report.calibrated),
            "images_sha256": digest,
            "model": f"sha256:{graph_sha256(report.source)}",
            "int8_layers": report.search.chosen.layers,
            "layers": len(report.layers),
            "budget": report.budget,
            "within_budget": report.search.within_budget,
            "loss": float(f"{report.accuracy.worst:.3g}"),
            "loss_from": report.accuracy.defects,
        }
        with write_aside(report.path) as aside:
            if manifest.get("self_test"):
                set_manifest(graph, {**manifest, "self_test": None})
                aside.write_bytes(graph.SerializeToString())
                seed = manifest["self_test"]["seed"]
                score, _ = scorer(self.text, str(aside), report.path.name)(
                    self_test_frame(manifest, seed)
                )
                # what this graph gives: INT8 is not bound to the FP32 score of a frame of noise
                manifest["self_test"] = {"seed": seed, "score": score}
            set_manifest(graph, manifest)
            aside.write_bytes(graph.SerializeToString())


def _good_samples(images: str | os.PathLike[str]) -> tuple[Sample, ...]:
    samples = open_dataset(images).train
    if len(samples) < LEAST_IMAGES:
        raise DataError(
            f"'{os.fspath(images)}' holds {len(samples)} good images: calibration needs "
            f"{LEAST_IMAGES} or more"
        )
    return samples


def _spread(samples: Sequence[Sample], limit: int) -> list[Sample]:
    if len(samples) <= limit:
        return list(samples)
    return [samples[index * len(samples) // limit] for index in range(limit)]


def _digest(paths: Iterable[Path]) -> str:
    """SHA-256 over the files' contents, in order; names do not count."""
    whole = hashlib.sha256()
    for path in paths:
        try:
            whole.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            raise DataError(f"cannot read '{path}': {error.strerror or error}") from error
    return f"sha256:{whole.hexdigest()}"
