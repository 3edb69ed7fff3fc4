"""All that has to be run where an NVIDIA GPU is, as one command: `bash benchmarks/gpu_check.sh`.

Every step passes, fails, or is left out with a reason; none is left out in silence. Writes
benchmarks/results/gpu_check.json with device, driver, clocks, versions and each step's numbers.

    python benchmarks/gpu_check.py [--dry-run] [--strict] [--model MODEL.onnx] [--frames 100000]

--dry-run lists what would be run here and what would be left out, and needs no GPU. With --strict a
step that is left out counts as one that failed. Exit codes: 0, 1 (a step failed), 2 (usage).
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gpu_engines
import gpu_measures
import gpu_tools
from provenance import write_result

ROOT = Path(__file__).parents[1]
# Desktop GPU, 640 x 480 frames to 256 pixels; large frames for the kernels.
AIMS = {"over_bare_us": 50.0, "over_bare_share": 0.05, "p99_over_p50": 1.1, "share_of_copy": 0.8}


@dataclass(frozen=True)
class Step:
    """One thing to do."""

    name: str
    does: str
    run: Callable[[], dict[str, Any]]
    missing: str | None = None
    """Why it cannot be done here."""


class Failed(Exception):
    """What a step found; `data` is kept beside it."""

    def __init__(self, reason: str, data: dict[str, Any] | None = None) -> None:
        super().__init__(reason)
        self.data = data or {}


class Check:
    """The steps for this machine, and what they share."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.arguments = arguments
        self.folder = folder
        self.opened: dict[str, gpu_engines.Opened] = {}
        self.missing = {
            name: gpu_engines.missing_for(name, arguments.model) for name in gpu_engines.ENGINES
        }

    def steps(self) -> list[Step]:
        """All of them, in order."""
        arguments = self.arguments
        steps = [self._smi("device"), self._tests()]
        steps += [self._sanitizer(tool) for tool in ("memcheck", "racecheck")]
        steps.append(
            Step(
                "bandwidth",
                "each preprocessing kernel beside a copy on the GPU, by CUDA events",
                lambda: gpu_measures.bandwidth(
                    height=arguments.height,
                    width=arguments.width,
                    side=arguments.side,
                    footprint=arguments.footprint,
                    runs=arguments.runs,
                ),
            )
        )
        for name, missing in self.missing.items():
            steps.append(
                Step(
                    f"whole_frame_{name}",
                    f"frames of 640x480 beside the engine alone ({name})",
                    lambda name=name: gpu_measures.whole_frames(
                        self._engine(name), arguments.whole_frames
                    ),
                    missing,
                )
            )
        steps.append(self._trtexec())
        longest = next(name for name in gpu_engines.ENGINES if self.missing[name] is None)
        steps.append(
            Step(
                "endurance",
                f"{arguments.frames} frames without growth of memory (engine: {longest})",
                lambda: gpu_measures.endurance(self._engine(longest), arguments.frames),
            )
        )
        steps.append(self._smi("device_after"))
        return steps

    def _engine(self, name: str) -> gpu_engines.Opened:
        if name not in self.opened:
            self.opened[name] = gpu_engines.open_engine(
                name, self.arguments.model, self.folder, self.arguments.side
            )
        return self.opened[name]

    def _smi(self, name: str) -> Step:
        program = gpu_tools.find_program("nvidia-smi")
        missing = None
        if gpu_engines.is_played():
            missing = "the CUDA driver is played on the CPU"
        elif program is None:
            missing = "nvidia-smi was not found (a Jetson has none: see `agp-edge doctor` there)"
        command = gpu_tools.smi_command(program or "nvidia-smi")
        return Step(
            name,
            shlex.join(command),
            lambda: dict(gpu_tools.smi_values(self._output(command))),
            missing,
        )

    def _tests(self) -> Step:
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider",
                   *self.arguments.tests]  # fmt: skip

        def run() -> dict[str, Any]:
            report = self.folder / "tests.xml"
            done = self._run([*command, f"--junitxml={report}"])
            if not report.exists():
                raise Failed(f"pytest ended with {done.returncode}: {_end(done)}")
            counts = gpu_tools.junit_counts(report)
            if done.returncode != 0 or counts["tests"] == 0:
                raise Failed(f"pytest ended with {done.returncode}: {_end(done)}", counts)
            return counts

        return Step("tests", shlex.join(["AGP_EDGE_REQUIRE_GPU=1", *command]), run)

    def _sanitizer(self, tool: str) -> Step:
        program = gpu_tools.find_program("compute-sanitizer")
        missing = None
        if gpu_engines.is_played():
            missing = "the CUDA driver is played on the CPU"
        elif program is None:
            missing = "compute-sanitizer was not found (it comes with the CUDA toolkit)"
        command = gpu_tools.sanitizer_command(
            program or "compute-sanitizer",
            tool,
            [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider",
             "tests/parity", "tests/agp_edge/gpu"],
        )  # fmt: skip

        def run() -> dict[str, Any]:
            done = self._run(command)
            found = {"findings": gpu_tools.sanitizer_findings(done.stdout + done.stderr)}
            if done.returncode != 0 or found["findings"]:
                raise Failed(f"{tool} ended with {done.returncode}: {_end(done)}", found)
            return found

        return Step(tool, shlex.join(["AGP_EDGE_REQUIRE_GPU=1", *command]), run, missing)

    def _trtexec(self) -> Step:
        # The program of TensorRT for RTX has the same options.
        programs = {name: gpu_tools.find_program(name) for name in ("trtexec", "tensorrt_rtx")}
        missing = self.missing["plan"]
        if missing is not None:
            missing = f"there is no plan: {missing}"
        elif not any(programs.values()):
            missing = "neither trtexec nor tensorrt_rtx was found (TensorRT's bin folder in PATH)"

        def run() -> dict[str, Any]:
            from agp_edge.engines.tensorrt import plan_flavour  # noqa: PLC0415

            plan = str(self._engine("plan").plan)
            name = "tensorrt_rtx" if plan_flavour(plan) == "rtx" else "trtexec"
            program = programs[name]
            if program is None:
                raise Failed(f"the plan needs {name}, which was not found")
            command = gpu_tools.trtexec_command(program, plan, self.arguments.whole_frames)
            return {"program": name, **gpu_tools.trtexec_times(self._output(command))}

        command = gpu_tools.trtexec_command("trtexec", "PLAN", self.arguments.whole_frames)
        return Step("trtexec", shlex.join(command), run, missing)

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "AGP_EDGE_REQUIRE_GPU": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    def _output(self, command: list[str]) -> str:
        done = self._run(command)
        if done.returncode != 0:
            raise Failed(f"{command[0]} ended with {done.returncode}: {_end(done)}")
        return done.stdout


