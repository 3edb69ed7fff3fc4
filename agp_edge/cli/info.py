"""`agp-edge info`: the manifest inside a model file."""

from __future__ import annotations

import argparse
import json
from typing import Any

from agp_edge.manifest import read_manifest
from agp_edge.site import overrides, read_site, site_path
from agp_edge.threshold_text import promise_text

__all__ = ["HELP", "add_arguments", "run"]

HELP = "show the manifest inside an ONNX file or a plan, and what its site file changes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="FILE", help=".onnx file or TensorRT plan; not loaded")
    parser.add_argument("--json", action="store_true", help="print the document as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the manifest."""
    site = read_site(args.model)
    manifest = read_manifest(args.model)
    if args.json:
        document = manifest if site is None else {**manifest, "site": site.to_dict()}
        print(json.dumps(document, indent=2, ensure_ascii=False))
        return 0
    for key, value in manifest.items():
        if key == "precision":
            print(f"{key:<16}{_precision(value)}")
        elif isinstance(value, dict):
            print(key)
            for inner, text in value.items():
                print(f"  {inner:<14}{_tail(text) if inner == 'tail' else _text(text)}")
            if key == "threshold":
                print(f"  {'promise':<14}{promise_text(value)}")
        else:
            print(f"{key:<16}{_text(value)}")
    if site is not None:
        signed = "signed (see --verify of score)" if site.signature else "not signed"
        print(f"site file       {site_path(args.model)}, {signed}")
        print(f"  {'model_sha256':<20}{site.model_sha256}, fits the file")
        for name, value, replaced in overrides(manifest, site):
            print(f"  {name:<20}{value} (the model says {replaced})")
        if site.threshold is not None:
            print(f"  {'promise':<20}{promise_text(site.threshold_record)}")
    return 0


def _precision(precision: dict[str, Any]) -> str:
    wide = precision.get("kept_fp32")
    counts = ", ".join(f"{reason} {count}" for reason, count in wide.items()) if wide else ""
    kept = f"; nodes kept in fp32: {counts}" if counts else ""
    if precision.get("built") is None:
        return f"{precision['asked']} asked (no GPU has read back what was built){kept}"
    return f"{precision['built']} built, {precision['asked']} asked{kept}"


def _tail(tail: dict[str, Any]) -> str:
    scores = tail["scores"]
    return (
        f"{len(scores)} of {tail['n']} good parts, {min(scores):.6g} to {max(scores):.6g}; "
        "p-values come from it"
    )


def _text(value: object) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
