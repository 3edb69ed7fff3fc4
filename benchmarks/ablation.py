"""What does each part of the network bring? Synthetic defects on tiles, real ones on cells.

Trains the default network with one thing changed at a time and compares image AUROC (and AUPRO
where masks are known). No image of the magnetic tiles' test folder is read: the tiles' good
training images are split by part, a third is judged, good as it is and with synthetic defects.
Solar cells (elpv-dataset, the split of magnetic_tile.py): real defects, no masks.

    python benchmarks/ablation.py [--sets tiles mono poly] [--seeds 3] [--parts decoder noise ...]

Writes benchmarks/results/ablation.json and .md after each row, so that a run that is cut off
leaves what it found. "noise" takes longest: it trains the paper's decoder four times.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from magnetic_tile import NAMES, lay_out
from numpy.typing import NDArray
from provenance import RESULTS, write_result
from torch import Tensor

from agp_edge.dataset import Dataset, Sample, open_dataset, split_by_part
from agp_edge.files import write_aside
from agp_edge.metrics import PixelScores, aupro, image_auroc
from agp_edge.trainer.checkpoint import load_model
from agp_edge.trainer.config import ModelConfig, TrainConfig, postprocess_spec
from agp_edge.trainer.data import ImageReader, read_frame
from agp_edge.trainer.features import FeatureExtractor
from agp_edge.trainer.judge import Defect, defects_of
from agp_edge.trainer.model import AgpNet
from agp_edge.trainer.perturbation import minmax
from agp_edge.trainer.train import train

DEFECTS = 4  # synthetic ones in each good image that is judged
WEIGHTS = (0.0, 0.25, 1.0)  # of the fine memory; the default's has a row of its own
SHARES = (0.005, 0.02, 0.05)  # of the map, for the mean of the largest
POWERS = (16, 32)  # beside the default
PARTS = ("decoder", "fine", "score", "position", "discriminators", "noise")
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

    def figures(self, model: AgpNet, config: ModelConfig, ways: dict[str, Maps]) -> dict[str, Any]:
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


def sides(name: str, root: Path, seed: int) -> tuple[Dataset, list[Sample], list[Sample]]:
    """The data set to train on, good images to judge, real defects (none for tiles)."""
    dataset = open_dataset(root)
    if name != "tiles":
        good = [sample for sample in dataset.test if not sample.is_defective]
        return dataset, good, [sample for sample in dataset.test if sample.is_defective]
    fit, held = split_by_part(dataset.train, 1 / 3, seed)
    return replace(dataset, train=tuple(fit), test=()), list(held), []


def rows(name: str, seed: int, parts: Sequence[str], scratch: Path) -> Iterator[dict[str, Any]]:
    """All variants on one set with one seed, one after another."""
    dataset, good, bad = sides(name, lay_out(name, scratch / "data", seed), seed)
    base = TrainConfig(seed=seed)
    default = ModelConfig()

    def trained(label: str, config: ModelConfig, training: TrainConfig = base) -> AgpNet:
        train(
            dataset,
            scratch / label.replace(" ", "_"),
            config,
            training,
            weights="wheel",
            device="cpu",
            cache_dir=scratch / "features",
            progress=False,
        )
        return load_model(scratch / label.replace(" ", "_"))[0]

    def row(part: str, label: str, figures: dict[str, Any]) -> dict[str, Any]:
        return {"set": name, "seed": seed, "part": part, "variant": label, "figures": figures}

    model = trained("default", default)
    _, info = load_model(scratch / "default")
    reader = ImageReader(default.height, default.width, info.mean, info.std)
    judge = Judge(model, reader, good, bad, seed=seed)

    def judged(part: str, label: str, maps: Maps, config: ModelConfig = default) -> dict[str, Any]:
        return row(part, label, judge.figures(model, config, {label: maps}))

    yield judged("default", "as shipped", model.distance_map)
    if "score" in parts:
        yield judged("score", "largest value", model.distance_map, replace(default, score="max"))
        for power in POWERS:
            config = replace(default, power=power)
            yield judged("score", f"mean of the power {power}", model.distance_map, config)
        for share in SHARES:
            config = replace(default, score="top_mean", top_share=share)
            yield judged("score", f"mean of the largest {share:.1%}", model.distance_map, config)
    if "fine" in parts:
        assert model.fine is not None
        gain = float(model.fine.gain)
        for weight in WEIGHTS:
            model.fine.gain.fill_(gain * weight / default.fine_weight)
            yield judged("fine memory", f"weight {weight:g}", model.distance_map)
        model.fine.gain.fill_(gain)
    if "decoder" in parts:  # from here on without the fine memory
        yield judged("decoder", "memory", model.reconstruction_map)
        yield judged("decoder", "one Gaussian", gaussian(model, dataset, reader))
    if "position" in parts:
        other = trained("no position", replace(default, position_scale=False))
        yield judged("position", "not scaled", other.distance_map)
    if "discriminators" in parts:
        beside = replace(default, discriminators=6, fine_centred=True, fine_weight=1.0)
        for noise in ("both", "guided", "alike"):
            other = trained(f"noise {noise}", beside, replace(base, noise=noise))
            yield judged("discriminators", f"noise {noise}, fine centred", other.distance_map)
        centred = replace(beside, discriminators=0)
        other = trained("centred", centred)
        yield judged("discriminators", "none, fine centred", other.distance_map)
    if "noise" in parts:
        paper = replace(default, decoder="transformer", fine_memory=0)
        energy = mask_energy(model, reader, base, dataset.train)
        for label, config in {
            "attention-guided noise": base,
            "no noise": replace(base, perturbation="none"),
            "uniform noise of equal energy": replace(base, perturbation="uniform"),
            "token dropout of equal energy": replace(base, perturbation="dropout", beta=0.0),
        }.items():
            other = trained(label, paper, equal_energy(config, energy))
            yield judged("transformer", label, other.distance_map)


class Priors:
    """Prior masks of images, computed when they are asked for."""

    def __init__(self, model: AgpNet, reader: ImageReader, samples: Sequence[Sample]) -> None:
        self._extractor = FeatureExtractor(model, "auto", torch.device("cpu"))
        self._reader, self._samples = reader, samples

    def __len__(self) -> int:
        return len(self._samples)

    def read(self, indices: NDArray[np.intp]) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, C) and masks (B, N), as a feature cache gives them."""
        tokens, prior = self._extractor(self._reader.read([self._samples[i] for i in indices]))
        return tokens.float(), prior.float()


