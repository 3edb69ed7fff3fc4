"""Everything that can be wrong with what we are given: one error class, one line, exit code 1."""

import subprocess
import sys

import numpy as np
import pytest

from agp_edge import (
    DataError,
    DependencyError,
    Detector,
    DeviceError,
    Error,
    FrameError,
    ModelError,
)
from agp_edge.cli import main

NAN = float("nan")


@pytest.fixture
def one_line(capfd):
    """Runs the command line; returns its only line on stderr, after checking exit code 1."""

    def run(*arguments: object) -> str:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        # capfd sees the file descriptor: native libraries that log are caught as well.
        stderr = capfd.readouterr().err
        assert code == 1, stderr
        assert stderr.startswith("agp-edge: ")
        assert stderr.count("\n") == 1, stderr
        assert "Traceback" not in stderr
        assert "this is a bug" not in stderr
        return stderr

    return run


@pytest.fixture
def image(tmp_path, good_frame):
    import cv2

    path = tmp_path / "good.png"
    cv2.imwrite(str(path), good_frame)
    return path


@pytest.fixture
def write(tmp_path, write_model):
    """`write_model` into this test's own folder, by name."""
    return lambda name, **options: write_model(tmp_path / name, **options)


def make_missing(tmp_path, write):
    return tmp_path / "none.onnx"


def make_folder(tmp_path, write):
    return tmp_path


def make_empty(tmp_path, write):
    (tmp_path / "empty.onnx").touch()
    return tmp_path / "empty.onnx"


def make_text(tmp_path, write):
    (tmp_path / "text.onnx").write_text("this is not a model\n" * 100)
    return tmp_path / "text.onnx"


def make_foreign(tmp_path, write):
    return write("foreign.onnx", manifest=None)


def make_truncated(tmp_path, write):
    path = write("short.onnx")
    path.write_bytes(path.read_bytes()[:3000])
    return path


def make_newer(tmp_path, write):
    return write("newer.onnx", changes={"agp_edge_manifest": "2.0"})


def make_no_json(tmp_path, write):
    return write("json.onnx", manifest='{"agp_edge_manifest":"1.0",')


def make_lacking(tmp_path, write):
    return write("lacking.onnx", manifest='{"agp_edge_manifest":"1.0","name":"m"}')


BAD_MODELS = [
    (make_missing, r"none\.onnx' does not exist"),
    (make_folder, "is a folder, an .onnx file or a plan is expected"),
    (make_empty, r"empty\.onnx' is empty"),
    (make_text, r"text\.onnx' is no model of agp_edge"),
    (make_foreign, r"foreign\.onnx' is an ONNX file without an agp_edge manifest"),
    (make_truncated, r"short\.onnx' .*truncated or corrupt"),
    (make_newer, r"newer\.onnx' is of version 2\.0, .*install a newer agp-edge"),
    (make_no_json, r"json\.onnx' is not valid JSON"),
    (make_lacking, r"lacking\.onnx' lacks the key 'backbone'"),
]


@pytest.mark.parametrize(("make", "message"), BAD_MODELS)
def test_bad_model(make, message, write, image, one_line):
    path = make(image.parent, write)
    with pytest.raises(ModelError, match=message):
        Detector(path)
    for command in (("info", path), ("score", path, image), ("build", path, "-o", "x.plan")):
        assert path.name in one_line(*command)


