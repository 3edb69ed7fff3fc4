"""Real plans, compiled by TensorRT for RTX: no GPU is needed for that."""

import json
import os
import subprocess
import sys

import pytest

from agp_edge import DependencyError, DeviceError, Error, ModelError, read_manifest
from agp_edge.cli import main
from agp_edge.engines.tensorrt import FLAVOURS
from agp_edge.plan.build import plan_from_onnx


def test_a_plan_carries_the_manifest(small_model, tmp_path):
    shares = []
    report = plan_from_onnx(small_model, tmp_path / "m.plan", backend="rtx", progress=shares.append)
    assert report.backend.startswith("TensorRT for RTX 1.")
    assert report.targets == ("8.6", "8.9", "12.0")
    assert report.plan_bytes == (tmp_path / "m.plan").stat().st_size
    # 8 kernels of 3 x 8 x 8, and the constant that is added
    assert report.weights == 8 * 3 * 8 * 8 + 1
    assert report.bytes_per_weight == report.plan_bytes / report.weights
    assert report.seconds > 0
    assert max(shares) <= 1
    assert len(shares) > 5

    manifest = read_manifest(tmp_path / "m.plan")
    assert manifest["versions"].pop("tensorrt_rtx").startswith("1.")
    assert manifest.pop("built_for") == ["8.6", "8.9", "12.0"]
    assert manifest == read_manifest(small_model)
    assert manifest["precision"] == {"asked": "fp32", "built": None}
    assert [path.name for path in tmp_path.iterdir()] == ["m.plan"]


def test_names_outside_ascii(write_model, tmp_path):
    model = write_model(tmp_path / "m.onnx", changes={"classes": ["Flasche groß", "瓶"]})
    plan_from_onnx(model, tmp_path / "m.plan", backend="rtx")
    assert read_manifest(tmp_path / "m.plan")["classes"] == ["Flasche groß", "瓶"]


