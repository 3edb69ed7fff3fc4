"""What does each part of the network bring? Synthetic defects on tiles, real ones on cells.

Trains the default network with one thing changed at a time and compares image AUROC (and AUPRO
where masks are known). No image of the magnetic tiles' test folder is read: the tiles' good
training images are split by part, a third is judged, good as it is and with synthetic defects.
Solar cells (elpv-dataset, the split of magnetic_tile.py): real defects, no masks.

    python benchmarks/ablation.py [--sets tiles mono poly] [--seeds 3] [--parts score noise ...]

Writes benchmarks/results/ablation.json and .md after each row, so that a run that is cut off
leaves what it found; --add keeps the rows that are there. "noise" takes longest: it trains the
paper's decoder.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablation_judge import Judge, Maps
from data_sets import NAMES, STUDIED, lay_out
from numpy.typing import NDArray
from provenance import RESULTS, write_result
from torch import Tensor

from agp_edge.dataset import Dataset, Sample, open_dataset, split_by_part
from agp_edge.files import write_aside
from agp_edge.trainer.checkpoint import load_model
from agp_edge.trainer.config import ModelConfig, TrainConfig, config_to_dict
from agp_edge.trainer.data import ImageReader
from agp_edge.trainer.features import FeatureExtractor
from agp_edge.trainer.model import AgpNet
from agp_edge.trainer.perturbation import minmax
from agp_edge.trainer.train import train

WEIGHTS = (0.0, 0.5, 1.0)  # of the fine map; the default's has a row of its own
PATCH_WEIGHTS = (0.0, 1.4)
REGION_IMAGES = (12.0, 50.0, 200.0, 800.0)  # the default's, read from good images, is the first row
BORDER_WEIGHTS = (0.0, 0.5, 1.0)  # of what is beyond the limit; 1: there is no border
SHARES = (0.005, 0.02, 0.05)  # of the map, for the mean of the largest
POWERS = (16, 24)  # beside the default


def sides(name: str, root: Path, seed: int) -> tuple[Dataset, list[Sample], list[Sample]]:
    """The data set to train on, good images to judge, real defects (none for tiles)."""
    dataset = open_dataset(root)
    if name != "tiles":
        good = [sample for sample in dataset.test if not sample.is_defective]
        return dataset, good, [sample for sample in dataset.test if sample.is_defective]
    fit, held = split_by_part(dataset.train, 1 / 3, seed)
    return replace(dataset, train=tuple(fit), test=()), list(held), []


class Study:
    """The default network on one set with one seed, and others of which one thing differs."""

    def __init__(self, name: str, seed: int, scratch: Path, config: ModelConfig) -> None:
        self.name, self.seed, self.scratch = name, seed, scratch
        root = lay_out(name, scratch / "data", seed)
        self.dataset, self.good, self.bad = sides(name, root, seed)
        self.training = TrainConfig(seed=seed)
        self.config = config
        self.model = self.trained("default", self.config)
        self.reader, self.judge = self._judge(self.model, "default", self.config)

    def trained(
        self, label: str, config: ModelConfig, training: TrainConfig | None = None
    ) -> AgpNet:
        """A network of other settings, on the same images."""
        folder = self.scratch / label.replace(" ", "_")
        train(
            self.dataset,
            folder,
            config,
            training or self.training,
            weights="wheel",
            device="cpu",
            cache_dir=self.scratch / "features",
            progress=False,
        )
        return load_model(folder)[0]

    def row(
        self, part: str, label: str, maps: Maps, config: ModelConfig | None = None
    ) -> dict[str, Any]:
        """What the judge says of a way from the frozen layers to maps."""
        return self._row(part, label, self.judge, maps, config or self.config)

    def other_backbone(self, backbone: str) -> dict[str, Any]:
        """The row of another backbone, whose layers the judge has to see for itself."""
        config = replace(self.config, backbone=backbone)
        model = self.trained(backbone, config)
        _, judge = self._judge(model, backbone, config)
        return self._row("backbone", backbone, judge, model.distance_map, config)

    def _judge(self, model: AgpNet, label: str, config: ModelConfig) -> tuple[ImageReader, Judge]:
        _, info = load_model(self.scratch / label)
        reader = ImageReader(config.height, config.width, info.mean, info.std)
        return reader, Judge(model, reader, self.good, self.bad, seed=self.seed)

    def _row(
        self, part: str, label: str, judge: Judge, maps: Maps, config: ModelConfig
    ) -> dict[str, Any]:
        figures = judge.figures(config, {label: maps})
        return {
            "set": self.name,
            "seed": self.seed,
            "part": part,
            "variant": label,
            "figures": figures,
        }


Rows = Iterator[dict[str, Any]]


def score(study: Study) -> Rows:
    maps = study.model.distance_map
    yield study.row("score", "largest value", maps, replace(study.config, score="max"))
    for power in POWERS:
        config = replace(study.config, power=power)
        yield study.row("score", f"mean of the power {power}", maps, config)
    for share in SHARES:
        config = replace(study.config, score="top_mean", top_share=share)
        yield study.row("score", f"mean of the largest {share:.1%}", maps, config)


def fine(study: Study) -> Rows:
    """Other weights of the fine map, and by a memory; other memories of patches."""
    model, fine = study.model, study.model.fine
    assert fine is not None
    gain = float(fine.gain)
    for weight in WEIGHTS:
        fine.gain.fill_(gain * weight / study.config.fine_weight)
        yield study.row("fine map", f"weight {weight:g}", model.distance_map)
    fine.gain.fill_(gain)
    fine.centred = False
    yield study.row("fine map", "not centred", model.distance_map)
    fine.centred = True
    for regions in (4, 8):
        other = study.trained(f"f{regions}", replace(study.config, fine_regions=regions))
        yield study.row("fine map", f"{regions} regions along a side", other.distance_map)
    memory = study.trained("fine memory", replace(study.config, fine_regions=0, fine_memory=512))
    yield study.row("fine map", "by a memory of 512", memory.distance_map)
    patches = model.patches
    assert patches is not None
    gain = float(patches.gain)
    for weight in PATCH_WEIGHTS:
        patches.gain.fill_(gain * weight / study.config.patch_weight)
        yield study.row("patches", f"weight {weight:g}", model.distance_map)
    patches.gain.fill_(gain)
    for count in (64, 1024):
        other = study.trained(f"p{count}", replace(study.config, patch_memory=count))
        yield study.row("patches", f"{count} prototypes", other.distance_map)


def border(study: Study) -> Rows:
    """What the outermost tokens count."""
    border = study.model.border
    assert border is not None
    own = float(border.weight)
    yield study.row("border", f"as read from good images: {own:.2f}", study.model.distance_map)
    for weight in BORDER_WEIGHTS:
        border.weight.fill_(weight)
        yield study.row("border", f"weight {weight:g}", study.model.distance_map)
    border.weight.fill_(own)
    for deviations in (2.0, 4.0):
        config = replace(study.config, border_deviations=deviations)
        other = study.trained(f"beyond {deviations:g}", config)
        label = f"beyond {deviations:g} standard deviations"
        yield study.row("border", label, other.distance_map)


def decoder(study: Study) -> Rows:
    """What rebuilds a token, beside the same fine map."""
    for regions in (1, 2, 8):
        other = study.trained(f"r{regions}", replace(study.config, regions=regions))
        yield study.row("decoder", f"{regions} regions along a side", other.distance_map)
    for images in REGION_IMAGES:
        other = study.trained(f"i{images:g}", replace(study.config, region_images=images))
        yield study.row("decoder", f"whole image weighs {images:g} images", other.distance_map)
    memory = study.trained("memory", replace(study.config, decoder="memory"))
    yield study.row("decoder", "memory of 1024", memory.distance_map)


def target(study: Study) -> Rows:
    """What the distance is taken of."""
    for label, config in {
        "not whitened": replace(study.config, whiten=False),
        "pooled 3 x 3": replace(study.config, pool=3),
        "normalised by l2": replace(study.config, normalise="l2"),
        "positions not scaled": replace(study.config, position_scale=False),
    }.items():
        yield study.row("target", label, study.trained(label, config).distance_map)


def backbone(study: Study) -> Rows:
    for name in ("lite1", "lite2"):
        yield study.other_backbone(f"tf_efficientnet_{name}")


def discriminators(study: Study) -> Rows:
    config = replace(study.config, discriminators=6)
    for noise in ("both", "guided", "alike"):
        other = study.trained(f"noise {noise}", config, replace(study.training, noise=noise))
        yield study.row("discriminators", f"noise {noise}", other.distance_map)


def noise(study: Study) -> Rows:
    """The paper's decoder under each kind of disturbance, and with each of its switches."""
    base = study.training
    paper = replace(study.config, decoder="transformer", fine_regions=0, patch_memory=0)
    energy = mask_energy(study.model, study.reader, base, study.dataset.train)
    for label, config, training in (
        ("attention-guided noise", paper, base),
        ("no noise", paper, replace(base, perturbation="none")),
        (
            "uniform noise of equal energy",
            paper,
            equal_energy(replace(base, perturbation="uniform"), energy),
        ),
        (
            "token dropout of equal energy",
            paper,
            equal_energy(replace(base, perturbation="dropout", beta=0.0), energy),
        ),
        ("noisy bottleneck", replace(paper, bottleneck=32, dropout=0.3), base),
        ("loss of the worst 30 % of tokens", paper, replace(base, hard_share=0.3)),
        ("mlp", replace(paper, decoder="mlp", decoder_width=256, bottleneck=64), base),
    ):
        other = study.trained(label, config, training)
        yield study.row("paper's decoder", label, other.distance_map)


