"""`agp-edge threshold`: the decision threshold from good images of the line, with its promise."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from agp_edge.cli.scoring import add_scoring_arguments, share

if TYPE_CHECKING:
    from agp_edge.calibration.decision.set_threshold import ThresholdResult

__all__ = ["HELP", "add_arguments", "run"]

HELP = "set the decision threshold from good images that the model was not trained on"

EPILOG = """\
At most --false-reject of new good parts are rejected: on average over calibration sets, or, with
--confidence, by this very threshold with that probability. Both need enough parts: 0.01 needs 99,
and 299 with --confidence 0.95; 0.001 needs 999 and 2,995. Too few are refused. The good images
have to come from the line as it will run: another shoot than the training images.

Photos of one part count once (parts.csv beside the images with the columns file,part, or a folder
per part). --method f1 and recall need labelled defects (test/good, test/TYPE) and promise no
false-reject rate.

The threshold goes into the site file of a plan (MODEL.json; the plan does not change), or into the
manifest of an .onnx file, unless a site file lies beside it. Scores are kept in MODEL.scores.jsonl:
an interrupted run goes on from there, and another rate takes no time. docs/thresholds.md explains
what is promised."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument("model", metavar="MODEL", help=".onnx file or TensorRT plan")
    parser.add_argument(
        "images", metavar="GOOD_IMAGES",
        help="folder of good images, or of a folder per part; with --method f1 or recall a data "
        "set with test/good and test/TYPE",
    )  # fmt: skip
    parser.add_argument(
        "--false-reject", type=share, metavar="SHARE",
        help="share of good parts that may be rejected, such as 0.01",
    )  # fmt: skip
    parser.add_argument(
        "--confidence", type=share, metavar="P",
        help="promise for this very threshold, with this probability, such as 0.95 "
        "(default: on average)",
    )  # fmt: skip
    parser.add_argument(
        "--region", type=share, metavar="SHARE",
        help="share of good parts that may show any region in their mask: sets the mask's own "
        "threshold (default: that of the score)",
    )  # fmt: skip
    parser.add_argument("--method", default="conformal", choices=("conformal", "f1", "recall"))
    parser.add_argument(
        "--recall", type=share, metavar="SHARE",
        help="with --method recall: share of defective parts that is found, such as 0.95",
    )  # fmt: skip
    parser.add_argument(
        "--min-area", type=int, metavar="N",
        help="map pixels of the smallest region that counts for --region (default: the site "
        "file's)",
    )  # fmt: skip
    parser.add_argument(
        "--site", action="store_true", help="write to the site file of an .onnx file too"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be set, and set nothing"
    )
    add_scoring_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Score the images, set the threshold, say what it promises."""
    from agp_edge.calibration.decision.set_threshold import set_threshold  # noqa: PLC0415  (heavy)
    from agp_edge.errors import Error  # noqa: PLC0415

    if args.method == "conformal" and args.false_reject is None:
        raise Error("--false-reject is missing: give the share of good parts that may be rejected")
    if (args.method == "recall") != (args.recall is not None):
        raise Error("--method recall and --recall SHARE go together: give both or neither")
    if args.method == "f1" and args.confidence is not None:
        raise Error("--method f1 promises nothing: leave --confidence out")
    result = set_threshold(
        args.model,
        args.images,
        method=args.method,
        false_reject=args.false_reject,
        confidence=args.confidence,
        region=args.region,
        recall=args.recall,
        parts_file=args.parts,
        min_area=args.min_area,
        skip_unreadable=args.skip_unreadable,
        to_site=args.site,
        dry_run=args.dry_run,
        journal=args.scores,
        device=args.device,
        engine=args.engine,
        threads=args.threads,
        progress=sys.stderr.isatty(),
    )
    for warning in result.warnings:
        print(f"agp-edge: warning: {warning}", file=sys.stderr)
    for line in _lines(result):
        print(line)
    return 0


def _lines(result: ThresholdResult) -> list[str]:
    from agp_edge.threshold_text import promise_text  # noqa: PLC0415  (stays out of --help)

    spec = result.spec
    again = f", {result.reused} of them before" if result.reused else ""
    before = "none" if result.before is None else f"{result.before:.6g}"
    lines = [
        f"scored {result.photos} images of {result.parts} parts with {result.engine}{again}",
        f"threshold {spec.value:.6g} (before: {before}): {promise_text(spec.record())}",
    ]
    named = ", ".join(f"'{name}' ({score:.4g})" for name, score in result.highest)
    lines.append(f"  highest scores, to be looked at: {named}")
    if result.limit is not None:
        lines.append(
            f"  with 0.95 confidence this very threshold rejects at most {100 * result.limit:.3g} %"
        )
    if result.observed is not None:
        lines.append(f"  on these images: {result.observed}")
    if spec.mask_value is not None:
        rate = spec.target if spec.mask_target is None else spec.mask_target
        sure = "on average" if spec.confidence is None else f"with {spec.confidence:g} confidence"
        lines.append(
            f"mask threshold {spec.mask_value:.6g}: at most {100 * (rate or 0):.3g} % of new good "
            f"{spec.unit} show any region, {sure}"
        )
    lines.append(
        "nothing was written (--dry-run)" if result.path is None else f"written to {result.path}"
    )
    if result.was_signed:
        lines.append("the site file's signature covered the old threshold: sign it again")
    return lines
