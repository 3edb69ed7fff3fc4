"""`agp-edge bench` as a user runs it, on a real model, with a stall that is put in from outside.

    python benchmarks/bench_check.py MODEL [--rate 60] [--size 640x480] [--frames DIR]

Runs the command as a process and reads its files:

1. The whole process is stopped for 200 ms (SIGSTOP) in the middle of an open loop at --rate. The
   stall has to be in p99.9 and in the maximum, and every frame that was due meanwhile and could not
   be made up for has to have missed its deadline.
2. The stages have to add up to the whole within 5 %, in every load.
3. `--compare a.json a.json` has to find nothing slower and nothing faster, and end with 0.
4. The page has to refer to nothing outside of itself, by an HTML parser, and its tags to close.

Writes benchmarks/results/bench_check.json and .md, and ends with 1 where a point does not hold.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from provenance import RESULTS, write_result

from agp_edge.bench.text import number
from agp_edge.files import write_aside

STALL_S = 0.2
OPEN_S = 20.0  # p99.9 needs 1,000 frames
WARM_UP_S = 3.0
VOID = {"meta", "br", "hr", "img", "input", "link", "col"}
# Attributes that make a browser fetch something.
FETCHES = {"src", "href", "xlink:href", "data", "action", "poster", "srcset", "background"}


def bench(*arguments: str, stall_after_s: float | None = None) -> str:
    """Runs the command; what it printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "agp_edge", "bench", *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    if stall_after_s is not None:
        time.sleep(stall_after_s)
        process.send_signal(signal.SIGSTOP)
        time.sleep(STALL_S)
        process.send_signal(signal.SIGCONT)
    said, _ = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"bench {' '.join(arguments)} ended with {process.returncode}:\n{said}")
    return said


def stall(model: str, source: list[str], rate: float, folder: Path) -> dict[str, Any]:
    """Point 1."""
    path = folder / "stall.json"
    options = [f"--rate={rate}", f"--duration={OPEN_S}", "--loads=open", f"--warm-up={WARM_UP_S}"]
    # by then the model is open and warm, and the load has ten seconds to go
    bench(model, *source, *options, f"--json={path}", stall_after_s=WARM_UP_S + OPEN_S / 2)
    (found,) = json.loads(path.read_text(encoding="utf-8"))["measurements"]
    whole = found["end_to_end_ms"]
    samples = found["samples_ns"]
    latency = [(end - due) / 1e6 for due, end in zip(samples["due"], samples["end"], strict=True)]
    latest = max(range(len(latency)), key=latency.__getitem__)
    behind = 0  # the frame that was stalled, and those behind it until one is in time again
    while latest + behind < len(latency) and latency[latest + behind] > found["deadline_ms"]:
        behind += 1
    p999 = whole["percentiles"]["p99.9"]["value"]
    periods = STALL_S * rate
    return {
        "frames": whole["count"],
        "p50_ms": whole["percentiles"]["p50"]["value"],
        "p99.9_ms": p999,
        "maximum_ms": whole["maximum"],
        "missed_deadlines": found["missed_deadlines"],
        "late_in_a_row_from_the_stall": behind,
        "overloaded": found["overloaded"],
        "holds": (
            p999 is not None  # the machine was too busy to serve them all
            and p999 > 1e3 * STALL_S - 2e3 / rate
            and (whole["maximum"] or 0) >= 1e3 * STALL_S
            and found["missed_deadlines"] >= behind >= int(periods) - 1
        ),
    }


