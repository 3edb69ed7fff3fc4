"""README's code blocks do what they say, in order, in one folder, on the demo's real photographs.

The two blocks marked `<!-- test: setup -->` set up the environment itself; CI is inside the second,
and of the first the command after the installation is run here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(
    r"(?P<mark><!-- test: setup -->\n)?```(?P<language>bash|python)\n(?P<code>.*?)```", re.DOTALL
)


# 3: an image is anomalous, which is what those photographs are there for; 4: solar cells that look
# alike stand on both sides of the demo's split.
EXPECTED = {"agp-edge score": (0, 3), "agp-edge data": (0, 4)}


class Block(NamedTuple):
    """One fenced block of README.md."""

    language: str
    code: str
    is_setup: bool


def blocks() -> list[Block]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [Block(m["language"], m["code"], m["mark"] is not None) for m in BLOCK.finditer(text)]


def run(command: list[str], folder: Path, allowed: tuple[int, ...] = (0,)) -> str:
    # The commands of this environment come first, as they do in an activated one.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in allowed, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_setup_blocks_are_the_two_commands() -> None:
    setup = [block.code.strip() for block in blocks() if block.is_setup]
    assert len(setup) == 2
    assert "\n" not in setup[0]
    assert setup[1] == "bash tests/run.sh"
    assert "bash tests/run.sh" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.timeout(1800)
def test_every_other_block_runs_after_the_demo(tmp_path: Path) -> None:
    demo = blocks()[0].code.strip().rpartition(" && ")[2].replace(".venv/bin/", "")
    output = run(["bash", "-c", demo], tmp_path)
    assert "AUROC" in output
    assert "CC BY-NC-SA" in output
    assert (tmp_path / "runs/demo/report.html").stat().st_size > 10_000

    shutil.copytree(tmp_path / "runs/demo/data", tmp_path / "photos")
    shutil.copytree(tmp_path / "photos/test/good", tmp_path / "line")
    shutil.copytree(tmp_path / "photos/test", tmp_path / "known")
    for block in blocks():
        if block.is_setup:
            continue
        if block.language == "python":
            assert "True" in run([sys.executable, "-c", block.code], tmp_path)
            assert (tmp_path / "overlay.png").stat().st_size > 1_000
            continue
        for line in block.code.splitlines():
            run(["bash", "-c", line], tmp_path, EXPECTED.get(" ".join(line.split()[:2]), (0,)))
    assert (tmp_path / "bottle.plan").stat().st_size > 100_000
    assert list((tmp_path / "overlays").iterdir())
