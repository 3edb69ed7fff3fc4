"""benchmarks/gpu_check.*: everything but the GPU.

What it measures runs on the CUDA driver that is played on the CPU; what other programs print is
parsed from their output; the programs themselves are scripts that print it.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agp_edge import _core

ROOT = Path(__file__).parents[2]
SHELL = ROOT / "benchmarks/gpu_check.sh"
STEPS = [
    *("device", "tests", "memcheck", "racecheck", "bandwidth"),
    *("whole_frame_plan", "whole_frame_torch", "whole_frame_copy"),
    *("trtexec", "endurance", "device_after"),
]

SMI = (
    "NVIDIA H100 80GB HBM3, 570.86.15, 96.00.99.00.01, P0, Enabled, 1980, 2619, 1980, 2619, "
    "700.00, 118.44, 33, 0x0000000000000000, Enabled, 5, 16, 81559\n"
)
MEMCHECK = "========= COMPUTE-SANITIZER\n32 passed in 9.1s\n========= ERROR SUMMARY: {} errors\n"
RACECHECK = (
    "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n"
    "========= RACECHECK SUMMARY: {} hazards displayed (1 error, 0 warnings)\n"
)
TRTEXEC = """\
[11/24/2026-10:00:00] [I] === Performance summary ===
[11/24/2026-10:00:00] [I] Throughput: 5123.4 qps
[11/24/2026-10:00:00] [I] Latency: min = 0.19 ms, max = 0.31 ms, mean = 0.2 ms, \
median = 0.195 ms, percentile(50%) = 0.195 ms, percentile(99%) = 0.21 ms
[11/24/2026-10:00:00] [I] Enqueue Time: min = 0.002 ms, max = 0.01 ms, mean = 0.003 ms
[11/24/2026-10:00:00] [I] GPU Compute Time: min = 0.18 ms, max = 0.3 ms, mean = 0.19 ms, \
median = 0.185 ms, percentile(50%) = 0.185 ms, percentile(99%) = 0.2 ms
"""


def imported(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module(name)


@pytest.fixture
def tools(monkeypatch):
    return imported("gpu_tools", monkeypatch)


@pytest.fixture
def check(monkeypatch):
    return imported("gpu_check", monkeypatch)


def run_shell(*arguments: object, driver: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", SHELL, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "AGP_EDGE_CUDA_DRIVER": str(driver), "PYTHON": sys.executable},
    )


def test_without_a_gpu_it_says_so_in_one_line(tmp_path):
    done = run_shell(driver=tmp_path / "none.so")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("gpu_check: nothing was checked: no NVIDIA GPU can be used here")
    assert done.stderr.count("\n") == 1
    assert run_shell("--frmes", "3", driver=tmp_path / "none.so").returncode == 2


def test_a_dry_run_names_every_step_and_needs_no_gpu(fake_driver):
    done = run_shell("--dry-run", driver=fake_driver)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split()[2] for line in lines] == STEPS
    assert {line[:9] for line in lines} == {"would run", "left out "}
    assert all(len(line.split()) > 5 for line in lines)  # with a command, or a reason


def test_all_that_it_measures_runs_on_the_played_driver(fake_driver, tmp_path):
    if not _core.has_cuda_kernels():
        pytest.skip("this build has no CUDA kernels: nvcc was not found when it was compiled")
    done = run_shell(
        *(
            "--frames",
            9,
            "--whole-frames",
            5,
            "--side",
            32,
            "--runs",
            1,
            "--height",
            24,
            "--width",
            32,
            "--footprint",
            2000,
        ),
        *("--tests", "tests/agp_edge/gpu/test_failures_on_gpu.py"),
        *("--output", tmp_path / "check.json"),
        driver=fake_driver,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "failed: 0\nleft out: 7: device, memcheck, racecheck, " in done.stdout
    payload = json.loads((tmp_path / "check.json").read_text())
    assert payload["gpu"]["name"] == "Fake GPU 0"
    assert payload["gpu"]["played"] is True
    assert payload["aims"] == []  # such times are nobody's
    steps = payload["steps"]
    assert list(steps) == STEPS
    assert {step["status"] for step in steps.values()} == {"passed", "left out"}
    assert all(step["reason"] for step in steps.values() if step["status"] == "left out")
    assert steps["tests"]["tests"] == 4
    assert steps["tests"]["skipped"] == 0
    assert len(steps["bandwidth"]["kernels"]) == 2 * 15
    for kernel in steps["bandwidth"]["kernels"].values():
        assert kernel["us"] > 0
        assert kernel["share_of_copy"] > 0
    whole = steps["whole_frame_copy"]
    assert (whole["engine"], whole["recorded"], whole["frames"]) == ("copy", True, 5)
    for name in ("bare_engine", "bare_engine_on_the_gpu", "score_only", "all"):
        assert whole[name]["p99_ms"] >= whole[name]["p50_ms"] > 0
    assert whole["score_only"]["over_bare_us"] > 0
    assert steps["endurance"]["frames"] == 9
    assert len(steps["endurance"]["device_bytes"]) == 9
    assert steps["endurance"]["device_growth_bytes"] == 0
    assert (
        not (ROOT / "benchmarks/results/gpu_check.json").exists()
        or "Fake GPU" not in (ROOT / "benchmarks/results/gpu_check.json").read_text()
    )


def test_strict_counts_what_is_left_out(check, monkeypatch, capsys, tmp_path):
    step = check.Step("x", "does", lambda: {}, "it is not here")
    monkeypatch.setattr(check.Check, "steps", lambda self: [step])
    monkeypatch.setattr("agp_edge.gpu.find_gpus", lambda: ())
    monkeypatch.setattr(check, "versions", lambda: {"played": False})
    monkeypatch.setattr(_core, "has_cuda_kernels", lambda: True)
    output = ["--output", str(tmp_path / "x.json")]
    assert check.main(output) == 0
    assert check.main(["--strict", *output]) == 1
    assert "x: left out (it is not here)" in capsys.readouterr().out


def test_figures(monkeypatch):
    measures = imported("gpu_measures", monkeypatch)
    assert measures.percentiles([0.002] * 99 + [0.004])["p50_ms"] == 2.0
    assert measures.growth([5, 7, 6, 7]) == 0
    assert measures.growth([5, 7, 8, 9]) == 2
    for format in measures.FORMATS:
        frame = measures.frame_of(format, 6, 8)
        settings = {"height": 4, "width": 4, "mean": (0.0,) * 3, "std": (1.0,) * 3}
        assert _core.Preprocessor(**settings).run(frame, format).shape == (3, 4, 4)


def test_its_manifest_is_one(monkeypatch):
    manifest = imported("gpu_engines", monkeypatch).manifest(256)
    _core.check_manifest_json(manifest, "gpu_check")


def test_aims(check):
    whole = {"over_bare_us": 60.0, "over_bare_share": 0.01, "p99_over_p50": 1.05}
    kernels = {
        "bgr8 to float32": {"share_of_copy": 0.81},
        "nv12 to float16": {"share_of_copy": 0.5},
    }
    found = check.aims(
        {
            "whole_frame_plan": {"status": "passed", "score_only": whole},
            "whole_frame_torch": {"status": "failed", "reason": "out of memory"},
            "bandwidth": {"status": "passed", "kernels": kernels},
        }
    )
    assert [(aim["of"], aim["aim"], aim["met"]) for aim in found] == [
        ("whole_frame_plan", "over_bare_us", False),
        ("whole_frame_plan", "over_bare_share", True),
        ("whole_frame_plan", "p99_over_p50", True),
        ("bgr8 to float32", "share_of_copy", True),
        ("nv12 to float16", "share_of_copy", False),
    ]


def test_what_nvidia_smi_answers(tools):
    values = tools.smi_values(SMI)
    assert values["name"] == "NVIDIA H100 80GB HBM3"
    assert values["driver_version"] == "570.86.15"
    assert (values["clocks.sm"], values["power.limit"]) == (1980.0, 700.0)
    assert tools.smi_values(SMI.replace("118.44", "[N/A]"))["power.draw"] is None
    with pytest.raises(ValueError, match="answered 1 fields, 17 are expected"):
        tools.smi_values("No devices were found")


def test_what_the_sanitizer_says(tools):
    assert tools.sanitizer_findings(MEMCHECK.format(0)) == 0
    assert tools.sanitizer_findings(2 * MEMCHECK.format(3)) == 6  # of two processes
    assert tools.sanitizer_findings(RACECHECK.format(1)) == 1
    with pytest.raises(ValueError, match="printed no summary: nothing was checked"):
        tools.sanitizer_findings("32 passed in 9.1s")


def test_what_trtexec_says(tools):
    times = tools.trtexec_times(TRTEXEC)
    assert times["GPU Compute Time"]["percentile(99%)"] == 0.2
    assert times["GPU Compute Time"]["median"] == 0.185
    assert times["Latency"]["min"] == 0.19
    with pytest.raises(ValueError, match="measured nothing"):
        tools.trtexec_times("[E] Engine could not be created")


def test_what_pytest_reports(tools, tmp_path):
    (tmp_path / "test_x.py").write_text(
        "import pytest\ndef test_a(): pass\ndef test_b(): pytest.skip('no camera')\n"
    )
    report = tmp_path / "report.xml"
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", tmp_path / "test_x.py"],
        capture_output=True,
        check=True,
        cwd=tmp_path,
    )
    assert tools.junit_counts(report) == {
        "tests": 2, "failures": 0, "errors": 0, "skipped": 1, "skipped_because": ["no camera"],
    }  # fmt: skip


@pytest.fixture
def programs(tmp_path, monkeypatch, check):
    """Programs that print what is given, on a machine that seems to have a GPU."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(check.gpu_engines, "is_played", lambda: False)
    monkeypatch.setattr(check.gpu_engines, "missing_for", lambda name, model: None)

    def make(name: str, output: str, code: int = 0) -> None:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\nexit {code}\n")
        path.chmod(0o755)

    return make


