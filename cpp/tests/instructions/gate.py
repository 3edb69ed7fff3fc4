"""Instructions and memory traffic of the CPU stages, counted by valgrind, against a baseline.

    python gate.py DRIVER [--update | --must-fail]

A clock on a shared machine differs by more than a regression; a count does not differ at all. Two
figures of each case of stages.cpp are judged, and may be 2 % larger than in baseline.json:

- instructions: they depend on the compiler and on the instruction set that was dispatched to, so
  each pair has figures of its own. For a compiler that is not in the baseline they may be 1.5 times
  the largest that is known of that case with that instruction set: a loop that is no longer
  vectorised is beyond it. valgrind shows every program the same kind of CPU: with AVX2 where the
  real one has it, never with AVX-512, and with the same cache sizes, so that libc's choices do not
  differ either.
- lines: cache lines that go to or come from memory, by a simulated last-level cache of 1 MiB, which
  no large frame fits into. A copy of the frame doubles them. Compilers hardly change them, so that
  any figure of the baseline judges them.

Exit code 0 within the tolerance, 1 beyond it, 77 where that could not be said in full, which ctest
reports as skipped: without valgrind, or for a pair that is not in the baseline. --update writes
what was counted into the baseline. --must-fail turns the answer round: it is for the driver with a
planted copy, of which every preprocessing case has to be noticed.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BASELINE = Path(__file__).parent / "baseline.json"
TOLERANCE = 0.02
# Between compilers; the two of the baseline differ by up to 14 %.
OTHER_COMPILER = 0.5
# A page more or less moves a few lines of small cases.
SPARE_LINES = 128
SKIPPED = 77
CALLGRIND = (
    "--tool=callgrind", "--cache-sim=yes",
    "--I1=32768,8,64", "--D1=32768,8,64", "--LL=1048576,16,64",
    "--collect-atstart=no", "--toggle-collect=agp_edge_measured",
    "--dump-after=agp_edge_measured",
)  # fmt: skip

Figures = dict[str, dict[str, int]]  # case -> "instructions", "lines"


def count(driver: str, valgrind: str) -> tuple[str, Figures]:
    """Runs the driver; the key of compiler and instruction set, and the figures of each case."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "count"
        done = subprocess.run(
            [valgrind, *CALLGRIND, f"--callgrind-out-file={out}", driver],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise SystemExit(f"valgrind failed with {driver}:\n{done.stderr[-2000:]}")
        said = dict(re.findall(r"^(compiler|isa) (.+)$", done.stdout, re.MULTILINE))
        names = re.findall(r"^case (.+)$", done.stdout, re.MULTILINE)
        figures = {}
        for number, name in enumerate(names, 1):
            text = Path(f"{out}.{number}").read_text(encoding="utf-8")
            events = re.search(r"^events: (.+)$", text, re.MULTILINE)
            totals = re.search(r"^totals: (.+)$", text, re.MULTILINE)
            if events is None or totals is None:
                raise SystemExit(f"valgrind counted nothing for '{name}'")
            values = dict.fromkeys(events.group(1).split(), 0)  # trailing zeros are left out
            values.update(zip(values, map(int, totals.group(1).split()), strict=False))
            figures[name] = {
                "instructions": values["Ir"],
                "lines": values["DLmr"] + values["DLmw"],
            }
    if not figures:
        raise SystemExit(f"{driver} ran no case")
    return f"{said['compiler']} {said['isa']}", figures


def judge(key: str, figures: Figures, baseline: dict[str, Figures]) -> set[str]:
    """Prints every case; returns the names of those that are beyond the tolerance."""
    exact = baseline.get(key)
    alike = {pair for pair in baseline if pair.split()[1] == key.split()[1]}  # instruction set
    worse = set()
    for name, found in figures.items():
        pairs = [key] if exact is not None else [*baseline]
        candidates = [
            (pair in alike, baseline[pair][name]["instructions"], pair)
            for pair in pairs
            if name in baseline[pair]
        ]
        if not candidates:
            print(f"NEW   {name}: not in the baseline, run with --update")
            worse.add(name)
            continue
        is_alike, _, pair = max(candidates)
        known = baseline[pair][name]
        limits = {"lines": known["lines"] * (1 + TOLERANCE) + SPARE_LINES}
        if is_alike:
            tolerance = OTHER_COMPILER if exact is None else TOLERANCE
            limits["instructions"] = known["instructions"] * (1 + tolerance)
        beyond = [kind for kind, limit in limits.items() if found[kind] > limit]
        worse.update([name] if beyond else [])
        shown = ", ".join(
            f"{kind} {found[kind]:,} ({(found[kind] - known[kind]) / max(1, known[kind]):+.1%})"
            for kind in found
        )
        print(f"{'WORSE' if beyond else 'ok   '} {name}: {shown}")
    missing = set(exact or next(iter(baseline.values()), {})) - set(figures)
    if missing:
        print(f"GONE  {', '.join(sorted(missing))}: in the baseline, and not run")
    return worse | missing


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("driver")
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--must-fail", action="store_true")
    arguments = parser.parse_args()
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        print("valgrind is not installed (apt-get install valgrind): nothing was counted")
        return SKIPPED
    key, figures = count(arguments.driver, valgrind)
    baseline = json.loads(BASELINE.read_text(encoding="utf-8")) if BASELINE.exists() else {}
    if arguments.update:
        baseline[key] = figures
        text = json.dumps(baseline, indent=2, sort_keys=True)
        BASELINE.write_text(text + "\n", encoding="utf-8")
        print(f"'{key}' written: {len(figures)} cases")
        return 0
    worse = judge(key, figures, baseline)
    if not arguments.must_fail:
        if worse or key in baseline:
            return 1 if worse else 0
        print(
            f"'{key}' is not in the baseline: memory traffic was judged, instructions only by 1.5 "
            f"times another compiler's; `python {Path(__file__).name} {arguments.driver} --update` "
            "on a commit that is known to be good adds it"
        )
        return SKIPPED
    unnoticed = {name for name in figures if not name.startswith("postprocess")} - worse
    if unnoticed:
        print(f"the planted copy was not noticed in: {', '.join(sorted(unnoticed))}")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
