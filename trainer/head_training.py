"""Training of the perturbation head: good images, and copies of them with synthetic defects.

Each copy passes the frozen backbone once; what the layers say is kept in memory as fp16. The number
of images and copies is bounded, so that memory and time do not grow with the data set.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch.nn import functional
from tqdm import tqdm

from agp_edge.errors import ModelError
from agp_edge.trainer.checkpoint import load_model, write_checkpoint
from agp_edge.trainer.synthetic import FAMILIES, with_defect

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from agp_edge.dataset import Sample
    from agp_edge.trainer.config import TrainConfig
    from agp_edge.trainer.data import ImageReader
    from agp_edge.trainer.features import Features
    from agp_edge.trainer.head import PerturbationHead
    from agp_edge.trainer.model import AgpNet
    from agp_edge.trainer.weights import Pretrained

__all__ = ["add_head", "fit_head", "perturbed_copies"]

_MEMORY = 1_000_000_000  # bytes that kept features may take
_BATCH = 16  # images through the backbone at once
_WARMUP = 0.05  # share of the steps with a rising rate; cosine decay after it
_DRAWS = 5  # for a defect that can be seen
# A token of which less than the second share is covered is neither perturbed nor good.
_PERTURBED, _UNTOUCHED = 0.08, 0.0


def add_head(
    folder: Path,
    samples: Sequence[Sample],
    features: Features,
    stop: Sequence[Sample],
    *,
    pretrained: Pretrained,
    reader: ImageReader,
    on: torch.device,
    progress: bool = True,
) -> None:
    """Trains the head of a run's checkpoint, where it has one without training, and writes it.

    Args:
        folder: of the run, whose checkpoint has all but the head.
        samples: good images to train on.
        features: of `samples`.
        stop: good images for the calibration; can be none.
        pretrained: gives the normalisation of the input.
        reader: of the images.
        on: the device.
        progress: whether to show bars.

    Raises:
        ModelError: as `fit_head`.
    """
    model, checkpoint = load_model(folder)
    if model.head is None or (checkpoint.finished and float(model.head.gain) != 0.0):
        return
    model.to(on)
    fit_head(
        model,
        checkpoint.train,
        samples,
        features,
        stop,
        weight=checkpoint.model.head_weight,
        pretrained=pretrained,
        reader=reader,
        progress=progress,
    )
    write_checkpoint(folder, model, replace(checkpoint, finished=True))


def fit_head(
    model: AgpNet,
    config: TrainConfig,
    samples: Sequence[Sample],
    features: Features,
    stop: Sequence[Sample],
    *,
    weight: float,
    pretrained: Pretrained,
    reader: ImageReader,
    families: Sequence[str] = tuple(FAMILIES),
    progress: bool = True,
) -> None:
    """Trains `model.head` and calibrates it against the position-scaled distance.

    The same arguments give the same weights on a CPU.

    Args:
        model: everything but the head is fitted already; on its device.
        config: head_copies, head_steps, head_rate, placement, clip, batch and seed are used.
        samples: good images to train on.
        features: of `samples`; their prior masks place the defects.
        stop: good images for the calibration; none: those of the training are taken.
        weight: of the head beside the reconstruction, see `PerturbationHead.calibrate`.
        pretrained: gives the normalisation of the input.
        reader: of the images.
        families: of the defects; experiments leave some out.
        progress: whether to show bars.

    Raises:
        ModelError: the loss is not finite.
    """
    head = model.head
    assert head is not None  # for the type checker: the caller has looked
    torch.manual_seed(config.seed)
    random = np.random.default_rng([config.seed, 17])
    store = _Store(model, head.grid)
    copies, images = _numbers(config, len(samples), store.bytes_per_image)
    chosen = np.sort(random.permutation(len(samples))[:images])
    with tqdm(total=images + copies, desc="perturb", unit="image", disable=not progress) as bar:
        for start in range(0, images, _BATCH):
            indices = chosen[start : start + _BATCH]
            inputs = reader.read([samples[index] for index in indices])
            store.add_good(inputs)
            where = _placement(config, features, indices, model, inputs)
            # in step with the images, so that all get the same number, up to one
            done, upto = store.perturbed, copies * min(start + _BATCH, images) // images
            frames = _frames(inputs, pretrained)
            for batch, masks in perturbed_copies(
                frames, where, families, upto - done, done, random=random
            ):
                store.add_perturbed(_inputs(batch, pretrained), masks)
            bar.update(len(indices) + upto - done)
    head.standardise(store.good_batch(np.arange(min(images, 64))))
    _train(head, store, config, random, progress)
    if head.position is not None:
        head.position.fit(_logits(head, store))
    held = stop or [samples[index] for index in chosen[:64]]
    head.calibrate(*_good_maps(model, head, reader, held), weight)


def perturbed_copies(
    frames: Sequence[NDArray[np.float32]],
    where: Sequence[NDArray[np.float32]],
    families: Sequence[str],
    count: int,
    first: int,
    *,
    random: np.random.Generator,
) -> Iterator[tuple[list[NDArray[np.float32]], list[NDArray[np.bool_]]]]:
    """Batches of images with one defect each, families in turn, and where the defects are.

    Args:
        frames: good images, float32 (H, W, 3), 8-bit units.
        where: float32 (H, W) of each, as `with_defect` takes it.
        families: of the defects.
        count: of the copies; the frames are taken in turn.
        first: number of the first copy; decides its family.
        random: the stream that decides the rest.
    """
    for start in range(0, count, _BATCH):
        images, masks = [], []
        for number in range(start, min(start + _BATCH, count)):
            index = number % len(frames)
            other = frames[int(random.integers(len(frames)))]
            # the round is counted too: eight families and sixteen frames would stay in step
            family = families[(first + number + number // len(frames)) % len(families)]
            for _ in range(_DRAWS):
                image, mask = with_defect(frames[index], other, where[index], family, random)
                if mask.any():
                    break
            images.append(image)
            masks.append(mask)
        yield images, masks


class _Store:
    """Feature maps of good and perturbed images, fp16, and the targets of the latter."""

    def __init__(self, model: AgpNet, grid: tuple[int, int]) -> None:
        self._model = model
        self._device = next(model.parameters()).device
        self._grid = grid
        self._good: list[list[Tensor]] = []  # of each image: its layers
        self._bad: list[list[Tensor]] = []
        self._targets: list[Tensor] = []
        strides = model.backbone.strides
        height, width = (g * model.stride for g in model.grid)
        self.bytes_per_image = 2 * sum(
            count * (height // stride) * (width // stride)
            for count, stride in zip(model.backbone.channels, strides, strict=True)
        )

    @property
    def good(self) -> int:
        return len(self._good)

    @property
    def perturbed(self) -> int:
        return len(self._bad)

    def add_good(self, inputs: Tensor) -> None:
        self._good += self._features(inputs)

    def add_perturbed(self, inputs: Tensor, masks: Sequence[NDArray[np.bool_]]) -> None:
        self._bad += self._features(inputs)
        covered = torch.from_numpy(np.stack(masks).astype(np.float32)).unsqueeze(1)
        self._targets += list(functional.adaptive_avg_pool2d(covered, self._grid)[:, 0])

    def good_batch(self, indices: NDArray[np.intp]) -> list[Tensor]:
        return self._stacked([self._good[index] for index in indices])

    def perturbed_batch(self, indices: NDArray[np.intp]) -> tuple[list[Tensor], Tensor]:
        targets = torch.stack([self._targets[index] for index in indices])
        return self._stacked([self._bad[index] for index in indices]), targets.to(self._device)

    def _stacked(self, rows: list[list[Tensor]]) -> list[Tensor]:
        return [torch.stack(layer).to(self._device).float() for layer in zip(*rows, strict=True)]

    @torch.no_grad()
    def _features(self, inputs: Tensor) -> list[list[Tensor]]:
        layers = [
            layer.to("cpu", torch.float16)
            for layer in self._model.backbone(inputs.to(self._device))
        ]
        return [[layer[index].clone() for layer in layers] for index in range(len(inputs))]


def _numbers(config: TrainConfig, samples: int, bytes_per_image: int) -> tuple[int, int]:
    """How many copies, and of how many good images: at most as many images as copies."""
    images = max(min(samples, config.head_copies), 1)
    most = max(_MEMORY // bytes_per_image, 2)
    if images + config.head_copies > most:
        images = max(min(images, most // 3), 1)
    return max(min(config.head_copies, most - images), 1), images


def _placement(
    config: TrainConfig,
    features: Features,
    indices: NDArray[np.intp],
    model: AgpNet,
    inputs: Tensor,
) -> list[NDArray[np.float32]]:
    height, width = inputs.shape[2:]
    if config.placement == "uniform":
        return [np.ones((height, width), np.float32)] * len(indices)
    _, prior = features.read(indices)
    masks = prior.reshape(-1, *model.grid).numpy()
    return [
        np.asarray(cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
        for mask in masks
    ]


def _frames(inputs: Tensor, pretrained: Pretrained) -> list[NDArray[np.float32]]:
    """Network inputs (B, 3, H, W) back in 8-bit units, (H, W, 3) each."""
    mean, std = (torch.tensor(value).reshape(3, 1, 1) for value in _norm(pretrained))
    frames = (inputs * std + mean).permute(0, 2, 3, 1).clamp(0.0, 255.0)
    return [np.ascontiguousarray(frame) for frame in frames.numpy()]


def _inputs(frames: Sequence[NDArray[np.float32]], pretrained: Pretrained) -> Tensor:
    mean, std = (torch.tensor(value).reshape(3, 1, 1) for value in _norm(pretrained))
    images = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
    return (images - mean) / std


def _norm(pretrained: Pretrained) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return pretrained.mean, pretrained.std


def _train(
    head: PerturbationHead,
    store: _Store,
    config: TrainConfig,
    random: np.random.Generator,
    progress: bool,
) -> None:
    optimizer = torch.optim.AdamW(head.parameters(), config.head_rate, weight_decay=1e-2)
    half = max(config.batch // 2, 1)
    order = np.empty(0, np.intp)
    head.train()
    for step in tqdm(range(config.head_steps), desc="head", unit="step", disable=not progress):
        done = step / config.head_steps
        rate = min(1.0, (done + 1e-3) / _WARMUP) * 0.5 * (1.0 + np.cos(np.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = config.head_rate * rate
        if len(order) < half:
            order = np.concatenate([order, random.permutation(store.perturbed)])
        bad, covered = store.perturbed_batch(order[:half])
        order = order[half:]
        good = store.good_batch(random.integers(0, store.good, half))
        logits = head.logits([torch.cat(layers) for layers in zip(bad, good, strict=True)])[:, 0]
        covered = torch.cat([covered, covered.new_zeros(len(logits) - len(covered), *head.grid)])
        loss = _loss(logits, covered)
        if not torch.isfinite(loss):
            raise ModelError(
                f"the perturbation head's loss is {float(loss.detach())} in step {step}; lower its "
                f"learning rate, head_rate = {config.head_rate:g}"
            )
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(head.parameters(), config.clip)
        optimizer.step()
    head.fold()


def _loss(logits: Tensor, covered: Tensor) -> Tensor:
    """Binary cross-entropy of logits (B, gh, gw); `covered` is the share of a token perturbed."""
    perturbed = covered > _PERTURBED
    clear = perturbed | (covered <= _UNTOUCHED)
    each = functional.binary_cross_entropy_with_logits(
        logits, perturbed.to(logits.dtype), reduction="none"
    )
    return (each * clear).mean()


@torch.no_grad()
def _logits(head: PerturbationHead, store: _Store) -> Iterator[Tensor]:
    for start in range(0, store.good, _BATCH):
        stop = min(start + _BATCH, store.good)
        yield head.logits(store.good_batch(np.arange(start, stop)))


@torch.no_grad()
def _good_maps(
    model: AgpNet, head: PerturbationHead, reader: ImageReader, samples: Sequence[Sample]
) -> tuple[Tensor, Tensor]:
    """Position-scaled logits and distances of good images."""
    device = next(model.parameters()).device
    logits, distances = [], []
    for start in range(0, len(samples), _BATCH):
        features = model.backbone(reader.read(samples[start : start + _BATCH]).to(device))
        logits.append(head.placed(head.logits(features)))
        distances.append(model.reconstruction_map(features))
    return torch.cat(logits), torch.cat(distances)
