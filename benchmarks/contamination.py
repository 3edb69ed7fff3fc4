"""What 5 % defects among the good images cost, and whether they are found.

    python benchmarks/contamination.py [--sets mono poly generated] [--seeds 3]

Known defective solar cells (mono, poly; the split of data_sets.py) and generated textures with
synthetic defects are planted among the training images, as 5 % of them. Found are suspects by
`agp_edge.trainer.suspects`. Image AUROC over the test images that were not planted: of the default
network without its fine maps, which is what four arms and three seeds can afford, taught by clean,
contaminated, cleaned (exclude) and weighted (weight) images; what "report" trains is the
contaminated one. Seeds change what is planted and the folds. The results of sets
that are not asked for stay.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from data_sets import lay_out
from numpy.typing import NDArray
from provenance import RESULTS, write_result
from torch import Tensor

from agp_edge.dataset import GOOD, Sample, open_dataset, part_of
from agp_edge.metrics import image_auroc
from agp_edge.trainer.config import ModelConfig, postprocess_spec
from agp_edge.trainer.data import ImageReader
from agp_edge.trainer.decoder_fitting import fit_decoder
from agp_edge.trainer.features import FeaturesInMemory
from agp_edge.trainer.network import new_model
from agp_edge.trainer.suspects import LIMIT, drawn, find_suspects, shares_of
from agp_edge.trainer.synthetic import FAMILIES, with_defect

SHARE = 0.05
SETS = ("mono", "poly", "generated")
ARMS = ("clean", "contaminated", "exclude", "weight")


def generated(folder: Path) -> None:
    """Brushed surfaces: 200 good to train on, 60 good and 80 with a synthetic defect to test."""
    random = np.random.default_rng(7)
    families = list(FAMILIES)

    def surface() -> NDArray[np.float32]:
        fine = random.normal(0, 30, (256, 256)).astype(np.float32)
        brushed = cv2.GaussianBlur(fine, (0, 0), sigmaX=0.8, sigmaY=9)
        light = random.uniform(-15, 15) + random.uniform(-20, 20) * np.linspace(-1, 1, 256)
        grey = np.clip(128 + 3 * brushed + light[None, :], 0, 255)
        return np.repeat(grey[:, :, None], 3, axis=2).astype(np.float32)

    for name, count, defective in (
        ("train/good", 200, False),
        ("test/good", 60, False),
        ("test/defect", 80, True),
    ):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            image = surface()
            if defective:
                family = families[index % len(families)]
                ones = np.ones((256, 256), np.float32)
                image, _ = with_defect(image, surface(), ones, family, random)
            pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / name / f"{index:03}.png"), pixels)


def measured(folder: Path, seeds: int) -> list[dict[str, Any]]:
    """Each seed's figures on one data set."""
    config = ModelConfig(fine_regions=0, patch_memory=0)
    model, pretrained = new_model(config, "auto", 0)
    dataset = open_dataset(folder)
    samples = [*dataset.train, *dataset.test]
    reader = ImageReader(config.height, config.width, pretrained.mean, pretrained.std)
    # one image at a time in this layout is the fastest way on a CPU
    model = model.eval().to(memory_format=torch.channels_last)
    tokens = []
    with torch.no_grad():
        for _, images in reader.batches(samples, 1, desc=folder.name, progress=False):
            layers = model.backbone(images.contiguous(memory_format=torch.channels_last))
            tokens.append(model.fusion(layers).half())
    features = torch.cat(tokens)
    good = np.arange(len(dataset.train))
    defects = np.array([i for i, s in enumerate(samples) if s.is_defective])
    results = []
    for seed in range(seeds):
        random = np.random.default_rng(seed)
        planted = random.choice(defects, round(SHARE / (1 - SHARE) * len(good)), replace=False)
        test = np.array([i for i in range(len(good), len(samples)) if i not in set(planted)])
        labels = np.array([samples[i].is_defective for i in test])
        mixed = np.concatenate([good, planted])
        called_good = [Sample(samples[i].path, GOOD, part=samples[i].part) for i in mixed]
        suspects = find_suspects(
            model, config, FeaturesInMemory(features[mixed]), called_good, seed=seed
        )
        found = set(mixed[suspects.found].tolist())
        hits = len(found & set(planted.tolist()))
        entry: dict[str, Any] = {
            "seed": seed,
            "good": len(good),
            "planted": len(planted),
            "suspects": len(found),
            "precision": hits / max(len(found), 1),
            "recall": hits / len(planted),
            "ranking_auroc": image_auroc(np.isin(mixed, planted), suspects.scores),
            "auroc": {},
        }
        for arm in ARMS:
            order = good if arm == "clean" else mixed
            if arm in ("exclude", "weight"):
                shares = shares_of(suspects, arm)
                share = np.array([shares.get(s.path, 1.0) for s in called_good])
                order = mixed[drawn(np.arange(len(mixed)), share, [seed, 0])]
            entry["auroc"][arm] = image_auroc(
                labels,
                scored(
                    model,
                    config,
                    features,
                    order,
                    test,
                    seed=seed,
                    parts=[part_of(sample) for sample in samples],
                ),
            )
        results.append(entry)
        print(folder.name, entry, flush=True)
    return results


@torch.no_grad()
def scored(
    model: Any,
    config: ModelConfig,
    features: Tensor,
    order: Any,
    test: Any,
    *,
    seed: int,
    parts: list[str],
) -> list[float]:
    """Scores of the test images by what is known of the images of `order`."""

    def batches(indices: Any) -> Iterator[Tensor]:
        return (features[indices[i : i + 16]].float() for i in range(0, len(indices), 16))

    model.whitening.fit(batches(order), config.shrinkage)
    fit_decoder(model, FeaturesInMemory(features), order, seed, parts=parts)
    model.position.fit(model.raw_distance(model.whitened(tokens)) for tokens in batches(order))
    postprocessor = postprocess_spec(config).native(model.grid, (config.height, config.width))
    scores: list[float] = []
    for tokens in batches(test):
        for grid in model.position(model.raw_distance(model.whitened(tokens))).numpy():
            scores.append(postprocessor.run(np.ascontiguousarray(grid[0]), outputs=1).score)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / "contamination.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    sets: dict[str, list[dict[str, Any]]] = before.get("sets", {})
    with tempfile.TemporaryDirectory() as name:
        for kind in arguments.sets:
            folder = Path(name) / kind
            if kind == "generated":
                generated(folder)
            else:
                lay_out(kind, folder, 0)
            sets[kind] = measured(folder, arguments.seeds)
            write_result("contamination", {"share": SHARE, "limit": LIMIT, "sets": sets})
    lines = [
        "# 5 % defects among the good images",
        "",
        "Written by benchmarks/contamination.py; mean and smallest to largest over the seeds. "
        f"AUROC without the fine maps; suspects lie above {LIMIT:g} "
        "deviations.",
        "",
        "| set | seeds | good + planted | precision | recall | " + " | ".join(ARMS) + " |",
        "| --- |" + " --- |" * 8,
    ]
    for kind, entries in sets.items():
        columns = [[e["precision"] for e in entries], [e["recall"] for e in entries]]
        columns += [[e["auroc"][arm] for e in entries] for arm in ARMS]
        cells = [f"{np.mean(c):.3f} ({min(c):.3f} to {max(c):.3f})" for c in columns]
        counts = f"{entries[0]['good']} + {entries[0]['planted']}"
        lines.append(f"| {kind} | {len(entries)} | {counts} | " + " | ".join(cells) + " |")
    (RESULTS / "contamination.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
