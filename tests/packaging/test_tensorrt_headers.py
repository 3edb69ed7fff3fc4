"""The TensorRT modules compile against every set of headers found, warnings as errors.

Where there are no headers the configure step says so in one line, and a plan is still refused in
one sentence.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEADERS = Path(
    os.environ.get("AGP_EDGE_TENSORRT_HEADERS") or ROOT.parent / "shared/third_party/tensorrt"
)
VERSIONS = sorted(path.parents[1].name for path in HEADERS.glob("*/include/NvInferRuntime.h"))


def configure(build: Path, *options: str) -> str:
    done = subprocess.run(
        ["cmake", "-G", "Ninja", "-S", str(ROOT), "-B", str(build), "-DAGP_EDGE_TESTS=OFF",
         "-DAGP_EDGE_OPENVINO=OFF", "-DAGP_EDGE_WERROR=ON", *options],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )  # fmt: skip
    return done.stdout


def modules_of(version: str) -> set[str]:
    return {"_trt10.so"} if version.startswith("10.") else {"_trt11.so", "_trtrtx.so"}


def test_headers_are_there_where_they_were_promised() -> None:
    if "AGP_EDGE_TENSORRT_HEADERS" in os.environ:
        assert VERSIONS, f"AGP_EDGE_TENSORRT_HEADERS={HEADERS} holds no VERSION/include folder"


@pytest.fixture(scope="module", params=VERSIONS or ["none"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build folder of one version; without any headers, one that was only configured."""
    build = tmp_path_factory.mktemp(f"trt-{request.param}")
    if not VERSIONS:
        return build
    configure(
        build,
        f"-DAGP_EDGE_TENSORRT_HEADERS={HEADERS}",
        f"-DAGP_EDGE_TENSORRT_VERSION={request.param}",
    )
    subprocess.run(
        ["cmake", "--build", str(build), "--target", "agp_edge_tensorrt"],
        check=True,
        capture_output=True,
        timeout=300,
    )
    (build / "version").write_text(request.param)
    return build


def test_modules_export_one_c_function_and_link_to_nothing_of_nvidia(built: Path) -> None:
    if not VERSIONS:
        assert_left_out(built)
        return
    modules = {path.name: path for path in built.glob("_trt*.so")}
    assert set(modules) == modules_of((built / "version").read_text())
    for path in modules.values():
        symbols = run("nm", "-D", "--defined-only", str(path)).split("\n")
        assert [line.split()[-1] for line in symbols if line] == ["agp_edge_open_tensorrt"]
        assert not re.search("nvinfer|cuda|tensorrt", run("ldd", str(path)).partition("\n")[2])


def test_missing_headers_are_one_line_for_each_module(tmp_path: Path) -> None:
    assert_left_out(tmp_path)


def test_asking_for_a_version_that_is_missing_stops_the_configure_step(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        configure(tmp_path, "-DAGP_EDGE_TENSORRT_VERSION=9.9")
    assert "TensorRT 9.9 headers were asked for and not found" in caught.value.stderr


def test_oldest_headers_of_a_major_are_chosen(tmp_path: Path) -> None:
    for folder, version in (("a", (10, 16, 2)), ("b", (10, 3, 0)), ("c", (11, 1, 0))):
        include = tmp_path / "headers" / folder / "include"
        include.mkdir(parents=True)
        (include / "NvInferRuntime.h").touch()
        lines = (
            f"#define NV_TENSORRT_{part} {number} //!< TensorRT version.\n"
            for part, number in zip(("MAJOR", "MINOR", "PATCH"), version, strict=True)
        )
        (include / "NvInferVersion.h").write_text("".join(lines))
    (tmp_path / "cuda_runtime_api.h").touch()
    output = configure(
        tmp_path / "build",
        f"-DAGP_EDGE_TENSORRT_HEADERS={tmp_path}/headers",
        f"-DAGP_EDGE_CUDA_INCLUDE={tmp_path}",
    )
    assert "module _trt10: built, headers 10.3.0 in" in output
    assert "module _trt11: built, headers 11.1.0 in" in output


def test_a_jetpack_root_is_searched_when_compiling_for_it(tmp_path: Path) -> None:
    """JetPack 6.2's folders in an unpacked root file system; only configured, with any compiler."""
    root = tmp_path / "rootfs"
    include = root / "usr/include/aarch64-linux-gnu"
    cuda = root / "usr/local/cuda/include"
    include.mkdir(parents=True)
    cuda.mkdir(parents=True)
    (include / "NvInferRuntime.h").touch()
    version = "".join(
        f"#define NV_TENSORRT_{part} {number}\n"
        for part, number in (("MAJOR", 10), ("MINOR", 3), ("PATCH", 0))
    )
    (include / "NvInferVersion.h").write_text(version)
    (cuda / "cuda_runtime_api.h").touch()
    output = configure(
        tmp_path / "build",
        *("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64"),
        f"-DCMAKE_FIND_ROOT_PATH={root}",
        "-DAGP_EDGE_CUDA=OFF",
        f"-DAGP_EDGE_TENSORRT_HEADERS={tmp_path}/none",
    )
    assert f"module _trt10: built, headers 10.3.0 in {include}" in output
    assert "module _trt11: left out" in output
    cache = (tmp_path / "build/CMakeCache.txt").read_text()
    assert f"AGP_EDGE_CUDA_INCLUDE:PATH={cuda}\n" in cache


def assert_left_out(folder: Path) -> None:
    output = configure(
        folder / "build", f"-DAGP_EDGE_TENSORRT_HEADERS={folder}/none", "-DTENSORRT_ROOT=/nowhere"
    )
    lines = [line for line in output.splitlines() if "module _trt" in line]
    system = run(sys.executable, "-c", FIND_SYSTEM_HEADERS).strip()
    if system:  # a Jetson has its own: they are named then
        assert any(system in line for line in lines)
        return
    assert len(lines) == 3
    assert all("left out, no NvInferRuntime.h of TensorRT" in line for line in lines)


FIND_SYSTEM_HEADERS = """
import os, pathlib, platform
for folder in (f"{os.environ.get('TENSORRT_ROOT', '/none')}/include", "/usr/local/tensorrt/include",
               f"/usr/include/{platform.machine()}-linux-gnu", "/usr/include"):
    if pathlib.Path(folder, "NvInferRuntime.h").exists():
        print(folder)
        break
"""


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
