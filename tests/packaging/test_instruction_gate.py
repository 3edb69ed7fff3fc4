"""What the gate of instruction counts says of compilers that it knows, and of others."""

import importlib.util
from pathlib import Path

import pytest

GATE = Path(__file__).parents[2] / "cpp/tests/instructions/gate.py"


@pytest.fixture(scope="module")
def gate():
    spec = importlib.util.spec_from_file_location("gate", GATE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def figures(instructions, lines=10_000):
    return {"case": {"instructions": instructions, "lines": lines}}


BASELINE = {"gcc-12 avx2": figures(1000), "clang-14 avx2": figures(1200)}


@pytest.mark.parametrize(
    ("key", "found", "is_worse"),
    [
        ("gcc-12 avx2", figures(1019), False),
        ("gcc-12 avx2", figures(1021), True),  # though clang's count is higher
        ("gcc-12 avx2", figures(900), False),
        ("gcc-13 avx2", figures(1700), False),  # 1.5 times clang's
        ("gcc-13 avx2", figures(1900), True),
        ("gcc-12 baseline", figures(9000), False),  # without AVX2: nothing to compare with
        ("gcc-13 avx2", figures(1000, lines=20_000), True),  # a copy, with any compiler
        ("gcc-12 baseline", figures(9000, lines=20_000), True),
        ("gcc-12 avx2", {**figures(1000), "new": figures(1)["case"]}, True),
        ("gcc-12 avx2", {"other": figures(1)["case"]}, True),  # and one is gone
    ],
)
def test_judged(gate, key, found, is_worse):
    assert bool(gate.judge(key, found, BASELINE)) is is_worse


@pytest.mark.parametrize(
    "case",
    [("gcc-12 avx2", 1000, 0), ("gcc-12 avx2", 2000, 1), ("gcc-13 avx2", 1000, 77),
     ("gcc-13 avx2", 5000, 1)],
)  # fmt: skip
def test_an_unknown_compiler_is_no_pass(gate, monkeypatch, tmp_path, capsys, case):
    key, count, code = case
    path = tmp_path / "baseline.json"
    path.write_text(gate.json.dumps(BASELINE))
    monkeypatch.setattr(gate, "BASELINE", path)
    monkeypatch.setattr(gate, "count", lambda *_: (key, figures(count)))
    monkeypatch.setattr(gate.shutil, "which", lambda _: "valgrind")
    monkeypatch.setattr("sys.argv", ["gate.py", "driver"])
    assert gate.main() == code
    assert ("`python gate.py driver --update`" in capsys.readouterr().out) is (code == 77)
