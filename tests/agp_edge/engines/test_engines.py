"""Engines: bound buffers, what is installed, and plans on a machine that cannot run them."""

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from agp_edge import DependencyError, Detector, DeviceError, ModelError, _core, engines
from agp_edge.cli import main
from agp_edge.dependencies import EXTRA_OF_MODULE, require
from agp_edge.engines import is_plan
from agp_edge.engines import onnxruntime as ort_engine
from agp_edge.engines.tensorrt import FLAVOURS, LIBRARY_PACKAGES

TENSORRT_MODULES = [module for flavour in FLAVOURS.values() for module in flavour.modules]


@pytest.fixture(scope="module")
def plan(tmp_path_factory, small_model):
    """A real plan of TensorRT for RTX."""
    from agp_edge.plan.build import plan_from_onnx

    path = tmp_path_factory.mktemp("plan") / "small.plan"
    plan_from_onnx(small_model, path, backend="rtx", targets=(86,))
    return path


def test_openvino_and_onnx_runtime_agree(small_model, good_frame, bad_frame):
    with (
        Detector(small_model, engine="onnxruntime") as one,
        Detector(small_model, engine="openvino") as two,
    ):
        assert one.engine_name.startswith("ONNX Runtime ")
        assert two.engine_name.startswith("OpenVINO ")
        for frame in (good_frame, bad_frame):
            first, second = one.score(frame), two.score(frame)
            assert first.score == pytest.approx(second.score, rel=1e-5)
            np.testing.assert_allclose(
                first.anomaly_map, second.anomaly_map, atol=1e-5 * np.ptp(first.anomaly_map)
            )


def has_bfloat16():
    text = Path("/proc/cpuinfo").read_text(encoding="ascii")
    return bool(re.search(r"^flags\s*:.* avx512_bf16( |$)", text, re.MULTILINE))


def test_bfloat16_where_the_cpu_has_it(small_model, bad_frame, image, capsys):
    if not has_bfloat16():
        with pytest.raises(DeviceError, match=r"no instructions for it .* use the engine 'openv"):
            Detector(small_model, engine="openvino-bf16")
        return
    with (
        Detector(small_model, engine="openvino") as fine,
        Detector(small_model, engine="openvino-bf16") as coarse,
    ):
        assert coarse.engine_name.endswith(", bfloat16)")
        assert "bfloat16" not in fine.engine_name
        exact, rounded = fine.score(bad_frame).score, coarse.score(bad_frame).score
    assert rounded != exact  # or it was not asked for
    assert rounded == pytest.approx(exact, rel=1e-2)
    assert main(["score", str(small_model), str(image), "--engine", "openvino-bf16"]) in (0, 3)


def test_openvino_keeps_a_tensor_s_own_name(small_model, tmp_path, good_frame):
    """It removes a node that does nothing, and then knows the input by both names."""
    import onnx

    model = onnx.load(small_model)
    model.graph.node.insert(
        0, onnx.helper.make_node("Cast", ["image"], ["a_cast"], to=onnx.TensorProto.FLOAT)
    )
    model.graph.node[1].input[0] = "a_cast"
    path = tmp_path / "cast.onnx"
    onnx.save(model, path)
    with Detector(path, engine="openvino") as cast, Detector(small_model) as plain:
        assert cast.score(good_frame).score == pytest.approx(plain.score(good_frame).score)


def test_the_fastest_engine_that_fits_is_the_default(small_model, write_model, tmp_path):
    with Detector(small_model) as detector, Detector(small_model, in_flight=64) as throughput:
        cores = len(os.sched_getaffinity(0))
        assert re.fullmatch(r"OpenVINO [\d.]+ \(threads \d+, streams 1\)", detector.engine_name), (
            detector.engine_name
        )
        assert throughput.engine_name.endswith(f", streams {cores})")


def test_int8_goes_to_openvino_where_its_sums_do_not_overflow(write_model, tmp_path, monkeypatch):
    integers = write_model(tmp_path / "int8.onnx", changes={"precision.asked": "int8"})
    for vnni, name in ((True, "OpenVINO"), (False, "ONNX Runtime")):
        monkeypatch.setattr(engines, "has_vnni", lambda vnni=vnni: vnni)
        with Detector(integers) as detector:
            assert detector.engine_name.startswith(name)
    monkeypatch.undo()
    cpuinfo = tmp_path / "cpuinfo"
    for flags, expected in (
        ("fpu avx2 avx512f", False),
        ("fpu avx2 avx512f avx512_vnni", True),
        ("fpu avx2 avx_vnni", True),
    ):
        cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: spectre_v1\n")
        assert engines.has_vnni(str(cpuinfo)) == expected
    assert not engines.has_vnni(str(tmp_path / "none"))


