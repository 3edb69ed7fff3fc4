"""The C++ library is installed, found by another CMake project, and scores without Python."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from agp_edge import _core
from agp_edge.manifest import (
    MANIFEST_KEY,
    InputSpec,
    Manifest,
    OutputSpec,
    PostprocessSpec,
    ThresholdSpec,
)

ROOT = Path(__file__).parents[2]
SIZE, STRIDE = 64, 8
VERSION = re.search(r'^version = "([\d.]+)"', (ROOT / "pyproject.toml").read_text(), re.M)[1]
SOVERSION = VERSION.rpartition(".")[0]  # before 1.0 a minor version may change the interface


def openvino_libraries() -> str:
    spec = find_spec("openvino")
    assert spec is not None
    assert spec.submodule_search_locations
    return str(Path(next(iter(spec.submodule_search_locations))) / "libs")


def run(*command: object) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library built and installed; its build folder is gone."""
    folder = tmp_path_factory.mktemp("package")
    options = {
        "AGP_EDGE_TESTS": "OFF",
        "AGP_EDGE_WERROR": "ON",
        "Python_EXECUTABLE": sys.executable,
        "CMAKE_INSTALL_LIBDIR": "lib",
    }
    run(
        *("cmake", "-S", ROOT, "-B", folder / "build", "-G", "Ninja"),
        *(f"-D{key}={value}" for key, value in options.items()),
    )
    run("cmake", "--build", folder / "build", "--parallel", os.cpu_count() or 1)
    run("cmake", "--install", folder / "build", "--component", "cpp", "--prefix", folder / "usr")
    shutil.rmtree(folder / "build")
    return folder / "usr"


