"""All tests marked `gpu` on a CUDA driver that is played on the CPU, in a process of their own.

The kernels run thread by thread, the driver is stricter than a real one (cpp/tests/fakes), and what
is proven is order, lifetimes, arithmetic and messages; nothing about speed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from agp_edge import _core

ROOT = Path(__file__).parents[3]


def test_tests_marked_gpu(fake_driver, tmp_path):
    if not _core.has_cuda_kernels():
        pytest.skip("this build has no CUDA kernels: nvcc was not found when it was compiled")
    report = tmp_path / "report.xml"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider",
         f"--junitxml={report}", "tests/agp_edge/gpu", "tests/parity"],
        cwd=ROOT,
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")},
            "AGP_EDGE_CUDA_DRIVER": str(fake_driver),
            "AGP_EDGE_REQUIRE_GPU": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    suite = next(ET.parse(report).iter("testsuite"))
    assert int(suite.get("tests", "0")) > 70
    assert (suite.get("skipped"), suite.get("failures"), suite.get("errors")) == ("0", "0", "0")
