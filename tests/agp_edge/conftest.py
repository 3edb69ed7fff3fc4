"""Small real models: an ONNX file of one convolution, with a manifest that fits it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from agp_edge.manifest import (
    MANIFEST_KEY,
    InputSpec,
    Manifest,
    OutputSpec,
    PostprocessSpec,
    ThresholdSpec,
)

SIZE = 64
STRIDE = 8
GRID = SIZE // STRIDE


class WriteModel(Protocol):
    def __call__(
        self,
        path: Path,
        *,
        changes: dict[str, Any] | None = None,
        manifest: str | None = "",
        poison: float | None = None,
        external_data: bool = False,
    ) -> Path: ...


def small_manifest() -> dict[str, Any]:
    manifest = Manifest(
        name="small",
        backbone="one-convolution",
        input=InputSpec(
            name="image", height=SIZE, width=SIZE, mean=(118.0, 120.0, 122.0), std=(57.0,) * 3
        ),
        output=OutputSpec(name="distance", height=GRID, width=GRID),
        postprocess=PostprocessSpec(sigma=2.0),
        threshold=ThresholdSpec(
            value=0.3, method="test", false_reject=0.05, n=20, unit="images", mask_value=None
        ),
        opset=18,
        created="2026-01-01T00:00:00+00:00",
    )
    document: dict[str, Any] = json.loads(manifest.to_json())
    return document


@pytest.fixture(scope="session")
def write_model() -> WriteModel:
    """Writes distance = mean over 8 channels of convolution squared, (1,3,64,64) -> (1,1,8,8)."""

    def write(
        path: Path,
        *,
        changes: dict[str, Any] | None = None,
        manifest: str | None = "",
        poison: float | None = None,
        external_data: bool = False,
    ) -> Path:
        """`changes` by dotted key; `manifest`: the whole text, or None for none at all.

        `poison` is added to the output: NaN makes every answer NaN.
        """
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        rng = np.random.default_rng(0)
        kernels = rng.normal(0, 0.07, (8, 3, STRIDE, STRIDE)).astype(np.float32)
        constants = {
            "kernels": kernels,
            "channel_axis": np.array([1], np.int64),
            "poison": np.array(0.0 if poison is None else poison, np.float32),
        }
        graph = helper.make_graph(
            [
                helper.make_node(
                    "Conv", ["image", "kernels"], ["c"], name="conv", strides=[STRIDE] * 2
                ),
                helper.make_node("Mul", ["c", "c"], ["squares"], name="square"),
                helper.make_node("ReduceMean", ["squares", "channel_axis"], ["m"], name="mean"),
                helper.make_node("Add", ["m", "poison"], ["distance"], name="add"),
            ],
            "small",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
            [helper.make_tensor_value_info("distance", TensorProto.FLOAT, [1, 1, GRID, GRID])],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        if manifest == "":
            document = small_manifest()
            for key, value in (changes or {}).items():
                part = document
                *outer, last = key.split(".")
                for name in outer:
                    part = part[name]
                part[last] = value
            manifest = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
        if manifest is not None:
            helper.set_model_props(model, {MANIFEST_KEY: manifest})
        if external_data:
            onnx.save(
                model, path, save_as_external_data=True, location="weights.bin", size_threshold=99
            )
        else:
            onnx.save(model, path)
        return path

    return write


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory, write_model: WriteModel) -> Path:
    return write_model(tmp_path_factory.mktemp("small") / "small.onnx")


@pytest.fixture(scope="session")
def good_frame() -> np.ndarray:
    """uint8 (96, 128, 3), smooth: scores well below the small model's threshold."""
    y, x = np.mgrid[0:96, 0:128]
    frame = np.stack([110 + x // 8, 115 + y // 8, 120 + (x + y) // 16], axis=2)
    return frame.astype(np.uint8)


@pytest.fixture(scope="session")
def bad_frame(good_frame: np.ndarray) -> np.ndarray:
    """The good frame with a bright, patterned square at x 80-104, y 24-48."""
    frame = good_frame.copy()
    frame[24:48, 80:104] = 255
    frame[24:48:2, 80:104:2] = 0
    return frame