def test_buffers_are_bound_once(small_model, monkeypatch, good_frame):
    calls = []
    bind = ort_engine._Runner._bind
    monkeypatch.setattr(
        ort_engine._Runner, "_bind", lambda self, *args: (calls.append(args), bind(self, *args))
    )
    with Detector(small_model, engine="onnxruntime") as detector:
        for _ in range(5):
            detector.score(good_frame)
    assert len(calls) == 1


def test_new_addresses_are_bound_anew(small_model, good_frame, bad_frame):
    """Two pipelines over one engine, in turns: each gets the answer to its own frame."""
    from agp_edge.manifest import read_manifest_text

    text, _ = read_manifest_text(small_model)
    engine = ort_engine.open_onnx(str(small_model))
    one, two = (_core.Detector(text, "small", engine) for _ in range(2))
    expected = one.score(good_frame).score, one.score(bad_frame).score
    for _ in range(3):
        assert (one.score(good_frame).score, two.score(bad_frame).score) == expected


def test_the_engine_reads_and_writes_the_addresses_it_is_given(small_model):
    """The raw seam: our arrays in, our arrays out, no copy in between."""
    engine = ort_engine.open_onnx(str(small_model))
    assert engine.inputs == [("image", "float32", (1, 3, 64, 64))]
    assert engine.outputs == [("distance", "float32", (1, 1, 8, 8))]