PARTS: dict[str, Callable[[Study], Rows]] = {
    part.__name__: part
    for part in (score, fine, border, decoder, target, backbone, discriminators, noise)
}


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


def _key(entry: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(entry[name] for name in ("set", "seed", "part", "variant"))


def _spread(values: Sequence[float]) -> str:
    spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{spread}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sets", nargs="+", choices=list(NAMES), default=list(STUDIED))
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: 3)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--backbone", default=ModelConfig.backbone)
    parser.add_argument("--size", type=int, default=ModelConfig.height, help="pixels a side")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--add", action="store_true", help="keep the other rows of the result file")
    parser.add_argument("--output", default="ablation", help="name of the result files")
    arguments = parser.parse_args()
    config = ModelConfig(backbone=arguments.backbone, height=arguments.size, width=arguments.size)
    results: list[dict[str, Any]] = []
    if arguments.add:
        known = json.loads((RESULTS / f"{arguments.output}.json").read_text(encoding="utf-8"))
        results = known["results"]
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        for name in arguments.sets:
            with tempfile.TemporaryDirectory() as scratch:
                study = Study(name, seed, Path(scratch), config)
                shipped = study.row("default", "as shipped", study.model.distance_map)
                asked = (row for part in arguments.parts for row in PARTS[part](study))
                for entry in itertools.chain([shipped], asked):
                    results = [r for r in results if _key(r) != _key(entry)] + [entry]
                    write_result(
                        arguments.output, {"network": config_to_dict(config), "results": results}
                    )
                    lines = [f"# {arguments.output}", ""]
                    lines += [f"{config.backbone}, {config.height} px.", "", *table(results)]
                    with write_aside(RESULTS / f"{arguments.output}.md") as aside:
                        aside.write_text("\n".join(lines) + "\n", encoding="utf-8")
                    print("\n".join(table([entry])[2:]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
