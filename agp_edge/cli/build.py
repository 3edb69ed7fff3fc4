"""`agp-edge build`: an ONNX file into a TensorRT plan."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from agp_edge.plan.build import BuildReport

__all__ = ["HELP", "add_arguments", "run"]

BAR = "{desc} {percentage:3.0f}% |{bar}| {elapsed}"

HELP = "compile an ONNX file into a TensorRT plan"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL.onnx", help="made by `agp-edge export`")
    parser.add_argument(
        "-o", "--output", metavar="FILE", required=True, help="the plan, e.g. engine.plan"
    )
    parser.add_argument(
        "--backend",
        choices=("auto", "tensorrt", "rtx"),
        default="auto",
        help="tensorrt: for this machine's GPU; rtx: TensorRT for RTX, needs no GPU; "
        "auto: the first where it and a GPU are there (default)",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "int8", "auto"),
        help="fp16: the fp32 graph is converted and compared with itself first; int8: the graph is "
        "quantised already; auto: the fastest of fp16 and --int8 on this device "
        "(default: the graph's own)",
    )
    parser.add_argument(
        "--int8",
        metavar="FILE",
        action="append",
        default=[],
        help="what `agp-edge quantize` made of MODEL.onnx, for --precision auto; may be repeated",
    )
    parser.add_argument(
        "--budget",
        type=float,
        metavar="LOSS",
        help="the most that an --int8 file may lose (default: what it was quantised for)",
    )
    parser.add_argument(
        "--images",
        metavar="FOLDER",
        help="real images for that comparison (default: synthetic frames)",
    )
    parser.add_argument(
        "--keep-onnx",
        metavar="FILE",
        help="keep the converted graph of --precision fp16, e.g. to compare it with the plan",
    )
    parser.add_argument(
        "--workspace", metavar="MIB", type=int, help="most scratch memory on the GPU (default: all)"
    )
    parser.add_argument(
        "--timing-cache",
        metavar="FILE",
        help="keep TensorRT's measurements here: the next build is faster (not for rtx)",
    )
    parser.add_argument(
        "--optimization-level",
        type=int,
        choices=range(6),
        help="0 builds fastest, 5 searches longest (default: the compiler's own)",
    )
    parser.add_argument(
        "--sm",
        metavar="SM,...",
        type=_targets,
        default=(),
        help="compute capabilities for rtx, e.g. 86,89 "
        "(default: this machine's GPU, else 86,89,120)",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Compile and report."""
    from tqdm import tqdm  # noqa: PLC0415  (heavy imports stay out of --help)

    from agp_edge.errors import Error  # noqa: PLC0415
    from agp_edge.images import list_images  # noqa: PLC0415
    from agp_edge.plan.auto_precision import fastest_plan  # noqa: PLC0415
    from agp_edge.plan.build import plan_from_onnx  # noqa: PLC0415

    if args.precision != "auto" and (args.int8 or args.budget is not None):
        raise Error("--int8 and --budget belong to --precision auto: add it, or leave them out")
    if args.keep_onnx is not None and args.precision != "fp16":
        raise Error("--keep-onnx keeps what --precision fp16 converts: add it, or leave this out")
    images = () if args.images is None else list_images(args.images)
    choice = None

    # disable=None: no bar where stderr is not a terminal.
    with tqdm(total=1.0, desc="compile", bar_format=BAR, leave=False, disable=None) as bar:

        def show(share: float) -> None:
            bar.n = max(bar.n, share)
            bar.refresh()

        def build(source: str, plan: str | os.PathLike[str], precision: str | None) -> BuildReport:
            bar.reset()
            return plan_from_onnx(
                source,
                plan,
                backend=args.backend,
                precision=precision,
                images=images,
                workspace=args.workspace,
                timing_cache=args.timing_cache,
                optimization_level=args.optimization_level,
                targets=args.sm,
                keep_onnx=args.keep_onnx,
                progress=show,
            )

        if args.precision == "auto":
            report, choice = fastest_plan(
                args.model, args.output, int8=args.int8, budget=args.budget, build=build
            )
            report = replace(report, path=args.output)
        else:
            report = build(args.model, args.output, args.precision)
    if args.json:
        document = {**asdict(report), "bytes_per_weight": report.bytes_per_weight}
        print(json.dumps(document | ({} if choice is None else {"choice": asdict(choice)})))
        return 0
    for line in () if choice is None else choice.lines():
        print(line)
    if report.fp16_check is not None:
        print(f"fp16 against fp32, {report.fp16_check}")
    built = "asked" if report.built is None else f"asked, {report.built} built"
    print(
        f"{report.path}: {report.precision} {built}, {report.plan_bytes:,} bytes, "
        f"{report.bytes_per_weight:.2f} bytes per weight ({report.weights:,} weights), "
        f"compiled in {report.seconds:.1f} s by {report.backend} for compute capability "
        f"{', '.join(report.targets)}"
    )
    if report.timing_cache_problem is not None:
        print(report.timing_cache_problem)
    return 0


def _targets(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a list of compute capabilities like 86,89"
        ) from None
