"""Graphs in memory run by ONNX Runtime on a CPU: input tensor -> any tensors of the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agp_edge.dependencies import require
from agp_edge.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from onnx import ModelProto

__all__ = ["open_graph"]

LOG_FATAL = 4


def open_graph(
    model: ModelProto, tensors: Sequence[str] = (), *, threads: int = 0
) -> Callable[[NDArray[np.float32]], list[Any]]:
    """A function from the input (1, 3, H, W) to the tensors asked for.

    Q/DQ pairs are computed as they stand, in floating point: the integer kernels of some CPUs
    saturate (16-bit sums without VNNI), which no TensorRT device does.

    Args:
        model: with one input.
        tensors: names of FP32 tensors; (): the graph's own outputs.
        threads: 0: one per core.

    Raises:
        ModelError: ONNX Runtime refuses the graph.
    """
    onnx = require("onnx", extra="train")
    runtime = require("onnxruntime", extra="cpu")
    if tensors:
        graph = onnx.ModelProto()
        graph.CopyFrom(model)
        del graph.graph.output[:]
        for name in tensors:
            graph.graph.output.append(
                onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            )
        model = graph
    options = runtime.SessionOptions()
    options.log_severity_level = LOG_FATAL
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = runtime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its exceptions share no base but Exception
        raise ModelError(
            f"ONNX Runtime {runtime.__version__} refuses a graph made for calibration "
            f"({str(error).strip().partition(chr(10))[0]}): export the model again"
        ) from error
    source = session.get_inputs()[0].name
    names = [output.name for output in session.get_outputs()]

    def run(image: NDArray[np.float32]) -> list[Any]:
        answer: list[Any] = session.run(names, {source: image})
        return answer

    return run
