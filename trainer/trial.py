"""A trial of a setting: a small network of few good images -> how well it tells synthetic defects.

The network is the one that would be deployed, with fewer prototypes, taught by some good images and
judged on others. It takes seconds where a training takes minutes. No real defect is seen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from agp_edge.dataset import part_of
from agp_edge.trainer.config import FITTED, ModelConfig, postprocess_spec
from agp_edge.trainer.data import ImageReader, read_frame
from agp_edge.trainer.decoder_fitting import fit_decoder
from agp_edge.trainer.features import FeaturesInMemory
from agp_edge.trainer.fine_training import fit_fine_tokens
from agp_edge.trainer.judge import defects_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from agp_edge.dataset import Sample
    from agp_edge.trainer.model import AgpNet
    from agp_edge.trainer.weights import Pretrained

    NewModel = Callable[[ModelConfig], tuple[AgpNet, Pretrained]]

__all__ = ["Found", "Images", "try_setting"]

_PROTOTYPES, _FINE_PROTOTYPES = 256, 128


class Images:
    """The frames that all settings are judged on, with the defects that are put into them."""

    def __init__(
        self, fitted: Sequence[Sample], held: Sequence[Sample], each: int, seed: int
    ) -> None:
        """Reads them; `each` defects in every held image."""
        self.fitted = [read_frame(sample) for sample in fitted]
        self.held = [read_frame(sample) for sample in held]
        self.defects = defects_of(held, each, seed)
        self.shapes = [frame.shape[:2] for frame in (*self.fitted, *self.held)]
        names = [part_of(sample) for sample in held]
        distinct = {name: index for index, name in enumerate(dict.fromkeys(names))}
        self.parts = np.array([distinct[name] for name in names], np.intp)  # of each held image


@dataclass(frozen=True)
class Found:
    """What a setting says of the held images and of the defects in them; larger is worse."""

    good: NDArray[np.float64]  # (n,), scores
    good_most: NDArray[np.float64]  # (n,), the map's largest value
    defective: NDArray[np.float64]  # (m,), scores
    located: NDArray[np.float64]  # (m,), the map's largest value on the defect
    image: NDArray[np.intp]  # (m,), the held image that each defect is in

    def quality(self, weight: NDArray[np.float64] | None = None) -> float:
        """Mean of two AUROCs, in [0, 1]: of the images, and of the defects' places.

        The second asks for localisation: the map on a defect against the whole map of good images.

        Args:
            weight: (n,), of the good images and what is in them; None: 1.
        """
        own = np.ones(len(self.good)) if weight is None else weight
        return 0.5 * (
            _auroc(self.good, own, self.defective, own[self.image])
            + _auroc(self.good_most, own, self.located, own[self.image])
        )


@torch.inference_mode()
def try_setting(config: ModelConfig, images: Images, new_model: NewModel, seed: int) -> Found:
    """Teaches and judges one setting.

    Args:
        config: of the network; a decoder that would be trained is stood for by the default.
        images: what is learned and judged.
        new_model: builds a network of a config, with pretrained weights.
        seed: of the prototypes.
    """
    config = replace(
        config,
        decoder=config.decoder if config.decoder in FITTED else ModelConfig.decoder,
        distance="l2",
        memory=min(config.memory, _PROTOTYPES),
        fine_memory=min(config.fine_memory, _FINE_PROTOTYPES),
        patch_memory=min(config.patch_memory, _FINE_PROTOTYPES),
        discriminators=0,  # they would take most of the time
    )
    model, pretrained = new_model(config)
    # one image at a time in this layout is two to three times as fast on a CPU as a batch
    model = model.eval().to(memory_format=torch.channels_last)
    reader = ImageReader(config.height, config.width, pretrained.mean, pretrained.std)

    def layers(frame: NDArray[np.uint8]) -> list[Tensor]:
        image = reader.tensor([frame]).contiguous(memory_format=torch.channels_last)
        found: list[Tensor] = model.backbone(image)
        return found

    _teach(model, config, (layers(frame) for frame in images.fitted), seed)
    judge = _Judge(model, config)
    good = [judge.seen(layers(frame), None) for frame in images.held]
    bad = []
    for defect in images.defects:
        frame = defect.apply(images.held[defect.image])
        bad.append(judge.seen(layers(frame), defect.full_mask(frame.shape)))
    return Found(
        good=np.array([score for score, _ in good]),
        good_most=np.array([most for _, most in good]),
        defective=np.array([score for score, _ in bad]),
        located=np.array([most for _, most in bad]),
        image=np.array([defect.image for defect in images.defects], np.intp),
    )


def _teach(model: AgpNet, config: ModelConfig, features: Iterable[list[Tensor]], seed: int) -> None:
    coarse: list[Tensor] = []
    kept: list[list[Tensor]] = [[] for _ in model.fine_maps()]
    for layers in features:
        coarse.append(model.fusion(layers).half())
        for fine, own in zip(model.fine_maps(), kept, strict=True):
            own.append(fine.tokens(layers).half())
    if model.whitening is not None:
        model.whitening.fit((tokens.float() for tokens in coarse), config.shrinkage)
    fit_decoder(model, FeaturesInMemory(torch.cat(coarse)), np.arange(len(coarse)), seed)
    distances = [model.raw_distance(model.whitened(tokens.float())) for tokens in coarse]
    if model.position is not None:
        model.position.fit(distances)
        distances = [model.position(distance) for distance in distances]
    random = np.random.default_rng([seed, 17])
    fit_fine_tokens(
        model, kept, distances, shrinkage=config.shrinkage, random=random, seed=seed, progress=False
    )


class _Judge:
    """Scores through the postprocessing that serves the line."""

    def __init__(self, model: AgpNet, config: ModelConfig) -> None:
        self._model = model
        self._size = (config.height, config.width)
        self._postprocessor = postprocess_spec(config).native(
            model.output_grid, (config.height, config.width)
        )
        # a defect may show in the cell beside its own
        self._reach = max(
            side // cells for side, cells in zip(self._size, model.output_grid, strict=True)
        )

    def seen(self, layers: list[Tensor], mask: NDArray[np.bool_] | None) -> tuple[float, float]:
        """The score, and the map's largest value, on the defect where there is one."""
        distance = self._model.distance_map(layers)[0, 0].numpy()
        result = self._postprocessor.run(np.ascontiguousarray(distance), outputs=1)
        map_ = result.anomaly_map
        assert map_ is not None  # for the type checker: it was asked for
        return float(result.score), float((map_ if mask is None else map_[self._near(mask)]).max())

    def _near(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        import cv2  # noqa: PLC0415  (heavy)

        height, width = self._size
        small = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        side = 2 * (self._reach // 2) + 1
        grown = cv2.dilate((small > 0).astype(np.uint8), np.ones((side, side), np.uint8))
        return np.asarray(grown > 0, np.bool_)


def _auroc(
    good: NDArray[np.float64],
    good_weight: NDArray[np.float64],
    bad: NDArray[np.float64],
    bad_weight: NDArray[np.float64],
) -> float:
    """By its definition, since the bootstrap asks a thousand times: few images, many weights."""
    right = (bad > good[:, None]) + 0.5 * (bad == good[:, None])
    total = good_weight.sum() * bad_weight.sum()
    return float(good_weight @ right @ bad_weight / total) if total > 0.0 else 0.5
