"""The model to be quantised, and what every stage needs of it: inputs, layers, ranges, judges."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from agp_edge.calibration.fp16.half_graph import (
    distance_tail,
    float_tensors,
    out_of_range_nodes,
    peak_graph,
)
from agp_edge.calibration.graph.model_digest import graph_sha256
from agp_edge.calibration.graph.model_file import load_fp32, preprocessor_of, scorer, set_manifest
from agp_edge.calibration.graph.run_graph import open_graph
from agp_edge.calibration.int8.accuracy import Judge, labelled_frames, unlabelled_frames
from agp_edge.calibration.int8.diversity import describer, far_out, k_centre
from agp_edge.calibration.int8.qdq_graph import (
    FP16_OPSET,
    Layer,
    calibrated_tensors,
    layers_of,
)
from agp_edge.calibration.int8.ranges import collect_ranges
from agp_edge.dependencies import require
from agp_edge.errors import DataError, ModelError
from agp_edge.files import write_aside
from agp_edge.images import read_image
from agp_edge.manifest import read_manifest_text
from agp_edge.self_test import self_test_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto

    from agp_edge.calibration.int8.journal import Journal
    from agp_edge.calibration.int8.quantise_report import QuantiseReport
    from agp_edge.dataset import Sample

__all__ = ["Choice", "Work"]

MOST_DESCRIBED = 1000  # good images that the choice is made from, spread evenly over more
NAMED = 5
MOST_JUDGED = 128  # held-out good images, spread evenly over more


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which good images calibrate."""

    calibrated: list[Sample]
    """In the order they were chosen."""

    usual: list[Sample]
    """All that are not held out and look like the others: what they are chosen from."""

    highest: list[tuple[Sample, float]]
    """The good images whose largest distance is largest, with it, the largest first."""

    warnings: list[str]


class Work:
    """The model and what every stage needs of it."""

    def __init__(self, source: str, progress: bool, depthwise: bool) -> None:
        """Reads the FP32 model.

        Args:
            source: the ONNX file.
            progress: show progress bars on stderr where that is a terminal.
            depthwise: whether depthwise convolutions may be INT8.

        Raises:
            ModelError: not an FP32 ONNX file of ours, or of an opset that is too old.
        """
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
        """Wraps what is iterated over; shows progress."""
        tqdm = require("tqdm").tqdm

        def wrap(items: Iterable[Any]) -> Iterable[Any]:
            wrapped: Iterable[Any] = tqdm(
                items, desc=title, unit=unit, leave=False, disable=None if self._progress else True
            )
            return wrapped

        return wrap

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        return self.manifest["input"]["height"], self.manifest["input"]["width"]

    def input_of(self, path: Path) -> NDArray[np.float32]:
        """The network's input (1, 3, H, W) of an image; raises as `frame_of`."""
        return self.input_of_frame(self.frame_of(path))

    def frame_of(self, path: Path) -> NDArray[np.uint8]:
        """An image as a camera's frame.

        Raises:
            DataError: the image is unreadable or blank.
        """
        frame = read_image(path)
        if int(np.ptp(frame)) == 0:
            raise DataError(
                f"image '{path}' is blank (every pixel is {int(frame.flat[0])}): remove it, or "
                "check the camera"
            )
        return frame

    def input_of_frame(self, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The network's input (1, 3, H, W) of a frame."""
        return np.asarray(self._preprocess.run(frame)[None])

    def choose(self, pool: Sequence[Sample], held_out: Sequence[Sample], count: int) -> Choice:
        """Chooses the calibration images; every good image is read on the way."""
        describe = describer(self.model, self.layers())
        samples = [*_spread(pool, MOST_DESCRIBED), *_spread(held_out, MOST_JUDGED)]
        own = min(len(pool), MOST_DESCRIBED)
        bar = self.bar("read good images", "image")
        found, sizes = [], Counter[tuple[int, ...]]()
        for sample in bar(samples):
            frame = self.frame_of(sample.path)
            sizes[frame.shape[1::-1]] += 1
            found.append(describe(self.input_of_frame(frame)))
        strange = far_out([distance for _, distance in found])
        warnings = []
        if len(sizes) > 1:
            listed = ", ".join(f"{n} of {w}x{h}" for (w, h), n in sizes.most_common(3))
            warnings.append(
                f"the good images have {len(sizes)} sizes ({listed}"
                f"{' ...' if len(sizes) > 3 else ''} pixels); a camera sends one: calibrate with "
                "frames as the line sees them"
            )
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
        ranked = sorted(range(len(found)), key=lambda index: -found[index][1])
        return Choice(
            calibrated=[samples[usual[index]] for index in k_centre(vectors, count)],
            usual=[samples[index] for index in usual],
            highest=[(samples[index], found[index][1]) for index in ranked[:NAMED]],
            warnings=warnings,
        )

    def layers(self) -> list[Layer]:
        """The layers of the model.

        Raises:
            ModelError: there is none.
        """
        layers = layers_of(self.model)
        if not layers:
            raise ModelError(
                f"'{self.source}' has no convolution or matrix product with weights: there is "
                "nothing to quantise"
            )
        return layers

    def wide_nodes(self, model: ModelProto, chosen: Sequence[Sample]) -> frozenset[str]:
        """Names of the nodes that stay FP32 in an FP16 graph, as `fp16_from_onnx` chooses them."""
        tensors = float_tensors(model)
        run = open_graph(peak_graph(model, tensors))
        peaks = np.zeros(len(tensors))
        for sample in chosen:
            peaks = np.maximum(peaks, np.asarray(run(self.input_of(sample.path)), np.float64))
        found = out_of_range_nodes(model.graph, dict(zip(tensors, peaks.tolist(), strict=True)))
        return frozenset(distance_tail(model.graph) | found)

    def ranges(
        self, model: ModelProto, chosen: Sequence[Sample], method: str, journal: Journal, key: str
    ) -> dict[str, float]:
        """The range of every tensor that the model's layers read.

        Args:
            model: FP32.
            chosen: the calibration images.
            method: one of `ranges.RANGES`.
            journal: what it knows already is not measured again.
            key: under which it knows them.
        """
        limits: dict[str, float] | None = journal.get("ranges", key)
        if limits is None:
            inputs = (self.input_of(s.path) for s in self.bar("calibrate", "image")(list(chosen)))
            names = calibrated_tensors(layers_of(model))
            limits = collect_ranges(model, names, inputs, method=method)
            journal.put("ranges", key, limits)
        return limits

    def quantisable(
        self, layers: Sequence[Layer], limits: Mapping[str, float], wide: frozenset[str]
    ) -> list[Layer]:
        """The layers that can be INT8.

        Layers that read nothing but zeros, or that FP16 cannot hold, stay as they are, and
        depthwise convolutions where it was asked for.

        Raises:
            ModelError: there is none.
        """
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
        return alive

    def judge(self, held_out: Sequence[Sample], labelled: Sequence[Sample] | None) -> Judge:
        """Judges graphs on labelled images, or on held-out good ones with synthetic defects."""
        if labelled is not None:
            frames = labelled_frames(labelled, self.shape)
        else:
            frames = unlabelled_frames(_spread(held_out, MOST_JUDGED), self.shape)
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
            "method": report.method,
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


def _spread(samples: Sequence[Sample], limit: int) -> list[Sample]:
    if len(samples) <= limit:
        return list(samples)
    return [samples[index * len(samples) // limit] for index in range(limit)]
