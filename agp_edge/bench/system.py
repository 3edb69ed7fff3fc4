"""What the machine does meanwhile: clocks, governor, temperatures, power, throttling.

From sysfs, and from jetson-stats what that does not show. Every figure of sysfs is read below a
root folder, "/" on a real machine. What a machine does not have is left out: a virtual machine has
next to nothing, a Jetson nearly everything.
"""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agp_edge.bench.jetson_stats import JetsonStats

__all__ = ["Reading", "System"]

# Rails of a Jetson's INA monitors that carry the whole module's power; others are parts of them.
INPUT_RAILS = ("VDD_IN", "POM_5V_IN", "VIN")
GPU_NAMES = ("gpu", "gp10b", "gv11b", "ga10b")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The machine at one moment."""

    cpu_mhz: tuple[float, ...] = ()
    """Of each core."""

    gpu_mhz: float | None = None
    temperatures: dict[str, float] = field(default_factory=dict)
    """Degrees Celsius by thermal zone."""

    rails_w: dict[str, float] = field(default_factory=dict)
    """Watts by power rail."""

    throttling: dict[str, int] = field(default_factory=dict)
    """Counters that only grow, by name, and the state of passive cooling, 0 for none."""

    gpu_memory: int | None = None
    """Bytes of a Jetson's DRAM that its GPU has, of all programs."""

    energy_j: float | None = None
    """Of a counter that only grows (RAPL), where there is one that may be read."""

    @property
    def power_w(self) -> float | None:
        """Of the whole module: its input rail, else the sum of all rails; None without any."""
        for name in INPUT_RAILS:
            if name in self.rails_w:
                return self.rails_w[name]
        return sum(self.rails_w.values()) if self.rails_w else None


