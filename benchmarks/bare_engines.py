"""The engines of this CPU, and their calls alone: what `Detector.score` cannot be faster than."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import torch

import agp_edge
from agp_edge import DeviceError

SIDE = 256
ENGINES = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "openvino-bf16": "OpenVINO in bfloat16",
}


def engines_here(model: Path) -> dict[str, str]:
    """Those of ENGINES that this CPU has the instructions for; others are named and left out."""
    found = {}
    for engine, title in ENGINES.items():
        try:
            agp_edge.Detector(model, engine=engine, threads=1)
        except DeviceError as error:
            print(f"{title} is left out: {error}", flush=True)
        else:
            found[engine] = title
    return found


def bare_onnxruntime(model: Path) -> Callable[[], float]:
    """One run of the session on bound memory: the least that ONNX Runtime's Python API costs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    tensor = np.random.default_rng(0).normal(size=(1, 3, SIDE, SIDE)).astype(np.float32)
    value = onnxruntime.OrtValue.ortvalue_from_numpy(tensor)
    binding.bind_ortvalue_input(session.get_inputs()[0].name, value)
    output = session.get_outputs()[0]
    out = onnxruntime.OrtValue.ortvalue_from_shape_and_type(output.shape, np.float32)
    binding.bind_ortvalue_output(output.name, out)

    def call() -> float:
        session.run_with_iobinding(binding)
        return 1.0

    return call


def bare_openvino(model: Path) -> Callable[[], float]:
    """One inference on the request's own tensors."""
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": "1",
        "INFERENCE_PRECISION_HINT": "f32",  # as ours; its default may be bfloat16
    }
    request = openvino.Core().compile_model(str(model), "CPU", settings).create_infer_request()
    tensor = np.random.default_rng(0).normal(size=(1, 3, SIDE, SIDE)).astype(np.float32)
    request.get_input_tensor().data[:] = tensor

    def call() -> float:
        request.start_async()
        request.wait()
        return 1.0

    return call


def arithmetic(model: Path) -> dict[str, Any]:
    """Multiplications of one frame, and a second: of the network, and of a matrix product."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(model)).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*graph.value_info, *graph.input, *graph.output]
    }
    constants = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    count = 0
    for node in graph.node:
        shape = shapes.get(node.output[0], [])
        if node.op_type == "Conv":
            count += int(np.prod(constants[node.input[1]])) * shape[2] * shape[3]
        elif node.op_type == "MatMul" and node.input[0] not in constants:
            count += int(np.prod(shape)) * shapes[node.input[0]][-1]
    torch.set_num_threads(1)
    square = torch.rand(1024, 1024)
    calls = {"onnxruntime": bare_onnxruntime(model), "openvino": bare_openvino(model)}
    times: dict[str, list[float]] = {name: [] for name in (*calls, "product")}
    for _ in range(40):
        for name, call in {**calls, "product": lambda: square @ square}.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    medians = {name: float(np.median(values)) for name, values in times.items()}
    rates = {name: count / medians[name] / 1e9 for name in calls}
    return {
        "multiplications": count,
        "product_g_s": 1024**3 / medians["product"] / 1e9,
        "g_s": rates,
    }