def outcome(check, name: str, folder: Path) -> dict:
    steps = check.Check(check.parsed([]), folder).steps()
    return check.perform(next(step for step in steps if step.name == name))


def test_steps_of_other_programs(check, programs, tmp_path, monkeypatch):
    for name in ("nvidia-smi", "compute-sanitizer", "trtexec", "tensorrt_rtx"):
        if shutil.which(name) is None:
            record = outcome(check, {"nvidia-smi": "device", "compute-sanitizer": "memcheck"}.get(
                name, "trtexec"), tmp_path)  # fmt: skip
            assert record["status"] == "left out"
            assert "found" in record["reason"]
    programs("nvidia-smi", SMI)
    record = outcome(check, "device", tmp_path)
    assert (record["status"], record["clocks.max.sm"]) == ("passed", 1980.0)
    programs("nvidia-smi", "Failed to initialize NVML", 9)
    record = outcome(check, "device_after", tmp_path)
    assert record["status"] == "failed"
    assert "ended with 9: Failed to initialize NVML" in record["reason"]

    programs("compute-sanitizer", MEMCHECK.format(0))
    assert outcome(check, "memcheck", tmp_path)["status"] == "passed"
    programs("compute-sanitizer", RACECHECK.format(1), 97)
    record = outcome(check, "racecheck", tmp_path)
    assert (record["status"], record["findings"]) == ("failed", 1)
    programs("compute-sanitizer", "Target application returned an error", 1)
    assert "nothing was checked" in outcome(check, "memcheck", tmp_path)["reason"]

    plan = tmp_path / "m.plan"
    plan.write_bytes(b"ftrt" + bytes(60))
    opened = check.gpu_engines.Opened(None, "", plan)
    monkeypatch.setattr(check.gpu_engines, "open_engine", lambda *_: opened)
    programs("trtexec", TRTEXEC)
    record = outcome(check, "trtexec", tmp_path)
    assert (record["status"], record["program"]) == ("passed", "trtexec")
    assert record["GPU Compute Time"]["min"] == 0.18
