"""A file is under its final name whole or not at all."""

import os
import signal
import stat
import subprocess
import sys

import pytest

from agp_edge.files import remove_leftovers, write_aside


def test_replaces_only_at_the_end(tmp_path):
    path = tmp_path / "new" / "model.onnx"
    with write_aside(path) as aside:
        assert aside.parent == path.parent
        assert aside.suffix == ".onnx"
        aside.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    with write_aside(path) as aside:
        aside.write_text("two")
        assert path.read_text() == "one"
    assert path.read_text() == "two"
    assert list(path.parent.iterdir()) == [path]


def test_error_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")

    def write_half():
        with write_aside(path) as aside:
            aside.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_file_has_ordinary_permissions(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("")
    with write_aside(tmp_path / "aside") as aside:
        aside.write_text("")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "aside")]
    assert modes[0] == modes[1]


def test_writer_may_replace_the_temporary_file(tmp_path):
    path = tmp_path / "a.bin"
    with write_aside(path) as aside:
        other = aside.with_name("other")
        other.write_text("whole")
        other.chmod(0o600)
        other.replace(aside)
    assert path.read_text() == "whole"
    plain = tmp_path / "plain"
    plain.write_text("")
    assert path.stat().st_mode == plain.stat().st_mode


def test_killed_while_writing(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from agp_edge.files import remove_leftovers, write_aside\n"
        "with write_aside(sys.argv[1]) as aside:\n"
        "    aside.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "a.json"
    path.write_text("old")
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    remove_leftovers(tmp_path, older_than=3600)
    assert len(list(tmp_path.iterdir())) == 2
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    remove_leftovers(tmp_path / "missing")
