"""benchmarks/gpu_check.*: what needs no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def gpu_check(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import gpu_check as module

    return module


def test_without_a_gpu_it_says_so_in_one_line(tmp_path):
    environment = {
        **os.environ,
        "AGP_EDGE_CUDA_DRIVER": str(tmp_path / "none.so"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", FOLDER / "gpu_check.sh"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 1
    assert done.stderr == "gpu_check: no NVIDIA GPU can be used here, nothing was checked\n"


def test_figures(gpu_check):
    assert gpu_check.percentiles([2.0] * 99 + [4.0])["p50_ms"] == 2.0
    assert gpu_check.growth([5, 7, 6, 7]) == 0
    assert gpu_check.growth([5, 7, 8, 9]) == 2


def test_its_manifest_is_one(gpu_check):
    from agp_edge import _core

    _core.check_manifest_json(gpu_check.manifest(), "gpu_check")
