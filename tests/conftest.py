"""SIGINT works in every test; those marked `gpu` run where the CUDA driver finds a GPU."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from agp_edge.errors import DeviceError
from agp_edge.gpu import find_gpus


def pytest_configure() -> None:
    # A shell starts background jobs with SIGINT ignored, and children inherit that: programs that
    # tests interrupt would go on for ever.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    marked = [report for report in skipped if "gpu" in report.keywords]
    if marked:
        terminalreporter.section("tests that need a GPU")
        terminalreporter.write_line(
            f"{len(marked)} tests marked gpu were left out, there is no NVIDIA GPU here; "
            "where one is: bash benchmarks/gpu_check.sh"
        )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked or os.environ.get("AGP_EDGE_REQUIRE_GPU") == "1":
        return
    try:
        find_gpus()
    except DeviceError as error:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=str(error)))


@pytest.fixture(scope="session")
def fake_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CUDA driver on the CPU (cpp/tests/fakes), compiled; for AGP_EDGE_CUDA_DRIVER."""
    compiler = os.environ.get("CXX") or shutil.which("c++")
    assert compiler, "the tests need a C++ compiler, as the installation did"
    path = tmp_path_factory.mktemp("driver") / "libfake_cuda.so"
    cpp = Path(__file__).parents[1] / "cpp"
    fakes, kernels = cpp / "tests/fakes", cpp / "tests/cuda_on_cpu"
    # as cpp/tests/CMakeLists.txt
    sources = [
        *fakes.glob("fake_cuda*.cpp"),
        *(fakes / "fake_kernels.cpp", fakes / "own_allocator.cpp"),
        *kernels.glob("*.cpp"),
    ]
    includes = [f"-I{folder}" for folder in (cpp / "tests", kernels, cpp / "src", cpp / "include")]
    options = ["-shared", "-fPIC", "-std=c++17", "-pthread", "-fvisibility=hidden", *includes]
    options += ["-Wl,-z,defs", "-Wl,-Bsymbolic"]
    subprocess.run([compiler, *options, *sources, "-o", path], check=True)
    return path
