"""`agp-edge validate`: escapes and false rejects on known parts, and a report to sign."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from agp_edge.cli.scoring import add_scoring_arguments, share

if TYPE_CHECKING:
    from agp_edge.calibration.decision.validate import Rate, Validation

__all__ = ["HELP", "add_arguments", "run"]

HELP = "check a model and its threshold on known good and defective parts"

EPILOG = """\
KNOWN_PARTS holds good/ and a folder per defect type (or test/ of a data set does). Several photos
of a part lie in a folder per part, or are named in parts.csv (file,part); a part is rejected when
any of its photos is. Limits are exact binomial ones (Clopper-Pearson) over parts.

Exit code 4: the upper limit of a rate is above --max-false-reject or --max-escape."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument("model", metavar="MODEL", help=".onnx file or TensorRT plan")
    parser.add_argument("known", metavar="KNOWN_PARTS", help="folder with good/ and defect types")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write a report to sign")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures")
    parser.add_argument(
        "--at", metavar="T", type=float, nargs="+", default=[],
        help="further thresholds to say what they would have done",
    )  # fmt: skip
    parser.add_argument(
        "--level", type=share, default=0.95, metavar="P", help="of the limits (default: 0.95)"
    )
    parser.add_argument("--max-false-reject", type=share, metavar="SHARE")
    parser.add_argument("--max-escape", type=share, metavar="SHARE")
    add_scoring_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Score, print the table, write the files asked for."""
    from agp_edge.calibration.decision.validate import validate  # noqa: PLC0415  (heavy)

    found = validate(
        args.model,
        args.known,
        level=args.level,
        parts_file=args.parts,
        skip_unreadable=args.skip_unreadable,
        journal=args.scores,
        device=args.device,
        engine=args.engine,
        threads=args.threads,
        progress=sys.stderr.isatty(),
    )
    for warning in found.warnings:
        print(f"agp-edge: warning: {warning}", file=sys.stderr)
    for line in _lines(found, args.at):
        print(line)
    failures = _failures(found, args.max_false_reject, args.max_escape)
    if args.json is not None or args.html is not None:
        from agp_edge.report.validation import write_validation  # noqa: PLC0415

        write_validation(
            found, html=args.html, json_file=args.json, thresholds=args.at, failures=failures
        )
    for name, path in (("figures", args.json), ("report", args.html)):
        if path is not None:
            print(f"{name}: {path}")
    for failure in failures:
        print(f"agp-edge: outside: {failure}", file=sys.stderr)
    return 4 if failures else 0


def _failures(
    found: Validation, false_reject: float | None, escape: float | None
) -> tuple[str, ...]:
    failures = []
    for name, rate, limit in (
        ("false-reject", found.false_reject, false_reject),
        ("escape", found.escape, escape),
    ):
        if limit is None:
            continue
        if rate is None:
            failures.append("there is no defective part, so that no escape rate is shown")
        elif rate.high > limit:
            failures.append(
                f"the {name} rate is {_rate(rate)}: its upper limit is above {limit:g}; either "
                "more parts or another threshold is needed"
            )
    return tuple(failures)


def _lines(found: Validation, more: list[float]) -> list[str]:
    from agp_edge.threshold_text import promise_text  # noqa: PLC0415  (stays out of --help)

    unit = "parts" if found.has_parts else "photos, each taken for a part of its own"
    lines = [
        f"{len(found.parts)} {unit}; limits exact, two-sided {found.level:g}",
        f"threshold {found.threshold:.6g} from {found.threshold_source}:"
        f" {promise_text(found.record)}",
        f"false rejects  {_rate(found.false_reject)}",
    ]
    if found.escape is not None:
        lines.append(f"escapes        {_rate(found.escape)}")
        lines += [f"  {name:<13}{_rate(rate)}" for name, rate in found.escape_by_type.items()]
    gauge = found.repeatability
    if gauge is not None:
        categories = gauge.distinct_categories
        shown = "-" if categories is None else f"{categories:.1f}"
        lines += [
            f"repeatability  standard deviation {gauge.repeatability:.4g} within a part, "
            f"{gauge.part_variation:.4g} between parts ({gauge.shots} photos of {gauge.parts} "
            f"parts; distinct categories {shown})",
            f"  verdicts of {len(gauge.flips)} parts differ between their photos; "
            f"{gauge.near_threshold} parts lie within three standard deviations of the threshold",
        ]
    lines.append("other thresholds would have given:")
    for threshold in found.alternatives(more):
        rejected, escaped = found.at(threshold)
        missed = "" if escaped is None else f", {escaped.count} of {escaped.total} escaped"
        mark = "  <- in use" if threshold == found.threshold else ""
        lines.append(
            f"  {threshold:<12.6g}{rejected.count} of {rejected.total} rejected{missed}{mark}"
        )
    return lines


def _rate(rate: Rate) -> str:
    return (
        f"{rate.count} of {rate.total} ({rate.value:.2%}; limits {rate.low:.2%} to {rate.high:.2%})"
    )
