"""The CUDA driver's answers, from a stand-in driver compiled here: CI has no GPU."""

import json
import os
import shutil
import subprocess
import sys

import pytest

DRIVER = r"""
#include <string.h>
static const char *const names[] = {"Orin", "NVIDIA GeForce RTX 4090"};
static const int capabilities[][2] = {{8, 7}, {8, 9}};
int cuInit(unsigned flags) { return flags == 0 ? INIT_STATUS : 1; }
int cuDeviceGetCount(int *count) { *count = DEVICES; return 0; }
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
int cuDeviceGet(int *device, int index) { *device = 100 + index; return 0; }
int cuDeviceGetName(char *name, int length, int device) {
  strncpy(name, names[device - 100], length);
  return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  if (attribute != 75 && attribute != 76) return 1;
  *value = capabilities[device - 100][attribute - 75];
  return 0;
}
int cuGetErrorString(int status, const char **text) {
  *text = status == 999 ? 0 : "no CUDA-capable device is detected";
  return 0;
}
"""

ASK = """
import json
from dataclasses import asdict
from agp_edge import DeviceError
from agp_edge.gpu import find_gpus
try:
    print(json.dumps([asdict(gpu) for gpu in find_gpus()]))
except DeviceError as error:
    print(json.dumps(str(error)))
"""


@pytest.fixture
def python_with_driver(tmp_path):
    compiler = shutil.which("cc") or shutil.which("c++")
    assert compiler, "the tests need the C++ compiler that the package needs"

    def run(*arguments: str, status: int = 0, devices: int = 2) -> subprocess.CompletedProcess:
        (tmp_path / "driver.c").write_text(DRIVER)
        subprocess.run(
            [compiler, "-x", "c", "-shared", "-fPIC", f"-DINIT_STATUS={status}",
             f"-DDEVICES={devices}", "-o", tmp_path / "libcuda.so.1", tmp_path / "driver.c"],
            check=True,
        )  # fmt: skip
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
        )

    return run


def test_devices(python_with_driver):
    done = python_with_driver("-c", ASK)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        {"name": "Orin", "compute_capability": [8, 7], "driver_cuda": [12, 6]},
        {"name": "NVIDIA GeForce RTX 4090", "compute_capability": [8, 9], "driver_cuda": [12, 6]},
    ]


def test_no_device(python_with_driver):
    answer = json.loads(python_with_driver("-c", ASK, devices=0).stdout)
    assert "the driver runs and lists no device" in answer


@pytest.mark.parametrize(
    ("status", "reason"), [(100, "no CUDA-capable device is detected"), (999, "unknown")]
)
def test_a_driver_that_does_not_start(status, reason, python_with_driver):
    answer = json.loads(python_with_driver("-c", ASK, status=status).stdout)
    assert f"cuInit failed with CUDA error {status} ({reason})" in answer


def test_doctor_lists_them(python_with_driver):
    done = python_with_driver("-m", "agp_edge", "doctor", "--json")
    assert done.returncode == 0, done.stderr
    gpus = [finding for finding in json.loads(done.stdout) if finding["name"].startswith("GPU: ")]
    assert [gpu["name"] for gpu in gpus] == [
        "GPU: Orin, compute capability 8.7",
        "GPU: NVIDIA GeForce RTX 4090, compute capability 8.9",
    ]
    assert gpus[0]["version"] == "driver for CUDA 12.6"
    assert gpus[0]["path"].endswith("libcuda.so.1")


def test_a_plan_needs_more_of_the_driver_than_listing_gpus(
    python_with_driver, small_model, tmp_path
):
    """What this stand-in lacks is named; nothing is called that is not there."""
    from agp_edge.plan.build import plan_from_onnx

    plan_from_onnx(small_model, tmp_path / "m.plan", backend="rtx", targets=(86,))
    done = python_with_driver(
        "-c", f"import agp_edge; agp_edge.Detector({str(tmp_path)!r} + '/m.plan')"
    )
    last = done.stderr.strip().splitlines()[-1]
    assert "DeviceError: " in last
    assert "libcuda.so.1" in last