# What the manifest says and the graph does not do.
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input.name": "picture"}, "has the input 'image', its manifest says 'picture'"),
        ({"output.name": "map"}, "has the output 'distance', its manifest says 'map'"),
        ({"input.height": 128}, r"input .*64.*its manifest says float32 .*128"),
        ({"output.width": 4}, r"output .*its manifest says float32 .*4"),
        ({"input.std": [1, 0, 1]}, r"input\.std"),
        ({"postprocess.score": "median"}, r"postprocess\.score \"median\""),
        ({"input.roi": [0, 0, 10]}, r"input\.roi"),
    ],
)
def test_manifest_that_does_not_fit(changes, message, write, image, one_line):
    path = write("misfit.onnx", changes=changes)
    with pytest.raises(ModelError, match=message):
        Detector(path)
    one_line("score", path, image)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_float16_inputs_and_outputs(dtype, tmp_path, write, image, one_line):
    """Somebody else's conversion, whatever its manifest says: for a GPU, and not for a CPU.

    Ours keeps float32 at both ends.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    from agp_edge.calibration.fp16.convert import fp16_from_onnx
    from agp_edge.manifest import read_manifest

    changes = {"input.dtype": dtype, "output.dtype": dtype, "precision.asked": "fp16"}
    path, plan = write("foreign.onnx", changes=changes), tmp_path / "m.plan"
    onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=False), path)
    sentence = (
        r"input 'image' float16 \(1, 3, 64, 64\), float32 \(.*\) is expected.*--precision fp16"
    )
    with pytest.raises(ModelError, match=sentence):
        Detector(path, engine="onnxruntime")
    with pytest.raises(ModelError, match=r"'image' .* is not float32, .*--precision fp16"):
        Detector(path, engine="openvino")
    assert "is expected" in one_line("score", path, image)
    assert main(["build", str(path), "-o", str(plan), "--backend", "rtx"]) == 0
    assert read_manifest(plan)["precision"]["asked"] == "fp16"

    ours = tmp_path / "ours.onnx"
    fp16_from_onnx(write("fp32.onnx"), ours)
    graph = onnx.load(ours).graph
    ends = [*graph.input, *graph.output]
    assert {end.type.tensor_type.elem_type for end in ends} == {onnx.TensorProto.FLOAT}


def test_graph_that_the_engine_refuses(write, image, one_line):
    import onnx

    path = write("unknown.onnx")
    model = onnx.load(path)
    model.graph.node[1].op_type = "Frobnicate"
    onnx.save(model, path)
    for engine in ("onnxruntime", "openvino"):
        with pytest.raises(ModelError, match=r"unknown\.onnx' .*Frobnicate"):
            Detector(path, engine=engine)
        assert "Frobnicate" in one_line("score", path, image, "--engine", engine)


def test_dynamic_shapes(write, image, one_line):
    import onnx

    path = write("dynamic.onnx")
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(model, path)
    with pytest.raises(ModelError, match=r"'image' of .*'batch', 3, 64, 64.*static shape"):
        Detector(path, engine="onnxruntime")
    with pytest.raises(ModelError, match=r"'image' of .* has a dynamic shape, .*static shape"):
        Detector(path, engine="openvino")
    one_line("score", path, image)


@pytest.mark.parametrize("there", [True, False])
def test_weights_in_another_file(there, tmp_path, write, image, one_line):
    """The hash of the model would not cover them; the sentence's own remedy works."""
    import onnx

    path = write("external.onnx", external_data=True)
    single = tmp_path / "single.onnx"
    onnx.save_model(onnx.load(path), single)
    if not there:
        (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"external\.onnx' keeps .*'weights\.bin'.*save_model"):
        Detector(path)
    plan = tmp_path / "m.plan"
    for command in (["score", path, image], ["info", path], ["build", path, "-o", plan]):
        assert "'weights.bin'" in one_line(*command)
    assert not plan.exists()
    with Detector(single) as detector:
        assert np.isfinite(detector.score(np.zeros((64, 64), np.uint8)).score)


@pytest.mark.parametrize("length", [3, 40, 200, 20_000])
def test_names_of_external_files(length, tmp_path):
    """Of any length; and metadata with the key `location` is no other file."""
    import onnx

    from agp_edge._core import refuse_external_data

    model = onnx.ModelProto()
    onnx.helper.set_model_props(model, {"location": "hall 4" + "." * length})
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    refuse_external_data(str(path))
    tensor = model.graph.initializer.add()
    tensor.external_data.add(key="location", value="w" * length)
    path.write_bytes(model.SerializeToString())
    shown = "w" * min(length, 4096)  # no path is longer
    with pytest.raises(ModelError, match=f"another file, '{shown}',"):
        refuse_external_data(str(path))


@pytest.mark.parametrize("poison", [NAN, float("inf")])
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_output_that_is_not_finite(poison, engine, write, image, one_line):
    path = write("nan.onnx", poison=poison)
    with Detector(path, engine=engine) as detector:
        for _ in range(2):  # usable afterwards: it fails the same way again
            with pytest.raises(ModelError, match="finite"):
                detector.score(np.zeros((9, 9), np.uint8))
    assert "finite" in one_line("score", path, image, "--engine", engine)


def test_nan_fails_the_self_test_on_load(write):
    path = write("nan.onnx", poison=NAN, changes={"self_test": {"seed": 1, "score": 0.1}})
    with pytest.raises(ModelError, match="finite"):
        Detector(path)


BAD_FRAMES = [
    (np.zeros((0, 0, 3), np.uint8), "expected|height"),
    (np.zeros((0, 5), np.uint8), "expected|height"),
    (np.zeros((5, 0, 3), np.uint8), "expected|width"),
    (np.zeros((5, 5, 4), np.uint8), r"uint8 \(5, 5, 4\).*\(height, width, 3\) BGR"),
    (np.zeros((5, 5, 1), np.uint8), r"uint8 \(5, 5, 1\)"),
    (np.zeros((5, 5, 3), np.float32), r"float32 \(5, 5, 3\)"),
    (np.full((5, 5), NAN), r"float64 \(5, 5\)"),
    (np.zeros((5, 5, 3), np.uint16), r"uint16 \(5, 5, 3\)"),
    (np.zeros((5, 5, 3), np.int8), r"int8 \(5, 5, 3\)"),
    (np.zeros((5, 5, 3), bool), r"bool \(5, 5, 3\)"),
    (np.zeros(5, np.uint8), r"uint8 \(5,\)"),
    (np.zeros((2, 5, 5, 3), np.uint8), r"uint8 \(2, 5, 5, 3\)"),
    (np.array([[None]]), r"object \(1, 1\)"),
    (b"12345", r"uint8 \(5,\)"),
    ([[1, 2], [3, 4]], r"builtins\.list, .*np\.asarray\(frame\)"),
    (None, r"NoneType, .*np\.asarray"),
    ("frame.png", r"builtins\.str, .*np\.asarray"),
]