def sized(write_model, path, length):
    """A model whose plan manifest has just this many bytes."""
    import tensorrt_rtx_bindings as trt

    model = write_model(path)
    manifest = read_manifest(model)
    manifest["versions"]["tensorrt_rtx"] = trt.__version__
    manifest["built_for"] = ["8.6", "8.9", "12.0"]
    text = json.dumps(manifest, separators=(",", ":"), ensure_ascii=False)
    # "é" has two bytes: characters would be the wrong thing to count
    padding = length - len(text.encode())
    name = manifest["name"] + "é" * (padding // 2) + "e" * (padding % 2)
    return write_model(path, changes={"name": name})


def test_the_longest_manifest_that_fits(write_model, tmp_path):
    model = sized(write_model, tmp_path / "m.onnx", 4095)
    plan_from_onnx(model, tmp_path / "m.plan", backend="rtx")
    assert read_manifest(tmp_path / "m.plan")["name"].startswith("smallé")


@pytest.mark.parametrize("length", [4096, 5000])
def test_a_longer_manifest_is_refused_before_building(length, write_model, tmp_path, capfd):
    model = sized(write_model, tmp_path / "m.onnx", length)
    with pytest.raises(ModelError, match=rf"has {length} bytes, and a plan holds at most 4095"):
        plan_from_onnx(model, tmp_path / "m.plan", backend="rtx")
    assert main(["build", str(model), "-o", str(tmp_path / "m.plan")]) == 1
    assert capfd.readouterr().err.count("\n") == 1
    assert not (tmp_path / "m.plan").exists()


@pytest.mark.parametrize("op_type", ["Frobnicate", "Unique"])
def test_operators_that_it_does_not_have(op_type, write_model, tmp_path, capfd):
    import onnx

    path = write_model(tmp_path / "m.onnx")
    model = onnx.load(path)
    square = model.graph.node[1]
    square.op_type = op_type
    if op_type == "Unique":
        del square.input[1]
    onnx.save(model, path)
    old = tmp_path / "m.plan"
    old.write_text("the older plan")
    with pytest.raises(ModelError, match=rf"node 1 'square' \({op_type}\): .*export the model"):
        plan_from_onnx(path, old, backend="rtx")
    assert main(["build", str(path), "-o", str(old)]) == 1
    stderr = capfd.readouterr().err
    assert stderr.count("\n") == 1
    assert f"'square' ({op_type})" in stderr
    assert old.read_text() == "the older plan"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.plan"]


def test_a_graph_that_strong_typing_refuses(write_model, tmp_path):
    import numpy as np
    import onnx
    from onnx import numpy_helper

    path = write_model(tmp_path / "m.onnx")
    model = onnx.load(path)
    kernels = model.graph.initializer[0]
    half = numpy_helper.from_array(numpy_helper.to_array(kernels).astype(np.float16), "kernels")
    kernels.CopyFrom(half)
    onnx.save(model, path)
    with pytest.raises(ModelError, match=r"TensorRT for RTX .* cannot (read|compile) .*conv"):
        plan_from_onnx(path, tmp_path / "m.plan", backend="rtx")


def test_targets(small_model, tmp_path, capfd):
    report = plan_from_onnx(small_model, tmp_path / "m.plan", backend="rtx", targets=(86, 120))
    assert report.targets == ("8.6", "12.0")
    with pytest.raises(Error, match=r"compute capability \[87\]: expected some of \[75, 80, 86"):
        plan_from_onnx(small_model, tmp_path / "m.plan", backend="rtx", targets=(87,))
    assert main(["build", str(small_model), "-o", str(tmp_path / "x.plan"), "--sm", "87"]) == 1
    assert capfd.readouterr().err.count("\n") == 1


def test_optimization_level(small_model, tmp_path):
    for level in (0, 5):
        plan_from_onnx(small_model, tmp_path / "m.plan", backend="rtx", optimization_level=level)
        assert read_manifest(tmp_path / "m.plan")["name"] == "small"


def test_a_plan_is_no_onnx_file(small_model, tmp_path):
    plan_from_onnx(small_model, tmp_path / "m.plan", backend="rtx")
    with pytest.raises(ModelError, match="is a plan already"):
        plan_from_onnx(tmp_path / "m.plan", tmp_path / "n.plan", backend="rtx")


def test_unknown_backend(small_model, tmp_path):
    with pytest.raises(Error, match="unknown backend 'cuda': expected one of auto, tensorrt, rtx"):
        plan_from_onnx(small_model, tmp_path / "m.plan", backend="cuda")


def test_missing_compilers(small_model, tmp_path, monkeypatch):
    monkeypatch.setattr(type(FLAVOURS["rtx"]), "find_module", lambda self: None)
    for backend, extra in (("auto", "rtx"), ("rtx", "rtx"), ("tensorrt", "tensorrt")):
        with pytest.raises(DependencyError, match=rf"pip install 'agp-edge\[{extra}\]'"):
            plan_from_onnx(small_model, tmp_path / "m.plan", backend=backend)


@pytest.mark.skipif(
    os.environ.get("AGP_EDGE_REQUIRE_GPU") == "1", reason="it is about machines without a GPU"
)
def test_tensorrt_without_a_gpu_is_not_touched(small_model, tmp_path, monkeypatch):
    (tmp_path / "tensorrt.py").write_text("import os; os.abort()")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DeviceError, match="no NVIDIA GPU can be used here"):
        plan_from_onnx(small_model, tmp_path / "m.plan", backend="tensorrt")
    report = plan_from_onnx(small_model, tmp_path / "m.plan", backend="auto")
    assert report.backend.startswith("TensorRT for RTX")