class System:
    """Reads one machine's sysfs and procfs, and jetson-stats where there is a connection."""

    def __init__(
        self, root: str | os.PathLike[str] = "/", jetson_stats: JetsonStats | None = None
    ) -> None:
        self._root = Path(root)
        self._stats = jetson_stats

    def read(self) -> Reading:
        """Everything that changes; a file that cannot be read is left out."""
        reading = Reading(
            cpu_mhz=tuple(
                value / 1e3 for value in self._cpu_files("cpufreq/scaling_cur_freq", _number)
            ),
            gpu_mhz=self._gpu_mhz(),
            temperatures=dict(self._temperatures()),
            rails_w=dict(self._rails()),
            throttling=dict(self._throttling()),
            energy_j=self._energy(),
        )
        stats = self._stats
        if stats is None:
            return reading
        return replace(
            reading,
            cpu_mhz=reading.cpu_mhz or stats.cpu_mhz(),
            gpu_mhz=stats.gpu_mhz() if reading.gpu_mhz is None else reading.gpu_mhz,
            temperatures=reading.temperatures or stats.temperatures(),
            rails_w=reading.rails_w or stats.rails_w(),
            gpu_memory=stats.gpu_memory(),
        )

    def describe(self) -> dict[str, Any]:
        """Everything that stays: processor, governor, limits of the clocks, power mode."""
        governors = sorted(set(self._cpu_files("cpufreq/scaling_governor", str)))
        stats = {} if self._stats is None else self._stats.describe()
        limits = [value / 1e3 for value in self._cpu_files("cpufreq/scaling_max_freq", _number)]
        return {
            "cpu": self._processor(),
            "cores": _usable_cores(),
            "board": self._board(),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "governors": governors,
            "cpu_limit_mhz": max(limits, default=None),
            "nvpmodel": self._nvpmodel() or stats.get("nvpmodel"),
            "jetson_stats": stats or None,
            "load_average": self._load_average(),
        }

    def _text(self, path: Path | str) -> str | None:
        try:
            return (self._root / path).read_text(encoding="utf-8", errors="replace").strip("\0\n ")
        except OSError:
            return None

    def _glob(self, pattern: str) -> list[Path]:
        return sorted(self._root.glob(pattern), key=lambda path: _natural(path.as_posix()))

    def _cpu_files(self, name: str, convert: Any) -> list[Any]:
        found = []
        for path in self._glob(f"sys/devices/system/cpu/cpu[0-9]*/{name}"):
            text = self._text(path)
            value = None if text is None else convert(text)
            if value is not None:
                found.append(value)
        return found

    def _gpu_mhz(self) -> float | None:
        for path in self._glob("sys/class/devfreq/*/cur_freq"):
            name = self._text(path.parent / "device/of_node/name") or path.parent.name
            if any(part in name for part in GPU_NAMES):
                value = _number(self._text(path))
                if value is not None:
                    return value / 1e6
        return None

    def _temperatures(self) -> Iterator[tuple[str, float]]:
        for zone in self._glob("sys/class/thermal/thermal_zone*"):
            value = _number(self._text(zone / "temp"))
            if value is not None:
                yield self._text(zone / "type") or zone.name, value / 1e3

    def _rails(self) -> Iterator[tuple[str, float]]:
        for monitor in self._glob("sys/class/hwmon/hwmon*"):
            if not (self._text(monitor / "name") or "").startswith("ina"):
                continue
            for label in self._glob(f"{monitor.relative_to(self._root)}/in*_label"):
                number = label.name[2 : -len("_label")]
                millivolts = _number(self._text(monitor / f"in{number}_input"))
                milliamperes = _number(self._text(monitor / f"curr{number}_input"))
                if millivolts is not None and milliamperes is not None:
                    yield self._text(label) or label.name, millivolts * milliamperes / 1e6
        # JetPack 4
        for label in self._glob("sys/bus/i2c/drivers/ina3221x/*/iio:device*/rail_name_*"):
            number = label.name.rpartition("_")[2]
            milliwatts = _number(self._text(label.parent / f"in_power{number}_input"))
            if milliwatts is not None:
                yield self._text(label) or label.name, milliwatts / 1e3

    def _throttling(self) -> Iterator[tuple[str, int]]:
        # over-current events of a Jetson
        for path in self._glob("sys/class/hwmon/hwmon*/oc*_event_cnt"):
            yield from self._counter(f"{path.name.partition('_')[0]} over-current", path)
        # thermal interrupts of an Intel core
        pattern = "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count"
        for path in self._glob(pattern):
            yield from self._counter(f"{path.parts[-3]} thermal", path)
        for device in self._glob("sys/class/thermal/cooling_device*"):
            kind = self._text(device / "type") or device.name
            if "fan" not in kind.lower():
                yield from self._counter(f"cooling by {kind}", device / "cur_state")
        text = self._text("sys/fs/cgroup/cpu.stat") or ""
        found = re.search(r"^nr_throttled (\d+)$", text, re.MULTILINE)
        if found:
            yield "CPU quota of the control group", int(found.group(1))

    def _counter(self, name: str, path: Path) -> Iterator[tuple[str, int]]:
        value = _number(self._text(path))
        if value is not None:
            yield name, int(value)

    def _energy(self) -> float | None:
        values = [
            _number(self._text(path / "energy_uj"))
            for path in self._glob("sys/class/powercap/intel-rapl:*")
            if path.name.count(":") == 1  # packages, not their parts
        ]
        known = [value for value in values if value is not None]
        return sum(known) / 1e6 if known else None

    def _processor(self) -> str:
        text = self._text("proc/cpuinfo") or ""
        found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
        return found.group(1).strip() if found else platform.processor() or platform.machine()

    def _board(self) -> str | None:
        return self._text("proc/device-tree/model") or self._text("sys/class/dmi/id/product_name")

    def _nvpmodel(self) -> str | None:
        """Number and name of a Jetson's power mode."""
        status = re.search(r"pmode:(\d+)", self._text("var/lib/nvpmodel/status") or "")
        if status is None:
            return None
        number = int(status.group(1))
        table = self._text("etc/nvpmodel.conf") or ""
        name = re.search(rf"<\s*POWER_MODEL\s+ID={number}\s+NAME=(\S+)\s*>", table)
        return f"{number} {name.group(1)}" if name else str(number)

    def _load_average(self) -> float | None:
        return _number((self._text("proc/loadavg") or "").partition(" ")[0])


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _natural(text: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
