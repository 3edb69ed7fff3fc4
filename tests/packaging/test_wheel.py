"""The wheel holds one top-level package, links to no CUDA or TensorRT, and stays small."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*command, f"--config-settings=build-dir={folder}/build", "-w", str(folder), str(ROOT)],
        check=True,
    )
    (path,) = folder.glob("agp_edge-*.whl")
    return path


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_only_top_level_name_is_agp_edge(names: list[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    (dist_info,) = (top for top in tops if top.endswith(".dist-info"))
    assert tops == {"agp_edge", dist_info}


def test_every_python_file_of_the_three_folders_is_there(names: list[str]) -> None:
    expected = set()
    for folder, package in (
        ("agp_edge", "agp_edge"),
        ("trainer", "agp_edge/trainer"),
        ("calibration", "agp_edge/calibration"),
    ):
        for path in (ROOT / folder).rglob("*.py"):
            expected.add(f"{package}/{path.relative_to(ROOT / folder).as_posix()}")
    packaged = {name for name in names if name.endswith(".py")}
    assert packaged == expected


def test_files_beside_python_are_known(names: list[str]) -> None:
    others = [n for n in names if not n.endswith(".py") and ".dist-info/" not in n]
    allowed = re.compile(
        r"agp_edge/(py\.typed|_core\.pyi|_core\.[\w.-]*\.so|_trt(10|11|rtx)\.so"
        r"|report/[\w./-]+\.(html|css|js)(\.j2)?)"
    )
    assert [name for name in others if not allowed.fullmatch(name)] == []
    templates = {f"agp_edge/report/{path.name}" for path in (ROOT / "agp_edge/report").glob("*.j2")}
    assert {"agp_edge/py.typed", *templates} <= set(others)
    assert sum(name.startswith("agp_edge/_core.") and name.endswith(".so") for name in others) == 1
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_modules_link_to_the_c_and_cpp_runtime_only(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        paths = [archive.extract(n, tmp_path) for n in archive.namelist() if n.endswith(".so")]
    libraries = set()
    for path in paths:
        listing = subprocess.run(["ldd", path], check=True, capture_output=True, text=True).stdout
        libraries |= {Path(line.split()[0]).name for line in listing.splitlines() if line.split()}
    known = re.compile(
        r"(linux-vdso|libc|libm|libstdc\+\+|libgcc_s|libpthread|libdl|ld-linux[\w-]*)\.so[.\d]*"
    )
    assert {name for name in libraries if not known.fullmatch(name)} == set()


def test_wheel_is_a_few_megabytes_at_most(wheel: Path) -> None:
    assert wheel.stat().st_size < 4_000_000


def test_build_group_repeats_the_build_requirements() -> None:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert document["dependency-groups"]["build"] == document["build-system"]["requires"]
