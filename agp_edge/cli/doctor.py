"""`agp-edge doctor`: what this machine can run, and what is missing."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

__all__ = ["HELP", "add_arguments", "run"]

HELP = "show each engine and GPU: version and library, or why it is missing"

EPILOG = "Exit code: 0 when a model can be scored here, else 1."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(args: argparse.Namespace) -> int:
    """Examine the machine and print what was found."""
    from agp_edge.doctor import examine, require_engine  # noqa: PLC0415  (loads engines)

    findings = examine()
    if args.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            print(f"{'yes' if finding.usable else ' no'}  {finding.name}: {finding.runs}")
            found = [part for part in (finding.version, finding.path) if part]
            if found:
                print(f"       {', '.join(found)}")
            if finding.problem:
                print(f"       {finding.problem}")
            for warning in finding.warnings:
                print(f"       warning: {warning}")
    require_engine(findings)
    return 0