def whole_run(model: str, source: list[str], rate: float, folder: Path) -> dict[str, Any]:
    """Points 2 and 4, and all files."""
    files = {kind: folder / f"a.{kind}" for kind in ("json", "csv", "html")}
    bench(
        model,
        *source,
        *(f"--rate={rate}", "--duration=5", "--inflight=1,2,4", "--cold=2", "--warm-up=5"),
        *(f"--{kind}={path}" for kind, path in files.items()),
    )
    document = json.loads(files["json"].read_text(encoding="utf-8"))
    shares = {
        f"{found['load']} loop, {found['inflight']} in flight": found["stages_share"]
        for found in document["measurements"]
    }
    with files["csv"].open(encoding="utf-8", newline="") as file:
        rows = len(list(csv.DictReader(file)))
    page = _Page()
    page.feed(files["html"].read_text(encoding="utf-8"))
    page.close()
    return {
        "stages_share": shares,
        "stages_hold": len(shares) == 6 and all(0.95 <= share <= 1.05 for share in shares.values()),
        "csv_rows": rows,
        "page_bytes": files["html"].stat().st_size,
        "page_pictures": page.pictures,
        "page_refers_to": page.outside,
        "page_holds": not page.outside and not page.open and page.pictures == 3 * len(shares),
    }


class _Page(HTMLParser):
    """What a page would fetch, which tags stay open, and how many pictures it has."""

    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.open: list[str] = []
        self.pictures = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.look_at(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.look_at(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.outside.append(f"</{tag}> closes nothing")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("style", "script"):
            self.outside += re.findall(r"@import[^;]*|url\([^)]*\)|fetch\([^)]*\)", data)

    def look_at(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.pictures += tag == "svg"
        self.outside += [
            f"{tag} {name}={value}"
            for name, value in attrs
            if (name in FETCHES and not (value or "").startswith(("data:", "#")))
            or (name == "style" and "url(" in (value or ""))
        ]


def compare(folder: Path) -> dict[str, Any]:
    """Point 3."""
    path = str(folder / "a.json")
    lines = bench("--compare", path, path).splitlines()
    verdicts = [line.split()[-1] for line in lines if re.search(r" to \d+\.\d+  \w+$", line)]
    return {
        "figures": len(verdicts),
        **{name: verdicts.count(name) for name in ("slower", "faster", "same", "unresolved")},
        "holds": len(verdicts) > 0 and not {"slower", "faster"} & {*verdicts},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--rate", type=float, default=60.0)
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--frames", metavar="DIR")
    arguments = parser.parse_args()
    source = [f"--frames={arguments.frames}"] if arguments.frames else [f"--size={arguments.size}"]
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        stalled = stall(arguments.model, source, arguments.rate, Path(scratch))
        whole = whole_run(arguments.model, source, arguments.rate, Path(scratch))
        same = compare(Path(scratch))
    least = min(whole["stages_share"].values())
    points = {
        f"a stall of 200 ms at {arguments.rate:g} frames/s: p50 {number(stalled['p50_ms'])} ms, "
        f"p99.9 {number(stalled['p99.9_ms'])}, maximum {number(stalled['maximum_ms'])}, "
        f"{stalled['missed_deadlines']} of {stalled['frames']} deadlines missed, "
        f"{stalled['late_in_a_row_from_the_stall']} of them in a row from the stall on": stalled[
            "holds"
        ],
        f"stages explain {least:.1%} of the whole or more in {len(whole['stages_share'])} loads": (
            whole["stages_hold"]
        ),
        f"a file compared with itself: {same['figures']} figures, {same['slower']} slower, "
        f"{same['faster']} faster, {same['unresolved']} unresolved": same["holds"],
        f"the page, {whole['page_bytes'] >> 10} KiB with {whole['page_pictures']} pictures, refers "
        f"to {len(whole['page_refers_to'])} things outside of itself": whole["page_holds"],
    }
    lines = [f"- {'holds' if holds else 'DOES NOT HOLD'}: {text}" for text, holds in points.items()]
    head = f"Load average {load:.1f} on {os.cpu_count()} cores when this began."
    print("\n".join([head, *lines]))
    write_result(
        "bench_check",
        {"load_average": load, "stall": stalled, "whole": whole, "compare_with_itself": same},
    )
    with write_aside(RESULTS / "bench_check.md") as aside:
        aside.write_text("\n".join(["# bench_check", "", head, "", *lines, ""]), encoding="utf-8")
    return 0 if all(points.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
