"""What do one network for several products, and training on 1, 2 or 4 good images, cost?

--setup multi-class: magnetic tiles and solar cells (mono, poly) in one network that is told no
product at inference, beside a network for each, on the same split. The branches of the joined
network are those networks, so that what differs is who answers.

--setup few-shot: tiles, mean of five draws of 1, 2 and 4 training images of different parts, beside
anomalib's PaDiM and PatchCore on the same draws and backbone weights (pip install anomalib). Every
third image of the test folder is judged.

    python benchmarks/setups.py --setup multi-class|few-shot      # writes results/setups_<setup>.*
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from baselines import Scores
from data_sets import NAMES, STUDIED, lay_out
from magnetic_tile import figures, paired_difference
from provenance import RESULTS, write_result

import agp_edge
from agp_edge.dataset import Dataset, Sample, open_dataset, open_products, part_of
from agp_edge.demo_data import DATA_NOTE
from agp_edge.files import write_aside
from agp_edge.images import read_image
from agp_edge.metrics import image_auroc
from agp_edge.trainer.export import onnx_from_checkpoint
from agp_edge.trainer.setups import setup_defaults
from agp_edge.trainer.train import train

SHOTS = (1, 2, 4)
DRAWS = 5
EVERY = 3  # image of the test folder that few-shot models are judged on


def scored(model: Path, samples: Sequence[Sample]) -> Scores:
    """Scores and maps as users of this package get them."""
    detector = agp_edge.Detector(model, threshold=0.0, threads=1)
    values, maps = [], []
    for sample in samples:
        result = detector.score(read_image(sample.path))
        assert result.anomaly_map is not None
        values.append(result.score)
        maps.append(np.array(result.anomaly_map, np.float32))
    return Scores(np.array(values), maps)


def multi_class(scratch: Path) -> dict[str, Any]:
    """Figures of the joined network and of each alone, by product."""
    roots = {name: lay_out(name, scratch / name, 0) for name in STUDIED}
    model_config, config = setup_defaults("multi-class")
    run = train(
        open_products(list(roots.values())),
        scratch / "run",
        model_config,
        config,
        weights="wheel",
        device="cpu",
        cache_dir=scratch / "features",
        progress=False,
        say=lambda line: print(line, flush=True),
    )
    onnx_from_checkpoint(run.folder, scratch / "all.onnx", progress=False)
    results: dict[str, Any] = {"seconds": run.seconds}
    for name, root in roots.items():
        samples = open_dataset(root).test
        alone = scratch / f"{name}.onnx"
        onnx_from_checkpoint(run.folder / "products" / root.name, alone, progress=False)
        together, own = scored(scratch / "all.onnx", samples), scored(alone, samples)
        results[name] = {
            "multi-class": figures(samples, together),
            "one-class": figures(samples, own),
            "difference": paired_difference(samples, together.values, own.values),
            "answered_by_another": strangers(together, own),
        }
        print(name, results[name], flush=True)
    return results


def strangers(together: Scores, own: Scores) -> float:
    """Share of images that another product's branch answers for.

    The own branch's map is the single network's, brought to another scale.
    """
    likeness = [
        np.corrcoef(one.ravel(), other.ravel())[0, 1]
        for one, other in zip(together.maps, own.maps, strict=True)
    ]
    return float(np.mean(np.array(likeness) < 0.9999))


def drawn(dataset: Dataset, shots: int, draw: int) -> Dataset:
    """So many good images, of different parts."""
    random = np.random.default_rng([draw, shots])
    chosen: dict[str, Sample] = {}
    for index in random.permutation(len(dataset.train)):
        chosen.setdefault(part_of(dataset.train[index]), dataset.train[index])
    return replace(dataset, train=tuple(chosen.values())[:shots], test=dataset.test[::EVERY])


def few_shot(scratch: Path) -> dict[str, Any]:
    """Image AUROC of each detector, by number of images, one per draw."""
    from peers import all_scores, fitted, through_torch  # noqa: PLC0415  (needs anomalib)

    dataset = open_dataset(lay_out("tiles", scratch, 0))
    model_config, config = setup_defaults("few-shot")
    results: dict[str, Any] = {}
    for shots in SHOTS:
        found: dict[str, list[float | None]] = {"AGPNet": [], "PatchCore": [], "PaDiM": []}
        for draw in range(DRAWS):
            few = drawn(dataset, shots, draw)
            folder = scratch / f"{shots}_{draw}"
            run = train(
                few,
                folder / "run",
                model_config,
                config,
                weights="wheel",
                device="cpu",
                cache_dir=folder / "features",
                progress=False,
            )
            onnx_from_checkpoint(run.folder, folder / "model.onnx", progress=False)
            scores = {"AGPNet": scored(folder / "model.onnx", few.test)}
            good = folder / "data" / "train" / "good"
            good.mkdir(parents=True)
            for sample in few.train:
                shutil.copyfile(sample.path, good / sample.path.name)
            for name in ("PatchCore", "PaDiM"):
                peer, _ = fitted(name, folder / "data", 10.0, folder)
                scores[name] = all_scores(through_torch(peer), few.test)
            labels = [sample.is_defective for sample in few.test]
            for name, values in scores.items():
                # PaDiM divides by the number of images less one: of a single one it knows nothing
                known = bool(np.isfinite(values.values).all())
                found[name].append(image_auroc(labels, values.values) if known else None)
            print(shots, draw, {name: values[-1] for name, values in found.items()}, flush=True)
            shutil.rmtree(folder)
        results[str(shots)] = found
    return results


def multi_class_lines(results: dict[str, Any]) -> list[str]:
    """The Markdown table."""
    lines = [
        "| product | one-class: image AUROC, AUPRO | multi-class | better by (paired) "
        "| answered by another branch |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in STUDIED:
        row = results[name]
        cells = [
            f"{way['image_auroc']:.4f}, " + ("-" if way["aupro"] is None else f"{way['aupro']:.3f}")
            for way in (row["one-class"], row["multi-class"])
        ]
        low, high = row["difference"]["interval"]
        lines.append(
            f"| {NAMES[name]} | {cells[0]} | {cells[1]} | {row['difference']['difference']:+.4f} "
            f"({low:+.4f} to {high:+.4f}) | {100 * row['answered_by_another']:.1f} % |"
        )
    return lines


def few_shot_lines(results: dict[str, Any]) -> list[str]:
    """The Markdown table."""
    names = list(next(iter(results.values())))
    lines = [
        f"Image AUROC, mean of {DRAWS} draws (smallest to largest).",
        "",
        "| good tiles | " + " | ".join(names) + " |",
        "| --- |" + " --- |" * len(names),
    ]
    for shots, found in results.items():
        cells = [
            "scores are not finite"
            if None in v
            else f"{np.mean(v):.3f} ({min(v):.3f} to {max(v):.3f})"
            for v in found.values()
        ]
        lines.append(f"| {shots} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--setup", choices=("multi-class", "few-shot"), required=True)
    setup = parser.parse_args().setup
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        results = (multi_class if setup == "multi-class" else few_shot)(Path(scratch))
    name = f"setups_{setup.replace('-', '_')}"
    write_result(name, {"note": DATA_NOTE, "results": results})
    lines = (multi_class_lines if setup == "multi-class" else few_shot_lines)(results)
    with write_aside(RESULTS / f"{name}.md") as aside:
        text = [f"# {name}", "", "Written by benchmarks/setups.py.", "", *lines, ""]
        aside.write_text("\n".join(text), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
