"""`agp-edge eval`: how well a model separates good from defective on a data set."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from agp_edge.engines import ENGINES
from agp_edge.metrics import rate_interval
from agp_edge.threshold_text import promise_text

if TYPE_CHECKING:
    from agp_edge.evaluate import Evaluation, Metrics

__all__ = ["HELP", "add_arguments", "evaluation_lines", "run"]

HELP = "measure a model on a data set with good and defective test images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help=".onnx file or TensorRT plan")
    parser.add_argument(
        "data",
        metavar="DATA",
        help="folder in the MVTec-AD layout: test/good, test/<defect type>, optional "
        "ground_truth/<defect type> masks and parts.csv (file,part)",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures to FILE")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write a page with pictures")
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: auto"
    )
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        help="default: the first that is installed and fits the file",
    )
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="CPU threads; 0 (default) chooses"
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the table, write the files asked for."""
    from agp_edge.evaluate import evaluate  # noqa: PLC0415  (scikit-learn takes a second to load)

    evaluation = evaluate(
        args.model,
        args.data,
        device=args.device,
        engine=args.engine,
        threads=args.threads,
        progress=sys.stderr.isatty(),
    )
    for line in evaluation_lines(evaluation):
        print(line)
    if args.json is not None:
        evaluation.write_json(args.json)
        print(f"figures: {args.json}")
    if args.html is not None:
        from agp_edge.report import write_report  # noqa: PLC0415

        write_report(
            args.html,
            evaluation,
            args.model,
            device=args.device,
            engine=args.engine,
            threads=args.threads,
        )
        print(f"page:    {args.html}")
    return 0


def evaluation_lines(evaluation: Evaluation) -> list[str]:
    """The table that `agp-edge eval` and `agp-edge demo` print, line by line."""
    width = max(len("all"), *(len(name) for name in evaluation.types))
    lines = [
        f"{'type':<{width}}   good  defective  image AUROC (95 % interval)"
        "      AP   F1-max  pixel AUROC   AUPRO@0.3"
    ]
    lines += [_row("all", evaluation.overall, width)]
    if len(evaluation.types) > 1:
        lines += [_row(name, metrics, width) for name, metrics in evaluation.types.items()]
    unit = "parts" if evaluation.has_parts else "images"
    lines.append(f"intervals: bootstrap over {unit}; each type against all good images")
    if any(metrics.aupro is None for metrics in evaluation.types.values()):
        lines.append("pixel figures need a mask for each defective image (ground_truth/<type>)")
    lines += _verdict_lines(evaluation)
    lines.append(f"milliseconds per frame ({evaluation.engine}):")
    lines.append(f"  {'':<11}      p50      p90      p99")
    for stage, values in evaluation.latency().items():
        lines.append(f"  {stage:<11}" + "".join(f"{value:9.2f}" for value in values))
    return lines


def _row(name: str, metrics: Metrics, width: int) -> str:
    low, high = metrics.image_auroc_interval
    pixel, overlap = (
        f"{'-':>6}" if value is None else f"{value:.4f}"
        for value in (metrics.pixel_auroc, metrics.aupro)
    )
    return (
        f"{name:<{width}}  {metrics.n_good:5d}  {metrics.n_defective:9d}"
        f"  {metrics.image_auroc:.4f} ({low:.4f} to {high:.4f})"
        f"    {metrics.image_ap:.4f}   {metrics.image_f1_max:.4f}       {pixel}      {overlap}"
    )


def _verdict_lines(evaluation: Evaluation) -> list[str]:
    if evaluation.threshold is None:
        return ["neither the model nor a site file has a threshold: no verdicts"]
    rejected = evaluation.count(defective=False, anomalous=True)
    good = evaluation.count(defective=False)
    found = evaluation.count(defective=True, anomalous=True)
    defective = evaluation.count(defective=True)
    rejected_parts, parts = evaluation.good_parts()
    low, high = rate_interval(rejected_parts, parts)
    by_part = f"{rejected_parts} of {parts} good parts, " if evaluation.has_parts else ""
    return [
        f"at the threshold {evaluation.threshold:.6g} of the {evaluation.threshold_source}:",
        f"  {found} of {defective} defective found ({found / defective:.1%})",
        f"  {rejected} of {good} good rejected ({by_part}{rejected_parts / parts:.1%}, 95 %"
        f" interval {low:.1%} to {high:.1%})",
        f"  promised: {promise_text(evaluation.threshold_record)}",
    ]
