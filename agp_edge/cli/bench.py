"""`agp-edge bench`: how long frames take on this machine, at the line's own pace."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from agp_edge.engines import ENGINES
from agp_edge.errors import Error

if TYPE_CHECKING:
    from agp_edge.bench.against import SideBySide
    from agp_edge.bench.benchmark import Plan
    from agp_edge.bench.frames import Frames

__all__ = ["HELP", "add_arguments", "run"]

HELP = "measure latency: percentiles, stages, missed deadlines at a line rate"

EPILOG = """\
Each number of --inflight is measured twice: in a closed loop (the next frame is asked for when the
last one is done) and in an open loop (frames are due at --rate, and latency counts from then on, so
that a stall is felt by every frame behind it). Percentiles carry 95 % intervals by order
statistics. See docs/bench.md.
Exit code: 0; with --compare 4 when B is slower than A beyond --margin."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument("model", metavar="MODEL", nargs="?", help=".onnx file or TensorRT plan")
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("A.json", "B.json"),
        help="measure nothing; say what is slower in B, and what noise hides",
    )
    parser.add_argument(
        "--margin",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="with --compare: less is no difference (default: 0.05)",
    )
    parser.add_argument(
        "--different-frames",
        action="store_true",
        help="with --compare: also where frames or rate are not the same",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--frames", metavar="DIR", help="folder of real frames")
    source.add_argument(
        "--size",
        metavar="WxH",
        type=_size,
        default=(1920, 1080),
        help="synthetic frames of this size (default: 1920x1080)",
    )
    parser.add_argument(
        "--format",
        help="as a camera sends them: mono12, bayer_rggb8, nv12, ... as in docs/frames.md "
        "(default: bgr8; with --frames as the files are stored)",
    )
    parser.add_argument(
        "--duration", type=float, default=30.0, metavar="S", help="of each load (default: 30)"
    )
    parser.add_argument(
        "--rate", type=float, default=60.0, metavar="HZ", help="frames a second (default: 60)"
    )
    parser.add_argument(
        "--deadline", type=float, metavar="MS", help="default: the time between two frames"
    )
    parser.add_argument(
        "--inflight",
        type=_numbers,
        default=(1,),
        metavar="N,N",
        help="frames under way at a time, e.g. 1,2,4 (default: 1)",
    )
    parser.add_argument(
        "--loads",
        type=lambda text: tuple(text.split(",")),
        default=("closed", "open"),
        metavar="LOAD,LOAD",
        help="closed, open, or both (default)",
    )
    parser.add_argument(
        "--cold",
        nargs="?",
        type=int,
        const=5,
        default=0,
        metavar="RUNS",
        help="also time new processes up to their first verdict (5 of them)",
    )
    parser.add_argument(
        "--against",
        type=lambda text: tuple(text.split(",")),
        default=(),
        metavar="WAY,WAY",
        help="compare with the same frames through onnxruntime, openvino (each with OpenCV), "
        "trtexec, anomalib; all: what is installed",
    )
    parser.add_argument(
        "--against-model",
        action="append",
        default=[],
        metavar="FILE",
        help="a model that anomalib exported (.pt, .xml, .onnx); may be given again",
    )
    parser.add_argument(
        "--warm-up", type=float, default=30.0, metavar="S", help="at most (default: 30)"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every sample to FILE")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="write the figures to FILE")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write a page with pictures")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--engine", choices=ENGINES)
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="0: chosen (default)")


def run(args: argparse.Namespace) -> int:
    """Measure, print the tables, write the files asked for."""
    if (args.model is None) == (args.compare is None):
        raise Error("bench needs a MODEL, or --compare A.json B.json")
    if args.compare is not None:
        return _compare(args)
    from agp_edge.bench.benchmark import Plan, run_benchmark  # noqa: PLC0415  (NumPy and SciPy)
    from agp_edge.bench.display import live_display  # noqa: PLC0415
    from agp_edge.bench.document import write_csv, write_json  # noqa: PLC0415
    from agp_edge.bench.text import against_lines, benchmark_lines  # noqa: PLC0415
    from agp_edge.dependencies import require  # noqa: PLC0415

    modules = ("scipy.stats", "hdrh.histogram", *(["jinja2"] if args.html else []))
    for module in modules:  # not after minutes of measuring
        require(module, extra="bench")
    plan = Plan(
        duration_s=args.duration,
        rate_hz=args.rate,
        deadline_ms=args.deadline,
        inflight=args.inflight,
        loads=args.loads,
        warm_up_least_s=min(1.0, args.warm_up),
        warm_up_limit_s=args.warm_up,
    )
    frames = _frames(args)
    table = _against(args, frames, plan) if args.against or args.against_model else None
    if table is not None:
        for line in against_lines(table):
            print(line)
        print()
    found = run_benchmark(
        args.model,
        frames,
        plan,
        cold_runs=args.cold,
        device=args.device,
        engine=args.engine,
        threads=args.threads,
        watch=live_display if sys.stderr.isatty() else None,
    )
    if table is not None:
        found = replace(found, against=table.to_dict())
    for line in benchmark_lines(found):
        print(line)
    if args.json is not None:
        write_json(args.json, found)
        print(f"samples: {args.json}")
    if args.csv is not None:
        write_csv(args.csv, found)
        print(f"figures: {args.csv}")
    if args.html is not None:
        from agp_edge.report.bench import write_bench_report  # noqa: PLC0415  (Jinja2)

        write_bench_report(args.html, found)
        print(f"page:    {args.html}")
    return 0


def _against(args: argparse.Namespace, frames: Frames, plan: Plan) -> SideBySide:
    from agp_edge.bench.against.run import run_against  # noqa: PLC0415  (other libraries)

    return run_against(
        args.model,
        frames,
        args.against or ("anomalib",),
        models=args.against_model,
        duration_s=plan.duration_s,
        device=args.device,
        engine=args.engine,
        threads=args.threads,
    )


def _compare(args: argparse.Namespace) -> int:
    from agp_edge.bench.compare import compare_benchmarks  # noqa: PLC0415  (NumPy)
    from agp_edge.bench.document import read_benchmark  # noqa: PLC0415
    from agp_edge.bench.text import comparison_lines  # noqa: PLC0415

    first, second = (read_benchmark(path) for path in args.compare)
    comparison = compare_benchmarks(
        first, second, margin=args.margin, different_frames=args.different_frames
    )
    for line in comparison_lines(comparison):
        print(line)
    return 4 if comparison.is_slower else 0


def _frames(args: argparse.Namespace) -> Frames:
    from agp_edge.bench.frames import read_frames, synthetic_frames  # noqa: PLC0415

    if args.frames is not None:
        return read_frames(args.frames, format=args.format)
    return synthetic_frames(*args.size, format=args.format or "bgr8")


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a size like 1920x1080") from None
    return width, height


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a list like 1,2,4") from None
