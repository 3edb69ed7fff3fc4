"""A Jetson's power mode, clocks and throttling: what makes it slower than it is.

Read below a root folder, "/" on a real board: sysfs, /etc/nvpmodel.conf, and `nvpmodel -q` where
the mode stands in no file.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agp_edge.bench.system import GPU_NAMES, System

if TYPE_CHECKING:
    import os

__all__ = ["Jetson", "find_jetson"]

QUERY_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Jetson:
    """The board and what slows it down now."""

    model: str
    """E.g. "NVIDIA Jetson Orin Nano Developer Kit"."""

    release: str | None
    """Of Jetson Linux, e.g. "R36.4.3" (JetPack 6.2)."""

    warnings: tuple[str, ...]
    """One sentence each, with the command that helps."""


def find_jetson(root: str | os.PathLike[str] = "/") -> Jetson | None:
    """The Jetson that this is; None on any other machine.

    Args:
        root: where sys, proc, etc and var are.
    """
    folder = Path(root)
    release = _release(_text(folder / "etc/nv_tegra_release"))
    model = _text(folder / "proc/device-tree/model")
    if release is None and "jetson" not in model.lower():
        return None
    found = [_power_mode(folder), *_clocks(folder), *_throttling(System(root))]
    return Jetson(
        model=model or "Jetson",
        release=release,
        warnings=tuple(warning for warning in found if warning is not None),
    )


def _release(text: str) -> str | None:
    found = re.search(r"# (R\d+) \(release\), REVISION: ([\d.]+)", text)
    return f"{found[1]}.{found[2]}" if found else None


def _power_mode(root: Path) -> str | None:
    current = _current_mode(root)
    table = re.findall(
        r"^< POWER_MODEL ID=(\d+) NAME=(\S+) >", _text(root / "etc/nvpmodel.conf"), re.MULTILINE
    )
    modes = {int(number): name for number, name in table}
    if current is None or not modes:
        return None
    fastest = max(modes, key=lambda number: (*_rank(modes[number]), -number))
    if _rank(modes.get(current, "")) >= _rank(modes[fastest]):
        return None
    return (
        f"the power mode is {current} ({modes.get(current, 'unknown')}), the fastest is {fastest} "
        f"({modes[fastest]}): set it with `sudo nvpmodel -m {fastest}` if power and cooling allow"
    )


def _rank(name: str) -> tuple[int, int]:
    """MAXN_SUPER, then MAXN, then by watts."""
    watts = re.search(r"(\d+)W", name)
    if name.startswith("MAXN"):
        return (2 if "SUPER" in name else 1, 0)
    return (0, int(watts[1]) if watts else 0)


def _current_mode(root: Path) -> int | None:
    status = re.search(r"pmode:(\d+)", _text(root / "var/lib/nvpmodel/status"))
    if status:
        return int(status[1])
    program = shutil.which("nvpmodel")
    if program is None:
        return None
    try:
        answer = subprocess.run(
            [program, "-q"], capture_output=True, text=True, timeout=QUERY_SECONDS, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    # "NV Power Mode: 15W" and its number on the next line
    found = re.search(r"NV Power Mode:.*\n\s*(\d+)\s*$", answer, re.MULTILINE)
    return int(found[1]) if found else None


def _clocks(root: Path) -> list[str]:
    """`jetson_clocks` sets each clock's lower limit to its upper one."""
    unlocked = []
    for policy in sorted(root.glob("sys/devices/system/cpu/cpufreq/policy*")):
        limits = [_number(policy / f"scaling_{end}_freq") for end in ("min", "max")]
        if None not in limits and limits[0] != limits[1]:
            unlocked.append("the CPU's")
            break
    for device in sorted(root.glob("sys/class/devfreq/*")):
        name = _text(device / "device/of_node/name") or device.name
        if any(part in name for part in GPU_NAMES):
            limits = [_number(device / f"{end}_freq") for end in ("min", "max")]
            if None not in limits and limits[0] != limits[1]:
                unlocked.append("the GPU's")
                break
    if not unlocked:
        return []
    return [
        f"the clocks are not locked ({' and '.join(unlocked)} may fall between frames): lock them "
        "with `sudo jetson_clocks`"
    ]


def _throttling(system: System) -> list[str]:
    warnings = []
    for name, value in system.read().throttling.items():
        if value == 0:
            continue
        if "over-current" in name:
            warnings.append(
                f"the board has throttled {value} times since it started ({name} events): use a "
                "stronger power supply or a lower power mode"
            )
        elif name.startswith("cooling by"):
            warnings.append(f"the board is too hot and throttles ({name}): cool it better")
    return warnings


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdigit() else None