def _end(done: subprocess.CompletedProcess[str]) -> str:
    return " / ".join((done.stdout + done.stderr).strip().splitlines()[-8:])


def perform(step: Step) -> dict[str, Any]:
    """The step's record: status, seconds, numbers, and a reason where it did not pass."""
    if step.missing is not None:
        return {"status": "left out", "reason": step.missing}
    start = time.monotonic()
    try:
        record = {"status": "passed", **step.run()}
    except Failed as failure:
        record = {"status": "failed", "reason": str(failure), **failure.data}
    except Exception as error:  # the other steps go on
        record = {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
    return {**record, "seconds": round(time.monotonic() - start, 1)}


def aims(records: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Each aim with what was measured; only of steps that passed."""
    found = []

    def add(of: str, aim: str, value: float, met: bool) -> None:
        found.append({"of": of, "aim": aim, "limit": AIMS[aim], "measured": value, "met": met})

    for name, record in records.items():
        if record["status"] != "passed":
            continue
        if name.startswith("whole_frame_"):
            for aim in ("over_bare_us", "over_bare_share", "p99_over_p50"):
                value = record["score_only"][aim]
                add(name, aim, value, value < AIMS[aim])
        if name == "bandwidth":
            for kernel, numbers in record["kernels"].items():
                value = numbers["share_of_copy"]
                add(kernel, "share_of_copy", value, value >= AIMS["share_of_copy"])
    return found


def dry_run(steps: list[Step]) -> None:
    """What would be done here, one line a step."""
    for step in steps:
        if step.missing is None:
            print(f"would run  {step.name:<18} {step.does}")
        else:
            print(f"left out   {step.name:<18} {step.missing}")


def versions() -> dict[str, Any]:
    """The GPU as its driver describes it, the kernels' compiler, and whether all is played."""
    from agp_edge import _core  # noqa: PLC0415
    from agp_edge.gpu import find_gpus  # noqa: PLC0415

    gpu = find_gpus()[0]
    compiler = _core.cuda_compiler_version()
    return {
        "name": gpu.name,
        "compute_capability": "{}.{}".format(*gpu.compute_capability),
        "driver_cuda": "{}.{}".format(*gpu.driver_cuda),
        "kernels_compiled_with_cuda": f"{compiler // 1000}.{compiler % 1000 // 10}",
        "memory_bytes": _core.cuda_memory()[1],
        "tensorrt_modules": list(_core.tensorrt_modules()),
        "played": gpu_engines.is_played(),
    }


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dry-run", action="store_true", help="list the steps, do nothing")
    parser.add_argument("--strict", action="store_true", help="a step left out is a failure")
    parser.add_argument("--model", type=Path, help=".onnx file of ours for the plan")
    parser.add_argument("--frames", type=int, default=100_000, help="of the endurance step")
    parser.add_argument("--whole-frames", type=int, default=5000, help="of each way")
    parser.add_argument("--runs", type=int, default=40, help="of each kernel")
    parser.add_argument("--side", type=int, default=256, help="of the network's input")
    parser.add_argument("--height", type=int, default=3000, help="of the kernels' frames")
    parser.add_argument("--width", type=int, default=4096, help="of the kernels' frames")
    parser.add_argument(
        "--footprint",
        type=int,
        default=512 << 20,
        help="bytes that a pass of a kernel goes through",
    )
    parser.add_argument("--tests", nargs="+", default=["tests"], help="folders of tests")
    parser.add_argument("--output", type=Path, help="JSON file; default: benchmarks/results")
    return parser.parse_args(arguments)


def main(given: list[str] | None = None) -> int:
    arguments = parsed(sys.argv[1:] if given is None else given)
    from agp_edge import DeviceError, _core  # noqa: PLC0415
    from agp_edge.gpu import find_gpus  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        check = Check(arguments, Path(folder))
        if arguments.dry_run:
            dry_run(check.steps())
            return 0
        try:
            find_gpus()
        except DeviceError as error:
            print(f"gpu_check: nothing was checked: {error}", file=sys.stderr)
            return 1
        if not _core.has_cuda_kernels():
            print(
                "gpu_check: nothing was checked: this agp_edge was built without nvcc and has no "
                "kernels; install the CUDA toolkit and build it again",
                file=sys.stderr,
            )
            return 1
        records: dict[str, dict[str, Any]] = {}
        for step in check.steps():
            print(f"{step.name} ...", flush=True)
            records[step.name] = perform(step)
            reason = records[step.name].get("reason")
            print(f"{step.name}: {records[step.name]['status']}{f' ({reason})' if reason else ''}")
        gpu = versions()
        payload = {
            "gpu": gpu,
            "steps": records,
            "aims": [] if gpu["played"] else aims(records),
        }
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(payload, indent=1) + "\n")
    elif gpu["played"]:
        print("gpu_check: the CUDA driver is played on the CPU: its times are not kept")
    else:
        print(write_result("gpu_check", payload))
    for aim in payload["aims"]:
        print("met  " if aim["met"] else "MISSED", aim["of"], aim["aim"], aim["measured"])
    by_status = {
        status: [name for name, record in records.items() if record["status"] == status]
        for status in ("passed", "failed", "left out")
    }
    for status, names in by_status.items():
        print(f"{status}: {len(names)}{': ' + ', '.join(names) if names else ''}")
    return 1 if by_status["failed"] or (arguments.strict and by_status["left out"]) else 0


if __name__ == "__main__":
    sys.exit(main())
