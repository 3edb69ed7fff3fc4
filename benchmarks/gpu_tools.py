"""Other people's programs that gpu_check runs: where they are, how they are called, what they said.

Nothing here needs a GPU or imports agp_edge; the parsers are tested on recorded output.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

__all__ = [
    "SMI_FIELDS",
    "find_program",
    "junit_counts",
    "sanitizer_command",
    "sanitizer_findings",
    "smi_command",
    "smi_values",
    "trtexec_command",
    "trtexec_times",
]

# Beside PATH: the toolkit's folder, TensorRT's samples of a package and of JetPack.
FOLDERS = ("/usr/local/cuda/bin", "/usr/src/tensorrt/bin", "/usr/local/tensorrt/bin")

SMI_FIELDS = (
    "name", "driver_version", "vbios_version", "pstate", "persistence_mode",
    "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem",
    "power.limit", "power.draw", "temperature.gpu", "clocks_throttle_reasons.active",
    "ecc.mode.current", "pcie.link.gen.current", "pcie.link.width.current", "memory.total",
)  # fmt: skip


def find_program(name: str) -> str | None:
    """Path of a program, in PATH or where NVIDIA installs it."""
    found = shutil.which(name)
    if found is not None:
        return found
    return next((str(path) for folder in FOLDERS if (path := Path(folder, name)).exists()), None)


def smi_command(program: str) -> list[str]:
    """Asks for the clocks, limits and versions of GPU 0."""
    return [program, "-i", "0", f"--query-gpu={','.join(SMI_FIELDS)}",
            "--format=csv,noheader,nounits"]  # fmt: skip


def smi_values(output: str) -> dict[str, float | str | None]:
    """What nvidia-smi answered, by field; numbers in its units (MHz, W, Celsius, MiB).

    Raises:
        ValueError: it answered something else.
    """
    values = [value.strip() for value in output.strip().split(",")]
    if len(values) != len(SMI_FIELDS):
        raise ValueError(
            f"nvidia-smi answered {len(values)} fields, {len(SMI_FIELDS)} are expected: {output!r}"
        )
    return {field: _value(text) for field, text in zip(SMI_FIELDS, values, strict=True)}


def _value(text: str) -> float | str | None:
    if text in ("[N/A]", "N/A", "[Not Supported]", "[Unknown Error]"):
        return None
    return float(text) if re.fullmatch(r"-?\d+(\.\d+)?", text) else text


def sanitizer_command(program: str, tool: str, command: list[str]) -> list[str]:
    """`command` under compute-sanitizer, which then ends with 97 where it found something."""
    return [program, "--tool", tool, "--error-exitcode", "97", "--target-processes", "all",
            "--print-limit", "20", *command]  # fmt: skip


def sanitizer_findings(output: str) -> int:
    """Errors and hazards that the summaries of all processes name, together.

    Raises:
        ValueError: there is no summary, so that nothing was checked.
    """
    counts = re.findall(r"(?:ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard)", output)
    if not counts:
        raise ValueError("compute-sanitizer printed no summary: nothing was checked")
    return sum(int(errors or hazards) for errors, hazards in counts)


def junit_counts(path: Path) -> dict[str, Any]:
    """Of a pytest run: tests, failures, errors, skipped, and why each was skipped."""
    suites = list(ET.parse(path).iter("testsuite"))
    counts: dict[str, Any] = {
        key: sum(int(suite.get(key, "0")) for suite in suites)
        for key in ("tests", "failures", "errors", "skipped")
    }
    counts["skipped_because"] = sorted(
        {skipped.get("message", "") for suite in suites for skipped in suite.iter("skipped")}
    )
    return counts


def trtexec_command(program: str, plan: str, iterations: int) -> list[str]:
    """The plan alone, as a CUDA graph, without copies between host and device."""
    return [program, f"--loadEngine={plan}", "--useCudaGraph", "--useSpinWait",
            "--noDataTransfers", "--warmUp=500", f"--iterations={iterations}",
            "--percentile=50,99"]  # fmt: skip


def trtexec_times(output: str) -> dict[str, dict[str, float]]:
    """Lines "GPU Compute Time" and "Latency" of trtexec's summary, milliseconds by statistic.

    Raises:
        ValueError: there is no such line.
    """
    times: dict[str, dict[str, float]] = {}
    for title in ("GPU Compute Time", "Latency"):
        found = re.search(rf"\] {title}: (min = .*)", output)
        if found is not None:
            times[title] = {
                key: float(value)
                for key, value in re.findall(r"([\w()%]+) = ([\d.]+) ms", found[1])
            }
    if "GPU Compute Time" not in times:
        raise ValueError("trtexec printed no line 'GPU Compute Time': it measured nothing")
    return times
