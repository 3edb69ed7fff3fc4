"""`agp-edge data`: whether figures from a data set can be trusted."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agp_edge.data_check import DataCheck

__all__ = ["HELP", "add_arguments", "run", "summary_lines"]

HELP = "look at a data set before a figure from it is trusted"

EPILOG = """\
DATA: a folder of good images, or one in the MVTec-AD layout. Looked for: photos of one part on both
sides of the split, copies, unreadable files, masks that do not fit, odd folders, outliers in
exposure and sharpness, too few parts for the promise on false rejects.
Exit code: 0 fine, 4 when something makes figures untrustworthy."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument("data", metavar="DATA", help="folder of good images, or MVTec-AD layout")
    parser.add_argument("--report", metavar="FILE", type=Path, help="write a page with thumbnails")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all findings to FILE")
    parser.add_argument(
        "--write-parts", metavar="FILE", type=Path, help="propose a parts.csv: look it through"
    )
    parser.add_argument(
        "--false-reject",
        type=float,
        metavar="SHARE",
        help="share of good parts that the line may reject: are there enough parts to promise it?",
    )
    parser.add_argument(
        "--confidence", type=float, metavar="P", help="of that promise, such as 0.95 (on average)"
    )


def run(args: argparse.Namespace) -> int:
    """Check, print, write the files asked for."""
    from agp_edge.data_check import check_data  # noqa: PLC0415  (SciPy takes a while to load)
    from agp_edge.errors import Error  # noqa: PLC0415
    from agp_edge.files import write_aside  # noqa: PLC0415

    for name in ("false_reject", "confidence"):
        value = getattr(args, name)
        if value is not None and not 0.0 < value < 1.0:
            option = "--" + name.replace("_", "-")
            raise Error(f"{option} is {value}: expected a share between 0 and 1")
    check = check_data(
        args.data, false_reject=args.false_reject, confidence=args.confidence, progress=True
    )
    for line in summary_lines(check):
        print(line)
    if args.json is not None:
        with write_aside(args.json) as aside:
            text = json.dumps(check.to_dict(), indent=1, ensure_ascii=False)
            aside.write_text(text + "\n", encoding="utf-8")
        print(f"findings: {args.json}")
    if args.write_parts is not None:
        check.write_parts(args.write_parts)
        print(f"parts:    {args.write_parts}; look it through")
    if args.report is not None:
        from agp_edge.report.data import write_data_report  # noqa: PLC0415

        write_data_report(args.report, check)
        print(f"page:     {args.report}")
    return 0 if check.is_trustworthy else 4


def summary_lines(check: DataCheck) -> list[str]:
    """What the command prints, line by line."""
    layout = check.layout
    lines = [
        f"{layout.root}: {len(layout.train)} images to train on, {len(layout.test)} to test; "
        f"{check.good_parts} good parts {'by parts.csv' if layout.has_parts else 'as they look'}"
    ]
    if not check.findings:
        lines.append("nothing found that speaks against figures from it")
    for finding in check.findings:
        lines.append(f"{finding.level.upper()}: {finding.title}")
        lines += [f"    {' = '.join(group[:3])}" for group in finding.groups[:2]]
        hidden = len(finding.groups) - 2
        if hidden > 0:
            lines.append(f"    and {hidden} more")
        lines.append(f"    -> {finding.advice}")
    if not check.is_trustworthy:
        lines.append("figures from this data set cannot be trusted as it is")
    return lines
