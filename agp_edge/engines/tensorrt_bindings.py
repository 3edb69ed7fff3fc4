"""TensorRT's own Python bindings as a callable engine: for installs without a native module.

The pipeline's device buffers and stream come in; Python deserializes the plan once and puts one
enqueue per frame on the stream.
"""

from __future__ import annotations

import ctypes
import mmap
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agp_edge.engines.runtime_cache import context_with_cache
from agp_edge.engines.tensorrt import FLAVOURS, make_logger
from agp_edge.errors import DeviceError, ModelError
from agp_edge.gpu import find_gpus

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from typing_extensions import Buffer

    from agp_edge import _core

__all__ = ["open_plan"]


def open_plan(path: str, flavour: str, *, content: bytes | None = None) -> _core.Engine:
    """Load a plan on GPU 0; the caller has asked the CUDA driver that there is one.

    Args:
        path: the plan.
        flavour: a key of `FLAVOURS` that is installed.
        content: the plan's bytes, when their hash was compared; None: the file is mapped.

    Raises:
        ModelError: the plan is refused, was changed, or has tensors that the pipeline cannot feed.
        DependencyError: the bindings do not load.
        DeviceError: TensorRT does not start, or the GPU's memory is exhausted.
    """
    from agp_edge import _core  # noqa: PLC0415  (kept out of `import agp_edge`)

    trt = FLAVOURS[flavour].load()
    title = f"{FLAVOURS[flavour].name} {trt.__version__} (Python bindings)"
    with _plan_bytes(path, content) as plan:
        runner = _Runner(path, plan, trt, title)
    return _core.CallableEngine(title, runner.inputs, runner.outputs, runner, memory="device")


@contextmanager
def _plan_bytes(path: str, content: bytes | None) -> Iterator[Buffer]:
    """What manifest, engine and cache are read from: one file, opened once."""
    if content is not None:
        yield content
        return
    with (
        Path(path).open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan,
    ):
        yield plan


class _Runner:
    """The function behind the engine; owns runtime, engine and context."""

    def __init__(self, path: str, plan: Buffer, trt: Any, title: str) -> None:
        from agp_edge import _core  # noqa: PLC0415  (kept out of `import agp_edge`)

        self._title = title
        self._logger = make_logger(trt)
        self._runtime = trt.Runtime(self._logger)
        if self._runtime is None or self._logger.first_error:
            # An object around null, see cpp/src/tensorrt/engine.cpp: its log is the only sign, and
            # dropping it would end the process, so it is never dropped.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._runtime))
            raise DeviceError(
                f"{title} could not be started ({self._reason()}): install it again, or the "
                "version that fits the driver"
            )
        self._runtime.engine_host_code_allowed = False
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None and "Cuda Runtime" in self._reason():
            raise DeviceError(
                f"the plan '{path}' could not be loaded by {title} ({self._reason()}): update the "
                "NVIDIA driver, or install a TensorRT that fits it, and check it with nvidia-smi"
            )
        if self._engine is None:
            raise ModelError(
                f"the plan '{path}' was refused by {title} ({self._reason()}): a plan fits one "
                "TensorRT version and GPU architecture, build it again on this machine with "
                f"`agp-edge build MODEL.onnx -o {path}`"
            )
        if self._engine.name != _core.read_manifest_json(path, plan):
            raise ModelError(
                f"the manifest found in '{path}' is not the one that {title} reads from it, the "
                f"file was changed: build it again with `agp-edge build MODEL.onnx -o {path}`"
            )
        self.inputs: list[tuple[str, str, list[int]]] = []
        self.outputs: list[tuple[str, str, list[int]]] = []
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            is_input = self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            (self.inputs if is_input else self.outputs).append(self._spec(trt, name, path))
        gpu = find_gpus()[0]
        self._context, self._cache = context_with_cache(
            trt, self._engine, plan, gpu=f"{gpu.name} {gpu.compute_capability}"
        )
        self._has_run = False
        if self._context is None:
            raise DeviceError(
                f"the plan '{path}' could not be loaded by {title} ({self._reason()}): close other "
                "programs that use the GPU, and check it with nvidia-smi"
            )

    def __call__(self, stream: int, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        names = [name for name, _, _ in (*self.inputs, *self.outputs)]
        for name, address in zip(names, (*inputs, *outputs), strict=True):
            self._context.set_tensor_address(name, address)
        self._logger.first_error = ""
        if not self._context.execute_async_v3(stream):
            raise DeviceError(
                f"{self._title} could not start ({self._reason()}): open the model again"
            )
        if self._cache is not None and not self._has_run:
            self._cache.save()  # what the first frame compiled
        self._has_run = True

    def _spec(self, trt: Any, name: str, path: str) -> tuple[str, str, list[int]]:
        dtypes = {trt.DataType.FLOAT: "float32", trt.DataType.HALF: "float16"}
        dtype = self._engine.get_tensor_dtype(name)
        shape = list(self._engine.get_tensor_shape(name))
        if dtype not in dtypes or min(shape, default=0) < 1:
            raise ModelError(
                f"tensor '{name}' of '{path}' is {dtype} of shape {shape}, expected float32 or "
                "float16 of a static shape: export the model and build it again"
            )
        return name, dtypes[dtype], shape

    def _reason(self) -> str:
        return self._logger.first_error or "it gave no reason"
