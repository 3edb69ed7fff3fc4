"""`agp-edge info`: the manifest inside a model file."""

from __future__ import annotations

import argparse
import json

from agp_edge.manifest import read_manifest

__all__ = ["HELP", "add_arguments", "run"]

HELP = "show the manifest inside an ONNX file or a plan"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="FILE", help=".onnx file or TensorRT plan; not loaded")
    parser.add_argument("--json", action="store_true", help="print the document as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the manifest."""
    manifest = read_manifest(args.model)
    if args.json:
        print(json.dumps(manifest, indent=2, ensure_ascii=False))
        return 0
    for key, value in manifest.items():
        if isinstance(value, dict):
            print(key)
            for inner, text in value.items():
                print(f"  {inner:<14}{_text(text)}")
        else:
            print(f"{key:<16}{_text(value)}")
    return 0


def _text(value: object) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