def gaussian(model: AgpNet, dataset: Dataset, reader: ImageReader) -> Maps:
    """The decoder replaced by zero, with a position scaling of its own."""
    from agp_edge.trainer.position import PositionScale  # noqa: PLC0415

    def raw(features: list[Tensor]) -> Tensor:
        target = model.whitened(model.fusion(features))
        return model.distance(target, torch.zeros_like(target)).reshape(-1, 1, *model.grid)

    scale = PositionScale(model.grid)
    samples = dataset.train
    with torch.no_grad():
        scale.fit(
            raw(model.backbone(reader.read(samples[start : start + BATCH])))
            for start in range(0, len(samples), BATCH)
        )
    return lambda features: scale(raw(features))


def mask_energy(
    model: AgpNet, reader: ImageReader, config: TrainConfig, samples: Sequence[Sample]
) -> float:
    """Mean square of the attention-guided noise at the last epoch, in a token's mean squares.

    With the prior alone: what the decoder's own attention adds changes little of it.
    """
    _, prior = Priors(model, reader, samples).read(np.arange(min(len(samples), 32)))
    return float((config.alpha * minmax(prior) + config.beta).square().mean())


def equal_energy(config: TrainConfig, energy: float) -> TrainConfig:
    """The same energy of disturbance at the last epoch as attention-guided noise has."""
    if config.perturbation == "uniform":
        return replace(config, alpha=max(energy**0.5 - config.beta, 0.0))
    if config.perturbation == "dropout":
        return replace(config, alpha=min(energy, 1.0))  # a token set to zero loses all its energy
    return config


def table(results: Sequence[dict[str, Any]]) -> list[str]:
    """Mean over seeds (and spread) of the mean over the groups of defects."""
    lines = ["| data | part | variant | seeds | image AUROC | AUPRO |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    gathered: dict[tuple[str, str, str], list[tuple[float, float | None]]] = {}
    for entry in results:
        for way, groups in entry["figures"].items():
            figures = list(groups.values())
            overlaps = [f["aupro"] for f in figures]
            gathered.setdefault((entry["set"], entry["part"], way), []).append(
                (
                    float(np.mean([f["image_auroc"] for f in figures])),
                    None if None in overlaps else float(np.mean(overlaps)),
                )
            )
    for (name, part, way), found in gathered.items():
        cells = [_spread([auroc for auroc, _ in found])]
        overlaps = [overlap for _, overlap in found if overlap is not None]
        cells.append(_spread(overlaps) if overlaps else "-")
        lines.append(f"| {NAMES[name]} | {part} | {way} | {len(found)} | {' | '.join(cells)} |")
    return lines


def _spread(values: Sequence[float]) -> str:
    spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{spread}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sets", nargs="+", choices=list(NAMES), default=list(NAMES))
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: 3)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--output", default="ablation", help="name of the result files")
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    for seed in range(arguments.seeds):
        for name in arguments.sets:
            with tempfile.TemporaryDirectory() as scratch:
                for entry in rows(name, seed, arguments.parts, Path(scratch)):
                    results.append(entry)
                    write_result(arguments.output, {"results": results})
                    lines = [f"# {arguments.output}", "", *table(results)]
                    with write_aside(RESULTS / f"{arguments.output}.md") as aside:
                        aside.write_text("\n".join(lines) + "\n", encoding="utf-8")
                    print("\n".join(table([entry])[2:]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