def test_threads_are_handed_on(small_model, monkeypatch):
    import onnxruntime

    seen = []
    session = onnxruntime.InferenceSession

    def spy(path, options, **rest):
        seen.append(options.intra_op_num_threads)
        return session(path, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    cores = ort_engine._cores(())
    assert 1 <= cores <= len(os.sched_getaffinity(0))
    for options in ({"threads": 3}, {}, {"in_flight": 64}, {"cpu": 0}):
        Detector(small_model, engine="onnxruntime", **options).close()
    assert seen == [3, cores, 1, 1]


def test_a_failure_while_running_is_a_model_error(small_model, monkeypatch, good_frame):
    with Detector(small_model, engine="onnxruntime") as detector:
        expected = detector.score(good_frame).score
        run = ort_engine._Runner.__call__

        def fail(self, *args):
            self._session = None
            run(self, *args)

        monkeypatch.setattr(ort_engine._Runner, "__call__", fail)
        with pytest.raises(ModelError, match=r"ONNX Runtime failed on '.*small\.onnx'"):
            detector.score(good_frame)
    monkeypatch.undo()
    with Detector(small_model, engine="onnxruntime") as detector:
        assert detector.score(good_frame).score == expected


WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: (
    None if name.partition('.')[0] in {names!r} else find(name, package))
from agp_edge.cli import main
sys.exit(main(sys.argv[1:]))
"""


def cli_without(names, *arguments):
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(names=set(names)), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def image(tmp_path, good_frame):
    import cv2

    cv2.imwrite(str(tmp_path / "good.png"), good_frame)
    return tmp_path / "good.png"


def assert_one_line(done, *texts):
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert done.stderr.startswith("agp-edge: ")
    assert done.stderr.count("\n") == 1, done.stderr
    for text in texts:
        assert text in done.stderr


def test_without_openvino_onnx_runtime_runs(small_model, image):
    done = cli_without({"openvino"}, "score", small_model, image)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_onnx_runtime_openvino_runs(small_model, image):
    done = cli_without({"onnxruntime"}, "score", small_model, image)
    assert (done.returncode, done.stderr) == (0, "")
    assert_one_line(
        cli_without({"onnxruntime"}, "score", small_model, image, "--engine", "onnxruntime"),
        "'onnxruntime' is needed here and is not installed",
        "`pip install 'agp-edge[cpu]'`",
    )


def test_without_any_cpu_engine(small_model, image):
    assert_one_line(
        cli_without({"onnxruntime", "openvino"}, "score", small_model, image),
        "no engine that runs",
        "`pip install 'agp-edge[cpu]'`",
        "`pip install 'agp-edge[openvino]'`",
    )
    assert_one_line(
        cli_without({"openvino"}, "score", small_model, image, "--engine", "openvino"),
        "`pip install 'agp-edge[openvino]'`",
    )


def test_without_opencv(small_model, image):
    assert_one_line(
        cli_without({"cv2"}, "score", small_model, image), "pip install 'agp-edge[images]'"
    )


def test_require(tmp_path, monkeypatch):
    (tmp_path / "broken_package_a.py").write_text("import nothing_of_that_name_b")
    (tmp_path / "broken_package_c.py").write_text("raise ImportError('libx.so: not found')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DependencyError, match=r"b' is needed.*pip install 'agp-edge\[cpu\]'"):
        require("nothing_of_that_name_b", extra="cpu")
    with pytest.raises(DependencyError, match=r"a' is installed and does not load \(No module"):
        require("broken_package_a", extra="cpu")
    with pytest.raises(DependencyError, match=r"does not load \(libx\.so: not found\)"):
        require("broken_package_c", extra="cpu")
    assert require("json") is json


def test_each_module_is_in_the_extra_that_is_named():
    distributions = metadata.packages_distributions()
    requirements = [line.replace('"', "'") for line in metadata.requires("agp-edge") or []]
    for module, extra in EXTRA_OF_MODULE.items():
        names = {name.lower().replace("_", "-") for name in distributions[module]}
        assert any(
            re.split(r"[^\w-]", line)[0].lower() in names and f"extra == '{extra}'" in line
            for line in requirements
        ), (module, extra)


def test_plans_are_told_by_content(plan, small_model, tmp_path):
    assert is_plan(str(plan))
    assert not is_plan(str(small_model))
    (tmp_path / "plan.onnx").write_bytes(plan.read_bytes())
    assert is_plan(str(tmp_path / "plan.onnx"))
    (tmp_path / "onnx.plan").write_bytes(small_model.read_bytes())
    with Detector(tmp_path / "onnx.plan") as detector:
        assert "OpenVINO" in detector.engine_name


def test_a_plan_on_a_cpu_engine(plan):
    with pytest.raises(ModelError, match=r"plan and cannot run in openvino: open the \.onnx"):
        Detector(plan, engine="openvino")
    with pytest.raises(DeviceError, match="NVIDIA GPU only"):
        Detector(plan, device="cpu")


def test_a_plan_without_tensorrt(plan, image):
    for command in (("score", plan, image),):
        assert_one_line(
            cli_without((*TENSORRT_MODULES, *LIBRARY_PACKAGES), *command),
            "small.plan' is a TensorRT plan and no TensorRT is installed",
            "`pip install 'agp-edge[tensorrt]'`",
            "`pip install 'agp-edge[rtx]'`",
        )
    done = cli_without(TENSORRT_MODULES, "info", plan)  # needs none
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("module", sorted(TENSORRT_MODULES))
def test_a_plan_without_a_gpu_does_not_touch_tensorrt(module, plan, image, tmp_path):
    """Each flavour, as a package that kills the process when it is imported."""
    package = tmp_path / module
    package.mkdir()
    (package / "__init__.py").write_text("import os; os.abort()")
    done = subprocess.run(
        [sys.executable, "-m", "agp_edge", "score", plan, image],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": "-1"},
    )
    assert_one_line(done, "small.plan' is a TensorRT plan, and no NVIDIA GPU can be used here")


@pytest.mark.skipif(
    os.environ.get("AGP_EDGE_REQUIRE_GPU") == "1", reason="it is about machines without a GPU"
)
@pytest.mark.parametrize("flavour", ["rtx", "lean"])
def test_a_plan_without_a_gpu_with_the_real_wheels(flavour, plan, image):
    """The lean runtime segfaults here when it is asked before the driver is."""
    assert FLAVOURS[flavour].find_module(), f"the tests need {FLAVOURS[flavour].install}"
    others = set(TENSORRT_MODULES) - set(FLAVOURS[flavour].modules)
    assert_one_line(
        cli_without(others, "score", plan, image),
        "small.plan' is a TensorRT plan, and no NVIDIA GPU can be used here",
    )
