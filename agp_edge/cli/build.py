"""`agp-edge build`: an ONNX file into a TensorRT plan."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

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
        choices=("fp32", "fp16", "int8"),
        help="fp16: the fp32 graph is converted and compared with itself first; int8: the graph is "
        "quantised already (default: the graph's own)",
    )
    parser.add_argument(
        "--images",
        metavar="FOLDER",
        help="real images for that comparison (default: synthetic frames)",
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

    from agp_edge.build import plan_from_onnx  # noqa: PLC0415
    from agp_edge.images import list_images  # noqa: PLC0415

    # disable=None: no bar where stderr is not a terminal.
    with tqdm(total=1.0, desc="compile", bar_format=BAR, leave=False, disable=None) as bar:

        def show(share: float) -> None:
            bar.n = max(bar.n, share)
            bar.refresh()

        report = plan_from_onnx(
            args.model,
            args.output,
            backend=args.backend,
            precision=args.precision,
            images=() if args.images is None else list_images(args.images),
            workspace=args.workspace,
            timing_cache=args.timing_cache,
            optimization_level=args.optimization_level,
            targets=args.sm,
            progress=show,
        )
    if args.json:
        print(json.dumps({**asdict(report), "bytes_per_weight": report.bytes_per_weight}))
        return 0
    if report.fp16_check is not None:
        print(f"fp16 against fp32, {report.fp16_check}")
    built = "asked" if report.built is None else f"asked, {report.built} built"
    print(
        f"{report.path}: {report.precision} {built}, {report.plan_bytes:,} bytes, "
        f"{report.bytes_per_weight:.2f} bytes per weight ({report.weights:,} weights), "
        f"compiled in {report.seconds:.1f} s by {report.backend} for compute capability "
        f"{', '.join(report.targets)}"
    )
    return 0


def _targets(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a list of compute capabilities like 86,89"
        ) from None