def test_the_command(small_model, tmp_path, capfd):
    target = str(tmp_path / "m.plan")
    assert main(["build", str(small_model), "-o", target, "--sm", "86,89"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert "bytes per weight (1,537 weights), compiled in" in out
    assert "for compute capability 8.6, 8.9" in out
    assert main(["build", str(small_model), "-o", target, "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert report["path"] == target
    assert report["plan_bytes"] == (tmp_path / "m.plan").stat().st_size


def test_ctrl_c_stops_the_compiler(tmp_path, small_model):
    """The progress callback shows that it compiles; the signal comes then."""
    code = f"""
import os, signal, time
from agp_edge.plan.build import plan_from_onnx
calls = []
def progress(share):
    calls.append(share)
    if len(calls) == 5:
        os.kill(os.getpid(), signal.SIGINT)
    if len(calls) >= 5:
        time.sleep(0.05)  # the main thread has its turn
try:
    plan_from_onnx({str(small_model)!r}, {str(tmp_path / "m.plan")!r}, backend="rtx",
                   progress=progress)
except KeyboardInterrupt:
    print("interrupted after", len(calls))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("interrupted after")
    assert int(done.stdout.split()[-1]) < 20  # of some 70
    assert list(tmp_path.iterdir()) == []


MUTANTS = """
import random, sys
from pathlib import Path
from agp_edge import Detector, Error, read_manifest

original = Path(sys.argv[1]).read_bytes()
target = Path(sys.argv[2])
chance = random.Random(3)
manifest_at = original.index(b'{"agp_edge_manifest":')
outcomes = {}
for turn in range(40):
    data = bytearray(original)
    if turn % 4 == 0:
        del data[chance.randrange(len(data)):]
    elif turn % 4 == 1:
        data[chance.randrange(64)] ^= 1 << chance.randrange(8)
    elif turn % 4 == 2:
        data[manifest_at + chance.randrange(900)] = chance.randrange(256)
    else:
        start = chance.randrange(len(data))
        data[start:start] = original[manifest_at:manifest_at + chance.randrange(1200)]
    target.write_bytes(data)
    for use in (read_manifest, Detector):
        try:
            use(target)
            outcome = "fine"
        except Error as error:
            assert len(str(error).splitlines()) == 1, str(error)
            outcome = type(error).__name__
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
print(outcomes)
"""


def test_mutated_plans_never_crash(small_model, tmp_path):
    plan_from_onnx(small_model, tmp_path / "m.plan", backend="rtx", targets=(86,))
    done = subprocess.run(
        [sys.executable, "-c", MUTANTS, tmp_path / "m.plan", tmp_path / "mutant.plan"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "ModelError" in done.stdout


def test_the_fp16_graph_is_kept(small_model, tmp_path, capfd):
    """A model of its own: named in its manifest, opened and compiled as it is to the same size."""
    from agp_edge import Detector

    kept, plan = tmp_path / "half.onnx", tmp_path / "m.plan"
    command = ["build", str(small_model), "--backend", "rtx", "--precision", "fp16"]
    command += ["-o", str(plan)]
    assert main([*command, "--keep-onnx", str(kept)]) == 0
    assert read_manifest(kept)["precision"]["asked"] == "fp16"
    assert read_manifest(kept)["precision"] == read_manifest(plan)["precision"]
    with Detector(kept) as detector:
        assert detector.threshold == pytest.approx(0.3)
    report = plan_from_onnx(kept, tmp_path / "again.plan", backend="rtx")
    assert report.precision == "fp16"
    assert report.plan_bytes == plan.stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.plan", "half.onnx", "m.plan"]
    capfd.readouterr()
    before = small_model.read_bytes()
    for file in (small_model, plan):
        assert main([*command, "--keep-onnx", str(file)]) == 1
        assert "is the model or the plan" in capfd.readouterr().err
    assert small_model.read_bytes() == before


def test_nothing_converted_is_nothing_to_keep(small_model, tmp_path, capfd):
    kept, plan = tmp_path / "half.onnx", tmp_path / "m.plan"
    command = ["build", str(small_model), "-o", str(plan), "--keep-onnx", str(kept)]
    assert main([*command, "--precision", "fp32"]) == 1
    assert "keeps what --precision fp16 converts" in capfd.readouterr().err
    with pytest.raises(Error, match="there is no converted graph to keep"):
        plan_from_onnx(small_model, plan, backend="rtx", keep_onnx=kept)
    assert list(tmp_path.iterdir()) == []
