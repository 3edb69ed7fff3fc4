"""What one writes without this package: an engine's Python API between OpenCV and NumPy.

The engine's own defaults but for the number of threads; the same steps as the manifest names, by
the fastest call that a well-known library has for each.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from agp_edge.bench.against.way import Way
from agp_edge.dependencies import require

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    Infer = Callable[[NDArray[np.float32]], NDArray[np.float32]]

__all__ = ["onnxruntime_opencv", "onnxruntime_scipy", "openvino_opencv", "openvino_opencv_fp32"]


def onnxruntime_opencv(model: str, manifest: Mapping[str, Any], *, threads: int) -> Way:
    """ONNX Runtime between OpenCV's resize (INTER_AREA) and OpenCV's blur."""
    return Way(
        name="ONNX Runtime + OpenCV",
        score=_scorer(manifest, _onnxruntime(model, threads), _resize_area, _blur_opencv, threads),
        same_graph=True,
        note=_resize_note(manifest),
    )


def onnxruntime_scipy(model: str, manifest: Mapping[str, Any], *, threads: int) -> Way:
    """ONNX Runtime between the resize that the manifest names and SciPy's Gaussian filter."""
    exact = manifest["input"]["resize"] == "antialias"
    return Way(
        name=f"ONNX Runtime + {'Pillow' if exact else 'OpenCV'} + SciPy",
        score=_scorer(
            manifest,
            _onnxruntime(model, threads),
            _resize_pillow() if exact else _resize_area,
            _blur_scipy(),
            threads,
        ),
        same_graph=True,
    )


def openvino_opencv(model: str, manifest: Mapping[str, Any], *, threads: int) -> Way:
    """OpenVINO between OpenCV's resize (INTER_AREA) and OpenCV's blur.

    By its own default it calculates in bfloat16 where the CPU can, which the note says.
    """
    infer, arithmetic = _openvino(model, threads, {})
    notes = ("" if arithmetic == "f32" else f"calculates in {arithmetic}", _resize_note(manifest))
    return Way(
        name="OpenVINO + OpenCV",
        score=_scorer(manifest, infer, _resize_area, _blur_opencv, threads),
        same_graph=True,
        note="; ".join(filter(None, notes)),
    )


def openvino_opencv_fp32(model: str, manifest: Mapping[str, Any], *, threads: int) -> Way:
    """The same, told to calculate in float32 as ours does."""
    infer, _ = _openvino(model, threads, {"INFERENCE_PRECISION_HINT": "f32"})
    return Way(
        name="OpenVINO in FP32 + OpenCV",
        score=_scorer(manifest, infer, _resize_area, _blur_opencv, threads),
        same_graph=True,
        note=_resize_note(manifest),
    )


def _resize_note(manifest: Mapping[str, Any]) -> str:
    rule = manifest["input"]["resize"]
    return "" if rule == "area" else f"INTER_AREA instead of {rule}, which OpenCV has not"


def _onnxruntime(model: str, threads: int) -> Infer:
    runtime = require("onnxruntime", extra="cpu")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def infer(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        (output,) = session.run(None, {name: tensor})
        return np.asarray(output, np.float32)

    return infer


def _openvino(model: str, threads: int, wanted: Mapping[str, str]) -> tuple[Infer, str]:
    """The call, and the arithmetic that OpenVINO chose: "f32", "bf16"..."""
    openvino = require("openvino", extra="openvino")
    settings = {"PERFORMANCE_HINT": "LATENCY", **wanted}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = str(threads)
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()

    def infer(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(request.infer([tensor])[0], np.float32)

    return infer, str(compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())


def _resize_area(frame: NDArray[Any], width: int, height: int) -> NDArray[Any]:
    cv2 = require("cv2", extra="images")
    rows, columns = frame.shape[:2]
    shrinks = width <= columns and height <= rows
    rule = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(frame, (width, height), interpolation=rule))


def _resize_pillow() -> Callable[[NDArray[Any], int, int], NDArray[Any]]:
    image = require("PIL.Image")

    def resize(frame: NDArray[Any], width: int, height: int) -> NDArray[Any]:
        picture = image.fromarray(np.ascontiguousarray(frame))
        return np.asarray(picture.resize((width, height), image.Resampling.BILINEAR))

    return resize


def _blur_opencv(grid: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    cv2 = require("cv2", extra="images")
    side = 2 * math.ceil(4 * sigma) + 1
    return np.asarray(
        cv2.GaussianBlur(grid, (side, side), sigma, borderType=cv2.BORDER_REFLECT_101)
    )


def _blur_scipy() -> Callable[[NDArray[np.float32], float], NDArray[np.float32]]:
    ndimage = require("scipy.ndimage", extra="bench")

    def blur(grid: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
        return np.asarray(ndimage.gaussian_filter(grid, sigma, mode="mirror", truncate=4.0))

    return blur


def _scorer(
    manifest: Mapping[str, Any],
    infer: Infer,
    resize: Callable[[NDArray[Any], int, int], NDArray[Any]],
    blur: Callable[[NDArray[np.float32], float], NDArray[np.float32]],
    threads: int,
) -> Callable[[NDArray[Any]], float]:
    """Crop, resize, RGB, normalise, infer, upsample, blur, score, mask and regions."""
    cv2 = require("cv2", extra="images")
    cv2.setNumThreads(threads or os.cpu_count() or 1)
    spec, post = manifest["input"], manifest["postprocess"]
    mean, std = (np.array(spec[key], np.float32) for key in ("mean", "std"))
    width, height, roi = spec["width"], spec["height"], spec["roi"]
    threshold = (manifest["threshold"] or {}).get("value", np.inf)

    def score(frame: NDArray[Any]) -> float:
        if roi is not None:
            x, y, columns, rows = roi
            frame = frame[y : y + rows, x : x + columns]
        small = resize(frame, width, height)
        if small.ndim == 2:
            small = cv2.cvtColor(small, cv2.COLOR_GRAY2RGB)
        elif spec["channels"] == "rgb":
            small = cv2.cvtColor(small, cv2.COLOR_BGR2RGB)
        tensor = (small.astype(np.float32) - mean) / std
        grid = infer(np.ascontiguousarray(tensor.transpose(2, 0, 1))[None]).reshape(
            manifest["output"]["height"], manifest["output"]["width"]
        )
        anomaly_map = cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR)
        if post["sigma"] > 0:
            anomaly_map = blur(anomaly_map, post["sigma"])
        mask = (anomaly_map > threshold).astype(np.uint8)
        cv2.connectedComponentsWithStats(mask, connectivity=8)
        largest = float(anomaly_map.max())
        if post["score"] == "max" or (post["score"] == "power_mean" and largest <= 0):
            return largest
        if post["score"] == "power_mean":
            power = float(post["power"])
            shares = np.maximum(anomaly_map / largest, 0.0) ** power
            return float(largest * shares.mean(dtype=np.float64) ** (1.0 / power))
        count = max(1, round(post["top_share"] * anomaly_map.size))
        return float(np.partition(anomaly_map.ravel(), -count)[-count:].mean())

    return score
