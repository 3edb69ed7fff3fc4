"""ONNX Runtime on a CPU, as a callable engine bound to the pipeline's own buffers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agp_edge.dependencies import require
from agp_edge.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agp_edge import _core

__all__ = ["open_onnx"]

# ONNX Runtime's names of the types that the pipeline knows.
DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16"}
# Its messages reach the caller as exceptions; on stderr they would be a second report.
LOG_FATAL = 4


def open_onnx(
    path: str,
    *,
    threads: int = 0,
    content: bytes | None = None,
    streams: int = 1,
    cpus: Sequence[int] = (),
) -> _core.Engine:
    """Load an ONNX file into ONNX Runtime's CPU provider.

    Args:
        path: the file.
        threads: inside one operator; 0: one per physical core, shared by the streams.
        content: the file's bytes, where they were read already; None: the file is read.
        streams: frames that the engine's clones run at a time.
        cpus: the only ones to use; none: as the process's.

    Raises:
        DependencyError: onnxruntime is not installed.
        ModelError: ONNX Runtime refuses the file, or a tensor is not static float.
    """
    from agp_edge import _core  # noqa: PLC0415  (kept out of `import agp_edge`)

    runtime = require("onnxruntime", extra="cpu")
    options = runtime.SessionOptions()
    options.log_severity_level = LOG_FATAL
    # Never 0, its own choice: it would pin its threads, to other cores than we were given.
    threads = threads or max(1, _cores(cpus) // streams)
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Waiting workers would burn the cores that the camera, our own stages and other processes need:
    # on a busy machine of two cores a frame took twice as long with it.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Q/DQ pairs as they stand: its own rewriting of FP16 pairs (1.32) gave a good solar cell the
    # score of a defect, and is no faster.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        # Without a fallback: it would print on stdout and try the same provider again.
        session = runtime.InferenceSession(
            path if content is None else content,
            options,
            providers=["CPUExecutionProvider"],
            enable_fallback=0,
        )
    except Exception as error:  # its exceptions share no base but Exception
        raise ModelError(
            f"ONNX Runtime {runtime.__version__} cannot load '{path}' ({_first_line(error)}): "
            "export the model again"
        ) from error
    inputs = [_spec(path, tensor) for tensor in session.get_inputs()]
    outputs = [_spec(path, tensor) for tensor in session.get_outputs()]
    runner = _Runner(path, session, runtime, inputs, outputs)
    return _core.CallableEngine(
        f"ONNX Runtime {runtime.__version__} (threads {threads})",
        inputs,
        outputs,
        runner,
        clone=runner.clone,
    )


TensorSpec = tuple[str, str, list[int]]


class _Runner:
    """The function behind the engine; binds the pipeline's addresses once."""

    def __init__(
        self,
        path: str,
        session: Any,
        runtime: Any,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
    ) -> None:
        self._path = path
        self._session = session
        self._runtime = runtime
        self._inputs = inputs
        self._outputs = outputs
        self._binding = session.io_binding()
        self._bound: tuple[tuple[int, ...], tuple[int, ...]] | None = None
        self._options = runtime.RunOptions()
        self._options.log_severity_level = LOG_FATAL

    def __call__(self, stream: int, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        addresses = (tuple(inputs), tuple(outputs))
        if addresses != self._bound:
            self._bind(*addresses)
        try:
            self._session.run_with_iobinding(self._binding, self._options)
        except Exception as error:  # its exceptions share no base but Exception
            raise ModelError(
                f"ONNX Runtime failed on '{self._path}' ({_first_line(error)})"
            ) from error

    def clone(self) -> _Runner:
        """A run beside this one: the session is shared, the binding is its own."""
        return _Runner(self._path, self._session, self._runtime, self._inputs, self._outputs)

    def _bind(self, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> None:
        self._bound = None
        self._binding.clear_binding_inputs()
        self._binding.clear_binding_outputs()
        for (name, dtype, shape), address in zip(self._inputs, inputs, strict=True):
            self._binding.bind_input(name, "cpu", 0, np.dtype(dtype), shape, address)
        for (name, dtype, shape), address in zip(self._outputs, outputs, strict=True):
            self._binding.bind_output(name, "cpu", 0, np.dtype(dtype), shape, address)
        self._bound = (inputs, outputs)


def _spec(path: str, tensor: Any) -> TensorSpec:
    if tensor.type not in DTYPES or not all(
        isinstance(size, int) and size > 0 for size in tensor.shape
    ):
        raise ModelError(
            f"tensor '{tensor.name}' of '{path}' is {tensor.type} of shape {tensor.shape}, "
            "expected float or float16 of a static shape: export the model again"
        )
    return tensor.name, DTYPES[tensor.type], list(tensor.shape)


def _cores(cpus: Sequence[int]) -> int:
    """How many physical cores the CPUs are; none: those that this process may use."""
    if not cpus and not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    chosen = set(cpus) or os.sched_getaffinity(0)
    cores = set()
    for cpu in chosen:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            cores.add(siblings.read_text(encoding="ascii"))
        except OSError:  # not every container shows it
            cores.add(str(cpu))
    return len(cores)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
