"""`agp-edge compare`: whether two models say the same."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agp_edge.comparing.comparison import Comparison

__all__ = ["HELP", "add_arguments", "comparison_lines", "run"]

HELP = "measure how far two models lie apart, from frame to verdict"

EPILOG = """\
A and B: a run's folder (torch), an ONNX file or a plan; A is the reference. Shares are of A's
score, and of the range of A's maps over all images. Default tolerances, by the coarser precision
of the two: fp32 1e-3 (scores) and 1e-3 (maps), fp16 1e-2 and 2e-2, int8 5e-2 and 1e-1; no verdict
may differ, unless A's score is as near its threshold as that (borderline). Thresholds: the site
file's, else the model's own, else the other model's.
Exit code: 0 within the tolerances, 4 outside."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument("first", metavar="A", help="the reference")
    parser.add_argument("second", metavar="B", help="the model compared with it")
    parser.add_argument(
        "data", metavar="DATA", help="data set (its test images) or folder of images"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="at most N images, spread evenly")
    parser.add_argument("--score-tolerance", type=float, metavar="SHARE")
    parser.add_argument("--map-tolerance", type=float, metavar="SHARE")
    parser.add_argument("--flips", type=int, metavar="N", help="verdicts that may differ")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures to FILE")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write a page with the worst")


def run(args: argparse.Namespace) -> int:
    """Compare, print, write the files asked for."""
    from agp_edge.comparing.compare import compare  # noqa: PLC0415  (scikit-learn takes a second to load)
    from agp_edge.errors import Error  # noqa: PLC0415
    from agp_edge.files import write_aside  # noqa: PLC0415

    if args.limit is not None and args.limit < 1:
        raise Error(f"--limit is {args.limit}: expected 1 or more images")
    comparison = compare(args.first, args.second, args.data, limit=args.limit, progress=True)
    given = {"score": args.score_tolerance, "map": args.map_tolerance, "flips": args.flips}
    changes = {key: value for key, value in given.items() if value is not None}
    tolerances = replace(comparison.tolerances, **changes)
    comparison = replace(comparison, tolerances=tolerances)
    for line in comparison_lines(comparison):
        print(line)
    if args.json is not None:
        with write_aside(args.json) as aside:
            text = json.dumps(comparison.to_dict(), indent=2, ensure_ascii=False)
            aside.write_text(text + "\n", encoding="utf-8")
        print(f"figures: {args.json}")
    if args.html is not None:
        from agp_edge.report.comparison import write_comparison  # noqa: PLC0415

        write_comparison(args.html, comparison)
        print(f"page:    {args.html}")
    return 4 if comparison.failures else 0


def comparison_lines(comparison: Comparison) -> list[str]:
    """What the command prints, line by line."""
    lines = [
        f"{mark}: {model} ({precision}, {engine})"
        for mark, model, precision, engine in zip(
            "AB", comparison.models, comparison.precisions, comparison.engines, strict=True
        )
    ]
    lines.append(
        f"{len(comparison.frames)} images: scores differ by at most "
        f"{comparison.score_share_maximum:.2e} of A's (mean {comparison.score_share_mean:.2e}), "
        f"maps by {comparison.map_share_maximum:.2e} of their range "
        f"(mean {comparison.map_share_mean:.2e})"
    )
    if comparison.rank_correlation is not None:
        lines.append(f"rank correlation of the scores: {comparison.rank_correlation:.6f}")
    if comparison.image_auroc is not None:
        first, second = comparison.image_auroc
        lines.append(f"image AUROC: {first:.4f} and {second:.4f} ({second - first:+.4f})")
    if comparison.thresholds is None or comparison.threshold_sources is None:
        lines.append("neither model nor a site file has a threshold: no verdicts")
    else:
        flips = comparison.flips
        stated = [
            f"{mark} takes that of the other model, {value:.6g}"
            if source == "other model"
            else f"{mark}'s {source} says {value:.6g}"
            for mark, value, source in zip(
                "AB", comparison.thresholds, comparison.threshold_sources, strict=True
            )
        ]
        lines.append(
            f"verdicts that differ: {len(flips)} of {len(comparison.frames)} "
            f"(thresholds: {stated[0]}, {stated[1]})"
        )
        words = ("good", "anomalous")
        for frame in flips:
            assert frame.verdicts is not None
            lines.append(
                f"  {comparison.name_of(frame)} ({frame.sample.label}): "
                f"{frame.scores[0]:.6g} {words[frame.verdicts[0]]} -> "
                f"{frame.scores[1]:.6g} {words[frame.verdicts[1]]}"
                f"{' (borderline)' if comparison.is_borderline(frame) else ''}"
            )
    limits = comparison.tolerances
    allowed = f"scores {limits.score:g}, maps {limits.map:g}, verdicts {limits.flips}"
    if comparison.failures:
        lines.append(f"outside the tolerances ({allowed}): {'; '.join(comparison.failures)}")
    else:
        lines.append(f"within the tolerances ({allowed})")
    return lines
