"""What jetson-stats says of a Jetson, where it is installed and its service runs.

Its client (`jtop`) reads a service, so that it also works where a container shows no sysfs. Its
figures fill in what sysfs does not show; units are those of its documentation: kHz, mW, KB.
"""

from __future__ import annotations

import importlib
import importlib.util
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["JetsonStats", "open_jetson_stats"]


class JetsonStats:
    """One connection to the service, or the reason why there is none."""

    def __init__(self, client: Any, version: str | None, problem: str | None = None) -> None:
        self._client = client
        self._version = version
        self._problem = problem

    def describe(self) -> dict[str, Any]:
        """Version, what is wrong, power mode, and whether jetson_clocks holds clocks at most."""
        found: dict[str, Any] = {"version": self._version, "problem": self._problem}
        if self._client is not None:
            model, clocks = self._client.nvpmodel, self._client.jetson_clocks
            found["nvpmodel"] = None if model is None else f"{model.id} {model.name}"
            found["jetson_clocks"] = None if clocks is None else bool(clocks)
        return found

    def cpu_mhz(self) -> tuple[float, ...]:
        """Of each core that is online."""
        cores = self._client.cpu["cpu"] if self._client else []
        return tuple(core["freq"]["cur"] / 1e3 for core in cores if core["online"])

    def gpu_mhz(self) -> float | None:
        """Of the first GPU."""
        gpus = list(self._client.gpu.values()) if self._client else []
        clock = gpus[0].get("freq", {}).get("cur") if gpus else None
        return None if clock is None else clock / 1e3

    def temperatures(self) -> dict[str, float]:
        """Degrees Celsius of each zone that is online."""
        zones: Mapping[str, Any] = self._client.temperature if self._client else {}
        return {name: float(zone["temp"]) for name, zone in zones.items() if zone["online"]}

    def rails_w(self) -> dict[str, float]:
        """Watts by rail, the module's input among them where the board has it."""
        if not self._client:
            return {}
        power = self._client.power
        rails = {**power["rail"]}
        if "name" in power["tot"]:  # else it is the sum of the rails
            rails[power["tot"]["name"]] = power["tot"]
        return {
            name: rail["power"] / 1e3 for name, rail in rails.items() if rail.get("online", True)
        }

    def gpu_memory(self) -> int | None:
        """Bytes of the shared DRAM that all programs' GPU memory takes."""
        shared = self._client.memory["RAM"].get("shared") if self._client else None
        return None if shared is None else int(shared) * 1024


@contextmanager
def open_jetson_stats() -> Iterator[JetsonStats | None]:
    """Connects to jtop's service; None where jetson-stats is not installed."""
    if importlib.util.find_spec("jtop") is None:
        yield None
        return
    client, version = None, None
    try:
        jtop = importlib.import_module("jtop")
        version = getattr(jtop, "__version__", None)
        client = jtop.jtop()
        client.start()
    except Exception as error:  # its own class derives from no other: no reason to stop here
        yield JetsonStats(None, version, " ".join(str(error).split()))
        return
    try:
        yield JetsonStats(client, version)
    finally:
        client.close()
