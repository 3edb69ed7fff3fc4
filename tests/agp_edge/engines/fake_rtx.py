"""The runtime of TensorRT for RTX, played: its runtime cache, and an engine that really answers.

Plan, data types and modes are the real product's; a GPU and what runs on it are not there. The
engine runs the plan's own model in ONNX Runtime, in its turn on the fake CUDA driver's stream.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import os
import types
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorrt_rtx_bindings as real

if TYPE_CHECKING:
    from collections.abc import Callable

# What a context needs when it is made, and what the first frame adds.
KERNELS = (b"conv", b"mul")
FIRST_FRAME = (b"mean",)


class RuntimeCache:
    def __init__(self, trt: FakeRtx) -> None:
        self.trt = trt
        self.kernels: set[bytes] = set()

    def serialize(self) -> bytes | None:
        if self.trt.trouble == "serialize gives null":
            return None
        return b"\n".join([self.trt.environment, *sorted(self.kernels)])

    def deserialize(self, blob: bytes) -> bool:
        self.trt.deserialized.append(bytes(blob))
        if self.trt.trouble == "deserialize raises":
            raise RuntimeError("a null pointer")
        environment, *kernels = bytes(blob).split(b"\n")
        if environment != self.trt.environment:
            return False
        self.kernels = set(kernels)
        return True


class RuntimeConfig:
    def __init__(self, trt: FakeRtx) -> None:
        self.trt = trt
        self.cache: RuntimeCache | None = None

    def create_runtime_cache(self) -> RuntimeCache | None:
        return None if self.trt.trouble == "no cache" else RuntimeCache(self.trt)

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        if self.trt.trouble == "set refuses":
            return False
        self.cache = cache
        return True


class Context:
    def __init__(self, engine: Engine, cache: RuntimeCache | None) -> None:
        self.engine = engine
        self.known = set() if cache is None else cache.kernels
        self.addresses: dict[str, int] = {}
        self._compile(KERNELS)

    def _compile(self, kernels: tuple[bytes, ...]) -> None:
        self.engine.trt.compiled += [kernel for kernel in kernels if kernel not in self.known]
        self.known.update(kernels)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self._compile(FIRST_FRAME)
        return self.engine.trt.run_on_stream(stream, lambda: self.engine.answer(self.addresses))


class Engine:
    """With the tensors of the small model (conftest.py)."""

    tensors = (
        ("image", real.TensorIOMode.INPUT, (1, 3, 64, 64)),
        ("distance", real.TensorIOMode.OUTPUT, (1, 1, 8, 8)),
    )
    num_io_tensors = len(tensors)

    def __init__(self, trt: FakeRtx, name: str) -> None:
        self.trt = trt
        self.name = name

    def get_tensor_name(self, index: int) -> str:
        return self.tensors[index][0]

    def get_tensor_mode(self, name: str) -> Any:
        return next(mode for tensor, mode, _ in self.tensors if tensor == name)

    def get_tensor_dtype(self, name: str) -> Any:
        return real.DataType.FLOAT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return next(shape for tensor, _, shape in self.tensors if tensor == name)

    def create_runtime_config(self) -> RuntimeConfig:
        if self.trt.trouble == "no configuration":
            raise RuntimeError("a null pointer")
        return RuntimeConfig(self.trt)

    def create_execution_context(self, runtime_config: RuntimeConfig | None = None) -> Any:
        if runtime_config is None:
            return Context(self, None)
        return None if self.trt.trouble == "no context" else Context(self, runtime_config.cache)

    def answer(self, addresses: dict[str, int]) -> None:
        image = self.trt.device_array(addresses["image"], (1, 3, 64, 64))
        distance = self.trt.device_array(addresses["distance"], (1, 1, 8, 8))
        distance[:] = self.trt.model(image)


class FakeRtx(types.ModuleType):
    """The module; what is not played is the real one's."""

    def __init__(self) -> None:
        super().__init__("tensorrt_rtx")
        self.__spec__ = importlib.machinery.ModuleSpec("tensorrt_rtx", None)
        self.__version__ = "1.7.1.116"
        self.environment = b"RTX 1.7.1, Fake GPU 0"
        self.trouble = ""
        self.compiled: list[bytes] = []
        self.deserialized: list[bytes] = []
        self.model: Callable[[np.ndarray], np.ndarray] = lambda image: np.zeros((1, 1, 8, 8))
        self.plans: list[bytes] = []
        self._callbacks: list[Any] = []  # until the process ends: the driver holds them

    def __getattr__(self, name: str) -> Any:
        return getattr(real, name)

    def Runtime(self, logger: Any) -> Any:
        return types.SimpleNamespace(deserialize_cuda_engine=self._load)

    def _load(self, plan: Any) -> Engine:
        from agp_edge import _core

        self.plans.append(bytes(plan))
        return Engine(self, _core.read_manifest_json("a plan", plan))

    def run_on_stream(self, stream: int, work: Callable[[], None]) -> bool:
        kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        callback = kind(lambda _: work())
        self._callbacks.append(callback)
        launch = driver().cuLaunchHostFunc
        launch.argtypes = [ctypes.c_void_p, kind, ctypes.c_void_p]
        return launch(stream, callback, None) == 0

    def device_array(self, address: int, shape: tuple[int, ...]) -> np.ndarray:
        host = driver().fake_cuda_host
        host.restype, host.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_size_t]
        count = int(np.prod(shape))
        found = host(address, 4 * count)
        assert found, "an address that is not the device's"
        return np.ctypeslib.as_array((ctypes.c_float * count).from_address(found)).reshape(shape)


def driver() -> ctypes.CDLL:
    return ctypes.CDLL(os.environ["AGP_EDGE_CUDA_DRIVER"])
