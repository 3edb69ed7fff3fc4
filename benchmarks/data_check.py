"""How well photos of the same part are found: pairs against a parts.csv made by people, and time.

    AGP_EDGE_DATA=FOLDER python benchmarks/data_check.py

Magnetic tiles: precision and recall of the pairs, and of all pairs within the groups. A random
split of them: what is warned of. Solar cells, each fifth photographed again (another exposure, up
to 1, 2 or 4 % aside, noise): how many are found, and how far apart in the numbering the other pairs
lie by their correlation, from which the least limit was chosen. Unrelated generated surfaces: false
pairs, and time and memory for up to 10,000 photos.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from provenance import RESULTS, write_result

from agp_edge.data_check import check_data
from agp_edge.data_check.pattern import pattern_of
from agp_edge.data_check.same_part import SameParts, find_same_parts
from agp_edge.demo_data import read_cells
from agp_edge.images import read_image

TILES = Path(os.environ.get("AGP_EDGE_DATA", "../shared/data")) / "magnetic_tile"


def again(image: NDArray[np.uint8], random: np.random.Generator, aside: float) -> NDArray[np.uint8]:
    """The photo under another exposure, moved by up to `aside` of its sides, with noise."""
    height, width = image.shape
    lit = 255 * np.clip(random.uniform(0.6, 1.4) * (image / 255) ** random.uniform(0.7, 1.4), 0, 1)
    x, y = random.uniform(-aside, aside, 2) * (width, height)
    scale = random.uniform(1 - aside / 2, 1 + aside / 2)
    move = np.array([[scale, 0, x], [0, scale, y]], np.float32)
    moved = cv2.warpAffine(lit, move, (width, height), borderMode=cv2.BORDER_REFLECT)
    return np.clip(moved + random.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


def tiles() -> dict[str, Any]:
    start = time.perf_counter()
    check = check_data(TILES)
    seconds = time.perf_counter() - start
    with (TILES / "parts.csv").open() as file:
        truth = {row["file"]: row["part"] for row in csv.DictReader(file)}
    names = [check.name_of(index) for index in range(len(check.facts))]
    # without their parts.csv: by correlation alone
    patterns = np.array([pattern_of(read_image(TILES / name)) for name in names])
    same = find_same_parts(patterns)
    part = np.array([truth[name] for name in names])
    upper = np.triu(np.ones((len(names), len(names)), np.bool_), 1)
    true = (part[:, None] == part[None]) & upper
    grouped = (same.groups[:, None] == same.groups[None]) & upper
    paired = np.zeros_like(true)
    for pair in same.pairs:
        paired[pair.first, pair.second] = True
    shares = {}
    for name, found in (("pairs", paired), ("groups", grouped)):
        shares[name] = {
            "found": int(found.sum()),
            "precision": float((found & true).sum() / found.sum()),
            "recall": float((found & true).sum() / true.sum()),
        }
    paired, true = paired | paired.T, true | true.T
    has_twin = true.any(1)
    random = np.random.default_rng(0)
    in_test = random.random(len(names)) < 0.3
    twins = (paired & true)[in_test][:, ~in_test].any(1).tolist()
    known = [bool((part[~in_test] == name).any()) for name in part[in_test]]
    return {
        "photos": len(names),
        "parts": len(set(part)),
        "groups_found": len(set(same.groups.tolist())),
        "true_pairs": int(true.sum()) // 2,
        **shares,
        "photos_with_a_twin_found": float((paired & true)[has_twin].any(1).mean()),
        "random_split": {
            "test_photos": int(in_test.sum()),
            "with_a_twin_by_parts_csv": sum(known),
            "with_a_twin_found": sum(twins),
        },
        "seconds_whole_check": seconds,
    }


def cells(kind: str) -> dict[str, Any]:
    chosen, _ = read_cells(kind)
    images = [read_image(cell.path) for cell in chosen]
    numbers = np.array([cell.number for cell in chosen])
    same = find_same_parts(np.array([pattern_of(image) for image in images]))
    apart = np.array([abs(int(numbers[p.first] - numbers[p.second])) for p in same.pairs])
    values = np.array([pair.correlation for pair in same.pairs])
    entry: dict[str, Any] = {
        "cells": len(chosen),
        "pairs_by_limit": {
            str(limit): {
                "pairs": int((values >= limit).sum()),
                "more_than_100_apart": int((apart[values >= limit] > 100).sum()),
            }
            for limit in (0.35, 0.4, 0.45, 0.5, 0.6)
        },
        "found_again": {},
    }
    for aside in (0.01, 0.02, 0.04):
        random = np.random.default_rng(0)
        copies = [again(image, random, aside) for image in images[::5]]
        both = find_same_parts(np.array([pattern_of(image) for image in [*images, *copies]]))
        hits = _found(both, [(5 * i, len(images) + i) for i in range(len(copies))])
        entry["found_again"][str(aside)] = {"of": len(copies), "found": hits}
    return entry


def surfaces(count: int) -> dict[str, Any]:
    random = np.random.default_rng(count)
    patterns = np.empty((count, 64, 64), np.int8)
    for index in range(count):
        grain = cv2.GaussianBlur(random.normal(0, 60, (128, 128)), (0, 0), 2.0)
        patterns[index] = pattern_of(np.clip(128 + 4 * grain, 0, 255).astype(np.uint8))
    start = time.perf_counter()
    same = find_same_parts(patterns)
    return {
        "photos": count,
        "false_pairs": len(same.pairs),
        "seconds_comparison": round(time.perf_counter() - start, 1),
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def _found(same: SameParts, wanted: list[tuple[int, int]]) -> int:
    pairs = {(pair.first, pair.second) for pair in same.pairs}
    return sum(pair in pairs for pair in wanted)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    cv2.setNumThreads(1)
    result = {
        "magnetic_tile": tiles(),
        "solar_cells": {kind: cells(kind) for kind in ("mono", "poly")},
        "generated": [surfaces(count) for count in (1000, 10000)],
    }
    write_result("data_check", result)
    tile, pairs, groups = (
        result["magnetic_tile"],
        *(result["magnetic_tile"][name] for name in ("pairs", "groups")),
    )
    split = tile["random_split"]
    lines = [
        "# Photos of the same part, found by correlation",
        "",
        "Written by benchmarks/data_check.py.",
        "",
        f"Magnetic tiles, {tile['photos']} photos of {tile['parts']} parts by their parts.csv: "
        f"precision {pairs['precision']:.3f} and recall {pairs['recall']:.3f} of pairs, "
        f"{groups['precision']:.3f} and {groups['recall']:.3f} of pairs within groups "
        f"({tile['groups_found']} groups); {tile['photos_with_a_twin_found']:.3f} of the photos "
        "that have a twin are paired with a true one; "
        f"the whole check takes {tile['seconds_whole_check']:.1f} s.",
        f"Random split: of {split['test_photos']} test photos {split['with_a_twin_by_parts_csv']} "
        f"have a twin in training, for {split['with_a_twin_found']} one is found.",
        "",
        "| solar cells | photographed again | 1 % aside | 2 % | 4 % |",
        "| --- | --- | --- | --- | --- |",
    ]
    for kind, entry in result["solar_cells"].items():
        row = entry["found_again"].values()
        lines.append(
            f"| {kind}, {entry['cells']} | {next(iter(row))['of']} | "
            + " | ".join(str(cell["found"]) for cell in row)
            + " |"
        )
    lines += ["", "| unrelated surfaces | false pairs | seconds | MiB at most |"]
    lines.append("| --- | --- | --- | --- |")
    for entry in result["generated"]:
        lines.append("| " + " | ".join(str(value) for value in entry.values()) + " |")
    (RESULTS / "data_check.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
