"""What a set says of a network: image AUROC and AUPRO of maps, for each kind of defect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agp_edge.dataset import Sample
from agp_edge.metrics import PixelScores, aupro, image_auroc
from agp_edge.trainer.config import ModelConfig, postprocess_spec
from agp_edge.trainer.data import ImageReader, read_frame
from agp_edge.trainer.judge import Defect, defects_of
from agp_edge.trainer.model import AgpNet

__all__ = ["Judge", "Maps"]

DEFECTS = 4  # synthetic ones in each good image that is judged
BATCH = 16

Maps = Callable[[list[Tensor]], Tensor]  # feature maps of the layers -> distance maps


class Judge:
    """Good images, and the defects that they are compared with, as the frozen layers see them."""

    def __init__(
        self,
        model: AgpNet,
        reader: ImageReader,
        good: Sequence[Sample],
        bad: Sequence[Sample],
        *,
        seed: int,
    ) -> None:
        self.size = (reader.height, reader.width)
        self.groups: dict[str, list[tuple[list[Tensor], NDArray[np.bool_] | None]]] = {}
        with torch.no_grad():
            for name, samples in (("good", good), ("defective", bad)):
                for start in range(0, len(samples), BATCH):
                    self._add(name, model, reader.read(samples[start : start + BATCH]), None)
            if bad:
                return
            by_family: dict[str, list[Defect]] = {}
            for defect in defects_of(good, DEFECTS, seed):
                by_family.setdefault(defect.family, []).append(defect)
            for family, defects in by_family.items():
                for start in range(0, len(defects), BATCH):
                    batch = defects[start : start + BATCH]
                    frames = [read_frame(good[defect.image]) for defect in batch]
                    inputs = reader.tensor(
                        [d.apply(frame) for d, frame in zip(batch, frames, strict=True)]
                    )
                    masks = [
                        self._resized(d.full_mask(frame.shape))
                        for d, frame in zip(batch, frames, strict=True)
                    ]
                    self._add(family, model, inputs, np.stack(masks))

    def _resized(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        small = cv2.resize(mask.astype(np.float32), self.size[::-1], interpolation=cv2.INTER_AREA)
        return np.asarray(small > 0, np.bool_)

    def _add(
        self, name: str, model: AgpNet, inputs: Tensor, masks: NDArray[np.bool_] | None
    ) -> None:
        features = [layer.half() for layer in model.backbone(inputs)]
        self.groups.setdefault(name, []).append((features, masks))

    def figures(self, config: ModelConfig, ways: dict[str, Maps]) -> dict[str, Any]:
        """Image AUROC (and AUPRO) of each way, for each group of defects."""
        found: dict[str, Any] = {}
        for way, maps in ways.items():
            scores: dict[str, NDArray[np.float64]] = {}
            pixels: dict[str, PixelScores] = {}
            for name, batches in self.groups.items():
                values, drawn, known = [], [], []
                for features, masks in batches:
                    with torch.no_grad():
                        grids = maps([layer.float() for layer in features])[:, 0].numpy()
                    postprocessor = postprocess_spec(config).native(grids.shape[1:], self.size)
                    for index, grid in enumerate(grids):
                        result = postprocessor.run(np.ascontiguousarray(grid), outputs=1)
                        values.append(result.score)
                        # every other pixel: a quarter of the sorting
                        drawn.append(result.anomaly_map[::2, ::2])
                        mask = np.zeros(self.size, np.bool_) if masks is None else masks[index]
                        known.append(mask[::2, ::2])
                scores[name] = np.array(values)
                if "defective" not in self.groups:
                    pixels[name] = PixelScores.collect(drawn, known)
            found[way] = {
                name: {
                    "image_auroc": image_auroc(
                        [False] * len(scores["good"]) + [True] * len(bad),
                        np.concatenate([scores["good"], bad]),
                    ),
                    "aupro": aupro(PixelScores.join([pixels["good"], pixels[name]]))
                    if name in pixels
                    else None,
                }
                for name, bad in scores.items()
                if name != "good"
            }
        return found