@pytest.mark.parametrize(("frame", "message"), BAD_FRAMES)
def test_bad_frame(frame, message, small_model, good_frame):
    with Detector(small_model) as detector:
        expected = detector.score(good_frame).score
        with pytest.raises(FrameError, match=message):
            detector.score(frame)
        assert detector.score(good_frame).score == expected


def test_pil_image(small_model, good_frame):
    from PIL import Image  # comes with torchvision

    with (
        Detector(small_model) as detector,
        pytest.raises(FrameError, match=r"PIL\.Image\.Image, .*np\.asarray\(frame\).*'rgb8'"),
    ):
        detector.score(Image.fromarray(good_frame))


@pytest.mark.parametrize("format", ["bgr", "mono14", ""])
def test_unknown_format(format, small_model, good_frame):
    with (
        Detector(small_model) as detector,
        pytest.raises(FrameError, match=r"bgr8.*rgb8.*mono8"),
    ):
        detector.score(good_frame, format=format)


def test_format_of_another_rank(small_model, good_frame):
    with Detector(small_model) as detector:
        with pytest.raises(FrameError, match="mono8"):
            detector.score(good_frame, format="mono8")
        with pytest.raises(FrameError, match="bgr8"):
            detector.score(good_frame[:, :, 0], format="bgr8")


def test_region_of_interest_outside_the_frame(small_model, image, one_line):
    line = one_line("score", small_model, image, "--roi", "100,0,64,64")
    assert "region of interest" in line
    assert image.name in line


def test_unreadable_images(small_model, tmp_path, image, one_line, capfd):
    import cv2

    assert "does_not_exist.png" in one_line("score", small_model, tmp_path / "does_not_exist.png")
    truncated = tmp_path / "truncated.png"
    truncated.write_bytes(image.read_bytes()[:200])
    assert "truncated.png" in one_line("score", small_model, truncated)
    text = tmp_path / "text.jpg"
    text.write_text("not an image")
    assert "text.jpg" in one_line("score", small_model, text)
    cv2.imwrite(str(tmp_path / "deep.png"), np.zeros((8, 8), np.uint16))
    assert "deep.png" in one_line("score", small_model, tmp_path / "deep.png")


def test_folders_without_images(small_model, tmp_path, one_line):
    empty = tmp_path / "empty"
    assert "empty" in one_line("score", small_model, empty)
    empty.mkdir()
    assert "holds no image" in one_line("score", small_model, empty)
    (empty / "notes.txt").touch()
    assert "holds no image" in one_line("score", small_model, empty)


@pytest.mark.parametrize("threshold", ["nan", "inf"])
def test_threshold_that_decides_nothing(threshold, small_model, image, one_line):
    assert "finite" in one_line("score", small_model, image, "--threshold", threshold)


def test_the_error_tree():
    for kind in (ModelError, FrameError, DeviceError, DataError, DependencyError):
        assert issubclass(kind, Error)
        assert not issubclass(Error, kind)


MUTANTS = """
import random, sys
from pathlib import Path
from agp_edge import Detector, Error, read_manifest
import numpy as np

original = Path(sys.argv[1]).read_bytes()
target = Path(sys.argv[2])
chance = random.Random(sys.argv[3])
frame = np.zeros((64, 64, 3), np.uint8)
outcomes = {}
for turn in range(40):
    data = bytearray(original)
    kind = turn % 4
    if kind == 0:
        del data[chance.randrange(len(data)):]
    elif kind == 1:
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif kind == 2:  # the structure lies in what is not weights
        for _ in range(4):
            data[-chance.randrange(1, min(len(data), 2000))] = chance.randrange(256)
    else:
        start = chance.randrange(len(data))
        data[start:start + chance.randrange(200)] = original[:chance.randrange(200)]
    target.write_bytes(data)
    for use in (read_manifest, lambda path: Detector(path, engine=sys.argv[3]).score(frame)):
        try:
            use(target)
            outcome = "fine"
        except Error as error:
            assert len(str(error).splitlines()) == 1, str(error)
            outcome = type(error).__name__
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
print(outcomes)
"""


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_mutated_files_never_crash(engine, small_model, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", MUTANTS, small_model, tmp_path / "mutant.onnx", engine],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.startswith("{"), done.stdout  # nobody else prints
    assert "ModelError" in done.stdout


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_names_that_are_not_utf8(engine, write, image, one_line):
    path = write("name.onnx")
    data = path.read_bytes()
    assert data.count(b"ReduceMean") == 1
    path.write_bytes(data.replace(b"ReduceMean", b"Reduce\xffean"))
    with pytest.raises(ModelError, match=r"name\.onnx"):
        Detector(path, engine=engine)
    one_line("score", path, image, "--engine", engine)
