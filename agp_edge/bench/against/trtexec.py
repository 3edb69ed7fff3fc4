"""NVIDIA's trtexec on the same plan: the network alone, as that tool times it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from agp_edge.errors import DependencyError, Error

__all__ = ["find_trtexec", "run_trtexec"]

# Where JetPack and the tar file put it, outside of PATH.
USUAL_PLACE = "/usr/src/tensorrt/bin/trtexec"


def find_trtexec() -> str:
    """Path of the program.

    Raises:
        DependencyError: it is not installed.
    """
    found = shutil.which("trtexec") or shutil.which(USUAL_PLACE)
    if found is None:
        raise DependencyError(
            "trtexec is not installed here: it comes with TensorRT's own packages "
            f"(apt: libnvinfer-bin) and is looked for in PATH and in {USUAL_PLACE}"
        )
    return found


def run_trtexec(plan: str | os.PathLike[str], *, duration_s: float) -> dict[str, Any]:
    """Times the plan with trtexec: synthetic tensors, no frame, one inference enqueued ahead.

    Returns:
        `latency_ms` and `compute_ms`: p50, p90 and p99 of host latency and of GPU compute time, and
        the number of `iterations`.

    Raises:
        DependencyError: trtexec is not installed.
        Error: it failed, or wrote no times.
    """
    program = find_trtexec()
    with tempfile.TemporaryDirectory() as folder:
        times = Path(folder) / "times.json"
        command = [
            program,
            f"--loadEngine={os.fspath(plan)}",
            f"--exportTimes={times}",
            f"--duration={max(1, round(duration_s))}",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not times.exists():
            lines = (done.stdout + done.stderr).strip().splitlines() or ["it said nothing"]
            wrong = [line for line in lines if "[E]" in line] or lines
            raise Error(f"trtexec failed on '{plan}': {wrong[-1].strip()}")
        rows = json.loads(times.read_text(encoding="utf-8"))
    if not rows or not {"latencyMs", "computeMs"} <= set(rows[0]):
        raise Error(f"trtexec wrote no latencyMs and computeMs for '{plan}'")
    return {
        "iterations": len(rows),
        **{
            name: [float(v) for v in np.percentile([row[key] for row in rows], (50, 90, 99))]
            for name, key in (("latency_ms", "latencyMs"), ("compute_ms", "computeMs"))
        },
    }