@pytest.fixture(scope="module")
def program(prefix: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    build = tmp_path_factory.mktemp("score_folder")
    source = ROOT / "cpp" / "examples" / "score_folder"
    # OpenCV's C++ headers may or may not be on this machine; the test is of PGM and PPM.
    run(
        *("cmake", "-S", source, "-B", build, "-G", "Ninja"),
        *(f"-DCMAKE_PREFIX_PATH={prefix}", "-DCMAKE_DISABLE_FIND_PACKAGE_OpenCV=ON"),
        "-DCMAKE_CXX_FLAGS=-Wall -Wextra -pedantic -Wconversion -Wshadow -Werror",
    )
    run("cmake", "--build", build)
    return build / "score_folder"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """distance = |convolution|, (1, 3, 64, 64) -> (1, 1, 8, 8); threshold 0.5."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    manifest = Manifest(
        name="small",
        backbone="one-convolution",
        input=InputSpec(name="image", height=SIZE, width=SIZE, mean=(110.0,) * 3, std=(60.0,) * 3),
        output=OutputSpec(name="distance", height=SIZE // STRIDE, width=SIZE // STRIDE),
        postprocess=PostprocessSpec(sigma=3.0, score="top_mean", top_share=0.02),
        threshold=ThresholdSpec(
            value=0.5, method="test", false_reject=0.05, n=20, unit="images", mask_value=None
        ),
    )
    weights = np.random.default_rng(0).normal(0, 0.1, (1, 3, STRIDE, STRIDE)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "weights"], ["signed"], strides=[STRIDE, STRIDE]),
            helper.make_node("Abs", ["signed"], ["distance"]),
        ],
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("distance", TensorProto.FLOAT, [1, 1, 8, 8])],
        [numpy_helper.from_array(weights, "weights")],
    )
    onnx_model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(onnx_model, {MANIFEST_KEY: manifest.to_json()})
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    onnx.save(onnx_model, path)
    return path


def write_netpbm(path: Path, image: np.ndarray) -> None:
    """PGM of (height, width), PPM of (height, width, 3) RGB, with a comment in the header."""
    magic = b"P5" if image.ndim == 2 else b"P6"
    header = magic + b"\n# made for a test\n%d %d\n255\n" % (image.shape[1], image.shape[0])
    path.write_bytes(header + image.tobytes())


@pytest.fixture(scope="module")
def images() -> dict[str, np.ndarray]:
    """By file name: uint8 (height, width), or (height, width, 3) RGB."""
    rng = np.random.default_rng(1)
    stripes = np.where(np.arange(64) // 4 % 2 == 0, 110, 255).astype(np.uint8)
    return {
        "flat.pgm": np.full((64, 64), 110, np.uint8),
        "mono.pgm": rng.integers(0, 256, (90, 131), dtype=np.uint8),
        "rgb.ppm": rng.integers(0, 256, (200, 77, 3), dtype=np.uint8),
        "stripes.pgm": np.ascontiguousarray(np.broadcast_to(stripes, (64, 64))),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, images: dict[str, np.ndarray]) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for name, image in images.items():
        write_netpbm(folder / name, image)
    (folder / "notes.txt").write_text("no image")
    return folder


def score_folder(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={"AGP_EDGE_OPENVINO_LIBS": openvino_libraries()},
        timeout=60,
    )


def test_library_is_installed_without_private_parts(prefix: Path) -> None:
    files = {p.relative_to(prefix).as_posix() for p in prefix.rglob("*") if p.is_file()}
    headers = {f"include/agp_edge/{p.name}" for p in (ROOT / "cpp/include/agp_edge").glob("*.hpp")}
    headers.add("include/agp_edge.h")
    assert headers <= files
    # one for each TensorRT whose headers were found when it was compiled
    modules = {f for f in files if re.fullmatch(r"lib/agp_edge/_trt(10|11|rtx)\.so", f)}
    rest = {re.sub(r"Targets-\w+", "Targets-CONFIG", f) for f in files - headers - modules}
    assert rest == {
        "lib/libagp_edge.a",
        *(f"lib/libagp_edge_c.so{suffix}" for suffix in ("", f".{SOVERSION}", f".{VERSION}")),
        "lib/cmake/agp_edge/agp_edgeConfig.cmake",
        "lib/cmake/agp_edge/agp_edgeConfigVersion.cmake",
        "lib/cmake/agp_edge/agp_edgeTargets.cmake",
        "lib/cmake/agp_edge/agp_edgeTargets-CONFIG.cmake",
    }
    for path in (prefix / "lib/cmake").rglob("*.cmake"):
        assert str(ROOT) not in path.read_text(), "the package can be moved and copied"


def test_program_scores_as_the_extension_does(
    program: Path, model: Path, folder: Path, images: dict[str, np.ndarray]
) -> None:
    done = score_folder(program, model, folder)
    assert done.stderr == ""
    assert done.returncode == 3, "one is anomalous"
    engine = _core.open_openvino(str(model), library_folder=openvino_libraries())
    detector = _core.Detector(_core.read_manifest_json(str(model)), str(model), engine)
    lines = done.stdout.splitlines()
    assert len(lines) == len(images)
    verdicts = set()
    for line, (name, image) in zip(lines, sorted(images.items()), strict=True):
        verdict, _, score, _, _, path = line.split()
        assert path == str(folder / name)
        expected = detector.score(image, "rgb8" if image.ndim == 3 else None)
        assert float(score) == pytest.approx(expected.score, rel=1e-5)
        assert verdict == ("anomalous" if expected.is_anomalous else "good")
        verdicts.add(verdict)
    assert verdicts == {"good", "anomalous"}


def test_exit_codes(program: Path, model: Path, folder: Path, tmp_path: Path) -> None:
    assert score_folder(program, model, folder, "1e6").returncode == 0
    assert score_folder(program, model).returncode == 2
    assert score_folder(program, model, folder, "high").returncode == 2

    def error(*arguments: object) -> str:
        done = score_folder(program, *arguments)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        return done.stderr

    assert "does not exist" in error(tmp_path / "no.onnx", folder)
    assert "is not a folder" in error(model, tmp_path / "none")
    assert "no image that can be read" in error(model, tmp_path)
    (tmp_path / "cut.pgm").write_bytes(b"P5\n64 64\n255\n" + bytes(100))
    assert "cut.pgm' is cut off" in error(model, tmp_path)
    (tmp_path / "cut.pgm").write_bytes(b"P5\n64 64\n65535\n" + bytes(9000))
    assert "is not a binary PGM" in error(model, tmp_path)


def test_c_library_exports_what_header_and_list_say(prefix: Path) -> None:
    library = prefix / f"lib/libagp_edge_c.so.{SOVERSION}"
    symbols = [line.split()[-1] for line in run("nm", "-D", "--defined-only", library).splitlines()]
    exported = {name.partition("@")[0] for name in symbols if not name.startswith("AGP_EDGE_")}
    symbols_map = (ROOT / "cpp/src/c_api/agp_edge_c.map").read_text()
    listed = re.findall(r"^ +(agp_edge_\w+);", symbols_map, re.M)
    header = (ROOT / "cpp/include/agp_edge.h").read_text()
    declared = re.findall(r"^AGP_EDGE_API [^;(]*?(agp_edge_\w+)\(", header, re.M)
    assert exported == set(listed) == set(declared)
    assert sorted(listed) == listed
    dynamic = run("readelf", "-d", library)
    assert f"[libagp_edge_c.so.{SOVERSION}]" in dynamic
    needed = set(re.findall(r"NEEDED.*\[(.+?)\.so", dynamic))
    assert needed <= {
        "libstdc++",
        "libm",
        "libgcc_s",
        "libc",
        "libdl",
        "libpthread",
        "ld-linux-x86-64",
    }


def test_the_c_example_is_c11_and_scores(prefix: Path, model: Path, folder: Path) -> None:
    build = folder.parent / "score_c"
    run(
        *("cmake", "-S", ROOT / "cpp/examples/score_c", "-B", build, "-G", "Ninja"),
        f"-DCMAKE_PREFIX_PATH={prefix}",
        "-DCMAKE_C_FLAGS=-Wall -Wextra -pedantic -Wconversion -Wshadow -Werror",
    )
    run("cmake", "--build", build)
    codes = {}
    for name in ("flat.pgm", "stripes.pgm"):
        pixels = (folder / name).read_bytes().replace(b"# made for a test\n", b"")
        (build / name).write_bytes(pixels)
        codes[name] = score_folder(build / "score_c", model, build / name).returncode
    assert codes == {"flat.pgm": 0, "stripes.pgm": 3}


HOST = """
static class Host {
  static int Main(string[] arguments) {
    try {
      IntPtr detector = AgpEdge.Open(arguments[0]);
      foreach (string path in arguments) {
        if (path == arguments[0]) continue;
        byte[] pixels = System.IO.File.ReadAllBytes(path);
        bool isAnomalous = AgpEdge.IsAnomalous(detector, pixels, 64, 64, out float score);
        var invariant = System.Globalization.CultureInfo.InvariantCulture;
        Console.WriteLine(isAnomalous + " " + score.ToString("R", invariant));
      }
      AgpEdge.Close(detector);
      return 0;
    } catch (Exception error) {
      Console.Error.WriteLine(error.Message);
      return 1;
    }
  }
}
"""


def test_the_snippet_for_c_sharp(
    prefix: Path, model: Path, images: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """docs/c_api.md's, compiled and run by Mono."""
    if shutil.which("mcs") is None or shutil.which("mono") is None:
        pytest.skip("the C# snippet was not compiled: install mono-mcs and mono-runtime (Debian)")
    text = (ROOT / "docs/c_api.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```csharp\n(.*?)```", text, re.DOTALL)
    assert f"libagp_edge_c.so.{SOVERSION}" in snippet
    (tmp_path / "host.cs").write_text(snippet + HOST)
    program = tmp_path / "host.exe"
    run(
        "mcs",
        "-langversion:7.2",
        "-unsafe",
        "-warnaserror",
        f"-out:{program}",
        tmp_path / "host.cs",
    )
    for name in ("flat", "stripes"):
        (tmp_path / name).write_bytes(images[f"{name}.pgm"].tobytes())

    def host(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["mono", str(program), *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            env={
                **os.environ,
                "AGP_EDGE_OPENVINO_LIBS": openvino_libraries(),
                "LD_LIBRARY_PATH": str(prefix / "lib"),
            },
            timeout=60,
        )

    done = host(model, tmp_path / "flat", tmp_path / "stripes")
    assert (done.returncode, done.stderr) == (0, "")
    engine = _core.open_openvino(str(model), library_folder=openvino_libraries())
    detector = _core.Detector(_core.read_manifest_json(str(model)), str(model), engine)
    for line, name in zip(done.stdout.splitlines(), ("flat", "stripes"), strict=True):
        expected = detector.score(images[f"{name}.pgm"])
        verdict, score = line.split()
        assert verdict == str(expected.is_anomalous)
        assert float(score) == pytest.approx(expected.score, rel=1e-5)
    missing = host(tmp_path / "größe.onnx")
    assert missing.returncode == 1
    assert f"'{tmp_path}/größe.onnx'" in missing.stderr  # UTF-8 both ways
