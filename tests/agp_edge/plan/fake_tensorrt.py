"""TensorRT with a GPU, where there is neither: what a GPU is needed for is played.

Parser, builder and plan are TensorRT for RTX's own; the timing cache, the runtime that loads a
plan and the engine inspector are played here.
"""

from __future__ import annotations

import importlib.machinery
import json
import types
from typing import TYPE_CHECKING, Any

import tensorrt_rtx_bindings as real

from agp_edge.gpu import Gpu

if TYPE_CHECKING:
    from collections.abc import Callable

# What JetPack 6.2 and 7.2 bring, and the newest whose headers are known.
VERSIONS = ("10.3.0", "10.16.2", "11.1.0")
GPU = Gpu(name="Played GPU", compute_capability=(8, 6), driver_cuda=(12, 6))
FP32 = "Row major linear FP32"
FP16 = "Channel major FP16 format where channel % 8 == 0"
INT8 = "Four wide channel vectorized row major Int8 format"


def layers(*formats: str) -> str:
    """What the inspector prints for an engine whose layers put out these formats."""
    described = [
        {"Name": f"layer {index}", "Outputs": [{"Name": "x", "Format/Datatype": text}]}
        for index, text in enumerate(formats)
    ]
    return json.dumps({"Layers": described, "Bindings": ["image", "distance"]})


class TimingCache:
    """A header with version and GPU, and a line per measurement."""

    def __init__(self, header: str, entries: set[str]) -> None:
        self.header = header
        self.entries = entries

    def combine(self, other: TimingCache, ignore_mismatch: bool) -> bool:
        if other.header != self.header and not ignore_mismatch:
            return False
        self.entries |= other.entries
        return True

    def serialize(self) -> bytes:
        return "\n".join([self.header, *sorted(self.entries)]).encode()


class Config:
    """The real configuration, with a timing cache that works."""

    def __init__(self, config: Any, trt: FakeTensorRt) -> None:
        self.__dict__.update(real=config, trt=trt, cache=None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.real, name, value)

    def create_timing_cache(self, data: bytes) -> TimingCache | None:
        header, *entries = data.decode(errors="replace").split("\n")
        if not data or (header != self.trt.header and not self.trt.strict):
            return TimingCache(self.trt.header, set())  # as the real one: a warning, and empty
        if not header.startswith("cache"):
            return None
        return TimingCache(header, set(entries))

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        if cache.header != self.trt.header and not ignore_mismatch:
            return False
        self.__dict__["cache"] = cache
        return True

    def get_timing_cache(self) -> TimingCache | None:
        return self.cache if self.trt.hands_out_cache else None


class Builder:
    """Measures what is not in the cache, then lets the real builder compile for SM 8.6."""

    def __init__(self, logger: Any, trt: FakeTensorRt) -> None:
        self.real = real.Builder(logger)
        self.trt = trt

    def create_network(self, flags: int) -> Any:
        strongly_typed = 1 << int(real.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        # 10 builds weakly typed networks too, unless asked not to; 11 has neither word for it
        assert flags == (strongly_typed if self.trt.major == 10 else 0)
        return self.real.create_network(strongly_typed)

    def create_builder_config(self) -> Config:
        return Config(self.real.create_builder_config(), self.trt)

    def build_serialized_network(self, network: Any, config: Config) -> Any:
        if config.cache is not None:
            self.trt.measured = self.trt.kernels - config.cache.entries
            config.cache.entries |= self.trt.measured
        self.trt.while_it_builds()
        self.trt.verbosity = config.profiling_verbosity
        config.real.num_compute_capabilities = 1
        config.real.set_compute_capability(real.ComputeCapability.SM86, 0)
        return self.real.build_serialized_network(network, config.real)


class FakeTensorRt(types.ModuleType):
    """The module; what is not played is TensorRT for RTX's.

    Args:
        version: of TensorRT; 10 and 11 differ in how a network becomes strongly typed.
    """

    def __init__(self, version: str = "10.3.0") -> None:
        super().__init__("tensorrt")
        self.__spec__ = importlib.machinery.ModuleSpec("tensorrt", None)
        self.__version__ = version
        self.major = int(version.partition(".")[0])
        flags = {"STRONGLY_TYPED": real.NetworkDefinitionCreationFlag.STRONGLY_TYPED}
        self.NetworkDefinitionCreationFlag = types.SimpleNamespace(
            **(flags if self.major == 10 else {})
        )
        self.header = f"cache {version} SM 8.6"
        self.strict = False  # whether a foreign cache is None or refused later, not empty
        self.hands_out_cache = True
        self.kernels = {"conv", "mul"}
        self.measured: set[str] = set()
        self.while_it_builds: Callable[[], None] = lambda: None
        self.verbosity: Any = None
        self.loads: Callable[[bytes], bool] = lambda plan: True
        self.loaded: list[bytes] = []
        self.information: Callable[[], str] | None = lambda: layers(FP32, FP32)

    def __getattr__(self, name: str) -> Any:
        return getattr(real, name)

    def Builder(self, logger: Any) -> Builder:
        return Builder(logger, self)

    def Runtime(self, logger: Any) -> Any:
        return types.SimpleNamespace(deserialize_cuda_engine=self._load)

    def _load(self, plan: bytes) -> Any:
        self.loaded.append(plan)
        if not self.loads(plan):
            return None
        return types.SimpleNamespace(create_engine_inspector=self._inspector)

    def _inspector(self) -> Any:
        information = self.information
        if information is None:
            return None
        return types.SimpleNamespace(get_engine_information=lambda layout: information())
