"""A small real model and photographs of parts, several of each."""

import json

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from agp_edge.manifest import (
    MANIFEST_KEY,
    InputSpec,
    Manifest,
    OutputSpec,
    PostprocessSpec,
    ThresholdSpec,
)


def write_small_model(path, *, score="max", seed=0):
    """Distance = mean over 8 channels of a convolution squared, (1, 3, 64, 64) -> (1, 1, 8, 8)."""
    kernels = np.random.default_rng(seed).normal(0, 0.07, (8, 3, 8, 8)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "kernels"], ["c"], strides=[8, 8]),
            helper.make_node("Mul", ["c", "c"], ["squares"]),
            helper.make_node("ReduceMean", ["squares", "axis"], ["distance"]),
        ],
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 64, 64])],
        [helper.make_tensor_value_info("distance", TensorProto.FLOAT, [1, 1, 8, 8])],
        [
            numpy_helper.from_array(kernels, "kernels"),
            numpy_helper.from_array(np.array([1], np.int64), "axis"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    manifest = Manifest(
        name="small",
        backbone="one-convolution",
        input=InputSpec(
            name="image", height=64, width=64, mean=(118.0, 120.0, 122.0), std=(57.0,) * 3
        ),
        output=OutputSpec(name="distance", height=8, width=8),
        postprocess=PostprocessSpec(sigma=2.0, score=score),
        threshold=ThresholdSpec(value=0.3, method="test", false_reject=0.05, n=20, unit="images"),
        opset=18,
    )
    props = {"author": "somebody", MANIFEST_KEY: manifest.to_json(), "later": "x" * 300}
    helper.set_model_props(model, props)
    onnx.save(model, path)
    return path


def photo(rng, defect=0, size=(96, 128)):
    """uint8 (H, W, 3): a smooth part with its own texture; `defect` pixels a side of a square."""
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    frame = np.stack([110 + x // 8, 115 + y // 8, 120 + (x + y) // 16], axis=2).astype(float)
    frame += rng.normal(0, 6 + 4 * rng.random(), frame.shape)
    if defect:
        frame[24 : 24 + defect, 80 : 80 + defect] = 255
        frame[24 : 24 + defect : 2, 80 : 80 + defect : 2] = 0
    return np.clip(frame, 0, 255).astype(np.uint8)


def write_photo(path, frame):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), frame)


@pytest.fixture
def model(tmp_path):
    return write_small_model(tmp_path / "m.onnx")


@pytest.fixture
def good(tmp_path):
    """40 photographs of as many good parts."""
    rng = np.random.default_rng(7)
    for number in range(40):
        write_photo(tmp_path / "good" / f"p{number:02d}.png", photo(rng))
    return tmp_path / "good"


@pytest.fixture
def known(tmp_path):
    """20 good parts with two photographs each, and 12 of each of two defect types, by folders."""
    rng = np.random.default_rng(8)
    sides = {"good": (20, 0), "large": (12, 24), "small": (12, 5)}
    for kind, (parts, side) in sides.items():
        for number in range(parts):
            for shot in range(2):
                write_photo(
                    tmp_path / f"known/{kind}/part{number:02d}/{shot}.png", photo(rng, side)
                )
    return tmp_path / "known"


@pytest.fixture
def command(capsys):
    """Runs one `agp-edge` command: exit code, stdout, stderr."""
    from agp_edge.cli import main

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def threshold_of():
    from agp_edge import read_manifest

    return lambda path: json.loads(json.dumps(read_manifest(path)))["threshold"]
