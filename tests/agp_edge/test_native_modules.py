"""What `agp-edge doctor` says of _trt10, _trt11 and _trtrtx: real files and broken ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from agp_edge import DependencyError, _core, doctor, native_modules
from agp_edge.cli import main
from agp_edge.engines.tensorrt import library_folders
from agp_edge.errors import DeviceError
from agp_edge.gpu import Gpu
from agp_edge.native_modules import MODULES, NativeModule, find_module, open_library

ROOT = Path(__file__).parents[2]
RTX = next(module for module in MODULES if module.name == "_trtrtx")


def is_compiled_in(module: NativeModule) -> bool:
    return module.product in _core.tensorrt_modules()


def test_the_list_is_that_of_the_cpp_library():
    source = (ROOT / "cpp/src/engine/tensorrt_modules.cpp").read_text()
    assert source.count('.so",\n') == len(MODULES)
    for module in MODULES:
        libraries = ", ".join(f'"{name}"' for name in module.libraries)
        assert f'"{module.name}.so",\n       {{{libraries}}}' in source


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_it_is_found_where_the_extension_finds_it(module):
    if is_compiled_in(module):
        assert find_module(module).name == f"{module.name}.so"
        return
    with pytest.raises(DependencyError, match=rf"{module.name} is not compiled in: .*headers of"):
        find_module(module)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An installation without any module."""
    core = shutil.copy(_core.__file__, tmp_path)
    real = native_modules.importlib.util.find_spec

    def find(name):
        return SimpleNamespace(origin=str(core)) if name == "agp_edge._core" else real(name)

    monkeypatch.setattr(native_modules.importlib.util, "find_spec", find)
    monkeypatch.delenv("AGP_EDGE_MODULES", raising=False)
    return tmp_path


def test_one_that_was_left_out_says_what_was_missing(elsewhere, capfd):
    for module in MODULES:
        with pytest.raises(DependencyError) as caught:
            find_module(module)
        assert f"{module.name} is not compiled in" in str(caught.value)
        assert f"the headers of {module.headers} or cuda_runtime_api.h" in str(caught.value)
    assert main(["doctor"]) == 0
    out = capfd.readouterr().out
    assert " no  native module _trt10: plans of TensorRT 10 on an NVIDIA GPU\n" in out
    assert out.count("is not compiled in") == len(MODULES)


def test_one_that_is_damaged(elsewhere):
    (elsewhere / "_trtrtx.so").write_bytes(b"no library")
    with pytest.raises(DependencyError, match=r"_trtrtx\.so' does not load \(.*: install agp_edge"):
        find_module(RTX)
    shutil.copy(_core.__file__, elsewhere / "_trtrtx.so")  # a library, and not this one
    with pytest.raises(DependencyError, match="it has another content"):
        find_module(RTX)


def test_another_folder_of_modules(elsewhere, monkeypatch):
    folder = elsewhere / "others"
    folder.mkdir()
    (folder / "_trtrtx.so").write_bytes(b"no library")
    monkeypatch.setenv("AGP_EDGE_MODULES", str(folder))
    with pytest.raises(DependencyError, match=f"{folder}/_trtrtx"):
        find_module(RTX)


def test_the_library_that_is_installed():
    import tensorrt_rtx_bindings

    path, number = open_library(RTX)
    assert Path(path).parent in map(Path, library_folders())
    version = f"{number // 10000}.{number // 100 % 100}.{number % 100}"
    assert tensorrt_rtx_bindings.__version__.startswith(version)


def test_a_library_that_is_missing_or_broken(tmp_path, monkeypatch):
    monkeypatch.setattr(native_modules, "library_folders", lambda: [str(tmp_path)])
    nowhere = NativeModule(
        name="_trt9",
        product="TensorRT 9",
        libraries=("libnvinfer.so.9", "libnvinfer_lean.so.9"),
        headers="TensorRT 9",
        install="`pip install nothing`",
    )
    with pytest.raises(DependencyError, match=r"no libnvinfer\.so\.9 opens here \(libnvinfer\.so"):
        open_library(nowhere)
    (tmp_path / "libnvinfer_lean.so.9").write_bytes(b"cut off")
    with pytest.raises(
        DependencyError, match=rf"opens here \({tmp_path}/libnvinfer_lean.*`pip ins"
    ):
        open_library(nowhere)
    shutil.copy(_core.__file__, tmp_path / "libnvinfer.so.9")
    (tmp_path / "libnvinfer_lean.so.9").unlink()
    with pytest.raises(DependencyError, match="getInferLibVersion"):
        open_library(nowhere)


@pytest.mark.parametrize("has_gpu", [False, True])
def test_the_finding(has_gpu, monkeypatch, capfd):
    def gpus():
        if has_gpu:
            return (Gpu(name="Played GPU", compute_capability=(8, 6), driver_cuda=(12, 6)),)
        raise DeviceError("no NVIDIA GPU can be used here: played")

    monkeypatch.setattr(doctor, "find_gpus", gpus)
    assert main(["doctor", "--json"]) == 0
    findings = {finding["name"]: finding for finding in json.loads(capfd.readouterr().out)}
    for module in MODULES:
        finding = findings[f"native module {module.name}"]
        if not is_compiled_in(module):
            assert "is not compiled in" in finding["problem"]
        elif finding["version"] is None:
            assert f"no {module.libraries[0]} opens here" in finding["problem"]
            assert finding["path"].endswith(f"{module.name}.so")
        else:
            assert finding["usable"] == has_gpu
            assert has_gpu or finding["problem"].startswith("it is compiled in and its library")
    if is_compiled_in(RTX):
        assert findings["native module _trtrtx"]["version"].startswith("library 1.")
