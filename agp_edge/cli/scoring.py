"""What commands share that score known parts: shares on the command line, and how to score."""

from __future__ import annotations

import argparse

from agp_edge.engines import ENGINES

__all__ = ["add_scoring_arguments", "share"]


def share(text: str) -> float:
    """A command-line value strictly between 0 and 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < 1.0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number between 0 and 1")
    return value


def add_scoring_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare --parts, --skip-unreadable, --scores, --device, --engine and --threads."""
    parser.add_argument("--parts", metavar="FILE", help="parts.csv; default: the one found there")
    parser.add_argument(
        "--skip-unreadable", action="store_true", help="leave unreadable images out, with a warning"
    )
    parser.add_argument(
        "--scores", metavar="FILE", help="where scores are kept (default: MODEL.scores.jsonl)"
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--engine", choices=ENGINES)
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="0: chosen (default)")
