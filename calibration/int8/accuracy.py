"""How much accuracy a converted graph loses: frames and a graph -> figures beside a budget.

With labelled defects: the loss of image AUROC, and of AUPRO where there are masks, each by the
upper end of its paired 95 % interval. Without: on held-out good images and synthetic defects, the
share of verdicts that flip, the share of anomaly-map pixels that do, and losses that are certain.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from agp_edge.calibration.graph.model_file import preprocessor_of
from agp_edge.calibration.graph.run_graph import open_graph
from agp_edge.calibration.int8.paired import (
    Loss,
    OverlapTable,
    aupro_loss,
    auroc_loss,
    resampled_weights,
)
from agp_edge.dataset import part_of, read_mask
from agp_edge.errors import DataError, ModelError
from agp_edge.images import read_image
from agp_edge.manifest import PostprocessSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from agp_edge.dataset import Sample

__all__ = ["Accuracy", "Judge", "JudgedFrame", "labelled_frames", "unlabelled_frames"]

# A verdict that turns on less than this share of the threshold is no flip: two engines of one
# precision may differ by as much (self-test), and conformal thresholds are one image's score.
BORDERLINE = 1e-2
# Good images whose share above it makes the threshold of a model that has none.
FALLBACK_RATE = 0.05


@dataclass(frozen=True)
class JudgedFrame:
    """One frame: how to get it, whether it is defective, where, and which part it shows."""

    frame: Callable[[], NDArray[np.uint8]]
    defective: bool
    mask: NDArray[np.bool_] | None  # of the input's size; None: not annotated
    part: str


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """What a graph loses against the FP32 graph, on the same frames."""

    images: int
    defects: str
    """ "labelled" or "synthetic"."""

    auroc: Loss | None
    """Of the image score; None where all frames are of one kind."""

    aupro: Loss | None
    """None without masks."""

    flips: float
    """Share of frames with another verdict, borderline ones not counted."""

    borderline_flips: float
    """Share of frames with another verdict whose FP32 score is within 1 % of the threshold."""

    pixel_flips: float
    """Share of anomaly-map pixels on the other side of the mask threshold."""

    map_difference: float
    """Mean |difference| of the maps, of the range of the FP32 maps."""

    score_shift: float
    """Mean difference of the scores, of the FP32 score; positive: scores rise."""

    @property
    def worst(self) -> float:
        """The figure that the budget bounds: the largest of those that count."""
        losses = [loss for loss in (self.auroc, self.aupro) if loss is not None]
        if self.defects == "labelled":
            return max(loss.upper for loss in losses)
        # Few frames lie near the threshold: order and places can be lost without a flip. With few
        # frames two scores that change places are a large loss and mean nothing, so that a loss
        # counts where its interval is above 0.
        certain = [loss.value for loss in losses if loss.lower > 0.0]
        return max(self.flips, self.pixel_flips, *certain)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "worst": self.worst}

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Accuracy:
        """What `to_dict` wrote."""
        values = {key: value for key, value in document.items() if key != "worst"}
        for key in ("auroc", "aupro"):
            values[key] = None if values[key] is None else Loss(**values[key])
        return cls(**values)


def labelled_frames(samples: Sequence[Sample], shape: tuple[int, int]) -> list[JudgedFrame]:
    """The test images of a data set with defects.

    Args:
        samples: good and defective ones.
        shape: height and width of the network's input, which anomaly maps have too.

    Raises:
        DataError: one kind is missing, or a mask is unreadable.
    """
    count = sum(sample.is_defective for sample in samples)
    if count == 0 or count == len(samples):
        raise DataError(
            f"{len(samples) - count} good and {count} defective labelled images: the budget needs "
            "both (test/good and test/<defect type>)"
        )
    return [
        JudgedFrame(
            frame=lambda path=sample.path: read_image(path),  # type: ignore[misc]
            defective=sample.is_defective,
            mask=read_mask(sample, shape)
            if sample.mask_path is not None or not sample.is_defective
            else None,
            part=part_of(sample),
        )
        for sample in samples
    ]


def unlabelled_frames(samples: Sequence[Sample], shape: tuple[int, int]) -> list[JudgedFrame]:
    """Held-out good images, and each of them once more with a synthetic defect.

    The defects are the trainer's, one family after the other, placed anywhere.

    Args:
        samples: good ones.
        shape: height and width of the network's input.
    """
    import cv2  # noqa: PLC0415  (heavy)

    from agp_edge.trainer.synthetic import FAMILIES, with_defect  # noqa: PLC0415  (OpenCV)

    def resized(sample: Sample) -> NDArray[np.float32]:
        image = read_image(sample.path)
        if image.ndim == 2:
            image = np.repeat(image[:, :, None], 3, axis=2)
        smaller = cv2.resize(image, (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
        return np.asarray(smaller, np.float32)

    names = sorted(FAMILIES)
    anywhere = np.ones(shape, np.float32)
    frames = []
    for index, sample in enumerate(samples):
        frames.append(
            JudgedFrame(
                frame=lambda path=sample.path: read_image(path),  # type: ignore[misc]
                defective=False,
                mask=np.zeros(shape, np.bool_),
                part=part_of(sample),
            )
        )
        changed, mask = with_defect(
            resized(sample),
            resized(samples[index - 1]),
            anywhere,
            names[index % len(names)],
            np.random.default_rng(index),
        )
        if mask.any():
            pixels = np.clip(np.rint(changed), 0, 255).astype(np.uint8)
            frames.append(
                JudgedFrame(
                    frame=lambda pixels=pixels: pixels,  # type: ignore[misc]
                    defective=True,
                    mask=mask,
                    part=part_of(sample),
                )
            )
    return frames


class Judge:
    """Runs graphs over the same frames and compares each with the FP32 graph."""

    def __init__(
        self,
        model: ModelProto,
        manifest: dict[str, Any],
        frames: Sequence[JudgedFrame],
        *,
        labelled: bool,
        bar: Callable[[Iterable[JudgedFrame]], Iterable[JudgedFrame]] = iter,
    ) -> None:
        """Runs the FP32 graph.

        Args:
            model: FP32.
            manifest: of the model: preprocessing, postprocessing, threshold.
            frames: good and defective ones.
            labelled: whether the defects are real.
            bar: wraps the frames of each pass; shows progress.
        """
        self._manifest = manifest
        self._frames = list(frames)
        self._labelled = labelled
        self._bar = bar
        self._defective = np.array([frame.defective for frame in self._frames])
        self._scores, self._maps = self._run(model)
        threshold = manifest.get("threshold")
        if threshold is None:
            good = self._scores[~self._defective]
            self._threshold = self._mask_threshold = float(np.quantile(good, 1.0 - FALLBACK_RATE))
        else:
            self._threshold = float(threshold["value"])
            mask_value = threshold.get("mask_value")
            self._mask_threshold = self._threshold if mask_value is None else float(mask_value)
        lowest = min(float(values.min()) for values in self._maps)
        self._span = max(max(float(values.max()) for values in self._maps) - lowest, 1e-12)
        both = bool(self._defective.any() and not self._defective.all())
        self._weights = (
            resampled_weights(self._defective, [frame.part for frame in self._frames])
            if both
            else None
        )
        self._masks: list[NDArray[np.bool_]] | None = None
        if both and all(frame.mask is not None for frame in self._frames):
            self._masks = [frame.mask for frame in self._frames if frame.mask is not None]
            self._table = OverlapTable.collect(self._maps, self._masks)

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def scores(self) -> NDArray[np.float64]:
        """Of the frames (n,), by the graph that others are compared with."""
        return self._scores

    def judge(self, model: ModelProto) -> Accuracy:
        """Runs a graph over the frames and compares.

        Raises:
            ModelError: it gives values that are not finite.
        """
        scores, maps = self._run(model)
        auroc = aupro = None
        if self._weights is not None:
            auroc = auroc_loss(self._defective, self._scores, scores, self._weights)
            if self._masks is not None:
                table = OverlapTable.collect(maps, self._masks)
                aupro = aupro_loss(self._table, table, self._weights)
        flipped = (self._scores > self._threshold) != (scores > self._threshold)
        near = np.abs(self._scores - self._threshold) <= BORDERLINE * abs(self._threshold)
        pairs = list(zip(self._maps, maps, strict=True))
        limit = self._mask_threshold
        pixels = [float(np.mean((before > limit) != (after > limit))) for before, after in pairs]
        distances = [float(np.abs(before - after).mean()) for before, after in pairs]
        return Accuracy(
            images=len(self._frames),
            defects="labelled" if self._labelled else "synthetic",
            auroc=auroc,
            aupro=aupro,
            flips=float(np.mean(flipped & ~near)),
            borderline_flips=float(np.mean(flipped & near)),
            pixel_flips=float(np.mean(pixels)),
            map_difference=float(np.mean(distances)) / self._span,
            score_shift=float(np.mean((scores - self._scores) / np.abs(self._scores))),
        )

    def _run(self, model: ModelProto) -> tuple[NDArray[np.float64], list[NDArray[np.float32]]]:
        manifest = self._manifest
        preprocess = preprocessor_of(manifest)
        postprocess = PostprocessSpec.of(manifest).native(
            (manifest["output"]["height"], manifest["output"]["width"]),
            (manifest["input"]["height"], manifest["input"]["width"]),
        )
        run = open_graph(model)
        scores, maps = [], []
        for frame in self._bar(self._frames):
            distance = run(preprocess.run(frame.frame())[None])[0][0, 0]
            if not np.isfinite(distance).all():
                raise ModelError(
                    f"the converted graph of '{manifest['name']}' gives values that are not finite"
                )
            result = postprocess.run(np.ascontiguousarray(distance, np.float32), outputs=1)
            scores.append(result.score)
            maps.append(np.array(result.anomaly_map))
        return np.array(scores), maps
