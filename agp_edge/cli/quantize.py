"""`agp-edge quantize`: an FP32 ONNX file into INT8 that keeps an accuracy budget."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agp_edge.calibration.int8.quantise_report import QuantiseReport

__all__ = ["HELP", "add_arguments", "quantise_lines", "run"]

HELP = "quantise an ONNX file to INT8 within an accuracy budget"

EPILOG = """\
Ranges of activations come from good images chosen for their diversity. The budget bounds, with
--labelled, the loss of image AUROC and of AUPRO, each by the upper end of its paired 95 % interval;
without it, on held-out good images and synthetic defects, the share of verdicts and of map pixels
that flip. Layers that would lose more stay in --precision. An interrupted run goes on where it
stopped when it is started again.
Exit code: 0 within the budget, 4 outside (the best that was found is written)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument("model", metavar="MODEL.onnx", help="fp32, made by `agp-edge export`")
    parser.add_argument(
        "images", metavar="GOOD_IMAGES", help="folder of good images, or data set (its train/good)"
    )
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the INT8 ONNX file")
    parser.add_argument(
        "--budget",
        type=float,
        metavar="LOSS",
        help="the most that may be lost, such as 0.002 (default: quantise all, report the loss)",
    )
    parser.add_argument(
        "--labelled",
        metavar="DATA",
        help="data set whose test images, good and defective, judge the loss; "
        "they are no test afterwards (default: held-out good images and synthetic defects)",
    )
    parser.add_argument(
        "--count", type=int, default=64, metavar="N", help="calibration images (default: 64)"
    )
    parser.add_argument(
        "--ranges",
        choices=("entropy", "minmax", "mse", "percentile"),
        default="mse",
        help="how the range of an activation is found (default: mse)",
    )
    parser.add_argument(
        "--precision",
        choices=("fp16", "fp32"),
        default="fp16",
        help="of everything that is not INT8 (default: fp16)",
    )
    parser.add_argument(
        "--no-depthwise",
        action="store_true",
        help="leave depthwise convolutions in --precision; build --precision auto can compare both",
    )
    parser.add_argument(
        "--method",
        choices=("ptq", "qat"),
        default="ptq",
        help="ptq: after training; qat: train what ptq does not bring within the budget (without "
        "a budget every layer) to bear INT8, a matter of minutes (default: ptq)",
    )
    parser.add_argument(
        "--checkpoint",
        metavar="RUN",
        help="for --method qat: the run that MODEL.onnx was exported from",
    )
    parser.add_argument(
        "--steps", type=int, default=40, metavar="N", help="for --method qat (default: 40)"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures to FILE")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write a page")


def run(args: argparse.Namespace) -> int:
    """Quantise, print, write the files asked for."""
    from agp_edge.calibration.int8.quantize import quantise_onnx  # noqa: PLC0415  (onnx)
    from agp_edge.files import write_aside  # noqa: PLC0415

    report = quantise_onnx(
        args.model,
        args.images,
        args.output,
        count=args.count,
        ranges=args.ranges,
        budget=args.budget,
        labelled=args.labelled,
        precision=args.precision,
        depthwise=not args.no_depthwise,
        method=args.method,
        checkpoint=args.checkpoint,
        steps=args.steps,
        progress=True,
    )
    for warning in report.warnings:
        print(f"agp-edge: warning: {warning}", file=sys.stderr)
    for line in quantise_lines(report):
        print(line)
    if args.json is not None:
        with write_aside(args.json) as aside:
            text = json.dumps(report.to_dict(), indent=2, ensure_ascii=False)
            aside.write_text(text + "\n", encoding="utf-8")
        print(f"figures: {args.json}")
    if args.html is not None:
        from agp_edge.report.quantisation import write_quantisation  # noqa: PLC0415

        write_quantisation(args.html, report)
        print(f"page:    {args.html}")
    return 0 if report.search.within_budget else 4


def quantise_lines(report: QuantiseReport) -> list[str]:
    """What the command prints, line by line."""
    accuracy = report.accuracy
    named = ", ".join(f"'{name}' ({value:.4g})" for name, value in report.highest)
    lines = [
        f"{report.path}: {report.search.chosen.layers} of {len(report.layers)} layers in INT8 "
        f"({100 * report.int8_weights:.1f} % of their weights), {len(report.calibrated)} "
        f"calibration images, ranges by {report.ranges}"
    ]
    lines.append(f"good images with the largest distances, to be looked at: {named}")
    before = report.post_training
    if before is not None:
        lines.append(
            f"trained to bear it (qat); post-training quantisation alone: {before.chosen.layers} "
            f"layers, loss {before.chosen.accuracy.worst:.4g}"
        )
    if report.training is not None:
        lines.append(
            f"the training (qat) did no better, and its file was not kept: "
            f"{report.training.chosen.layers} layers, "
            f"loss {report.training.chosen.accuracy.worst:.4g}"
        )
    for name, loss in (("image AUROC", accuracy.auroc), ("AUPRO", accuracy.aupro)):
        if loss is not None:
            lines.append(
                f"{name} ({accuracy.defects} defects): {loss.before:.4f} -> {loss.after:.4f}, "
                f"loss {loss.value:+.4f}, at most {loss.upper:+.4f} (95 %)"
            )
    lines.append(
        f"verdicts that flip: {100 * accuracy.flips:.2f} % of {accuracy.images} "
        f"(borderline {100 * accuracy.borderline_flips:.2f} %), map pixels "
        f"{100 * accuracy.pixel_flips:.3f} %; scores change by "
        f"{100 * accuracy.score_shift:+.2f} % on average"
    )
    if report.budget is not None:
        word = "within" if report.search.within_budget else "outside"
        lines.append(f"{word} the budget: {accuracy.worst:.4g} of {report.budget:g}")
    return lines
