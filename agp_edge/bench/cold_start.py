"""Cold start: a new process, from its start to its first verdict, several times."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agp_edge.errors import Error

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["STEPS", "cold_start"]

STEPS = ("interpreter", "imports", "open", "first_verdict", "whole")

# perf_counter is one clock for all processes of a Linux machine (CLOCK_MONOTONIC); the child says
# when it got where, the parent when it was started.
CHILD = """
import sys, time
marks = [time.perf_counter_ns()]
import json
arguments = json.loads(sys.argv[1])
import numpy
import agp_edge
import agp_edge._core
frame = numpy.load(arguments["frame"], mmap_mode="r")
marks.append(time.perf_counter_ns())
detector = agp_edge.Detector(arguments["model"], **arguments["options"])
marks.append(time.perf_counter_ns())
detector.score(numpy.asarray(frame), format=arguments["format"])
marks.append(time.perf_counter_ns())
print(json.dumps(marks))
"""


def cold_start(
    model: str | os.PathLike[str],
    frame: NDArray[Any],
    *,
    runs: int = 5,
    frame_format: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Starts processes that open the model and score one frame.

    The disk's cache is as the machine has it: after the first run files come from memory. Each run
    is a new interpreter; what a deployment in C++ saves is the first two steps.

    Args:
        model: as for `agp_edge.Detector`.
        frame: the one that is scored; it is handed over in a file that the child maps.
        frame_format: as `format` of `Detector.score`.
        runs: number of processes, one after the other.
        options: as for `agp_edge.Detector`; JSON types.

    Returns:
        `runs` and `steps_ms`: for each of `STEPS` the milliseconds of each run.

    Raises:
        Error: a process failed; its own last line is in the message.
    """
    rows: list[list[float]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frame.npy"
        np.save(path, frame)
        arguments = json.dumps(
            {
                "model": os.fspath(model),
                "frame": str(path),
                "format": frame_format,
                "options": options,
            }
        )
        for _ in range(runs):
            started = time.perf_counter_ns()
            done = subprocess.run(
                [sys.executable, "-c", CHILD, arguments],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                reason = (done.stderr.strip() or "it said nothing").splitlines()[-1]
                raise Error(f"the cold start of '{model}' failed: {reason}")
            marks = [started, *json.loads(done.stdout.splitlines()[-1])]
            steps = [(b - a) / 1e6 for a, b in itertools.pairwise(marks)]
            rows.append([*steps, (marks[-1] - started) / 1e6])
    return {
        "runs": runs,
        "steps_ms": dict(
            zip(STEPS, (list(column) for column in zip(*rows, strict=True)), strict=True)
        ),
    }
