"""Whole-frame time of the CUDA graph beside the bare engine's own, and memory over many frames.

The engine is a torch model, called once while the graph is recorded. Needs torch and a GPU; writes
benchmarks/results/gpu_check.json. `bash benchmarks/gpu_check.sh` runs it after the tests.

    python benchmarks/gpu_check.py [--frames 100000]
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from typing import Any

import numpy as np
from provenance import write_result

SIDE, GRID = 256, 64


def percentiles(milliseconds: list[float]) -> dict[str, float]:
    """p50, p99 and their ratio."""
    p50, p99 = np.percentile(milliseconds, [50, 99])
    return {"p50_ms": float(p50), "p99_ms": float(p99), "p99_over_p50": float(p99 / p50)}


def growth(samples: list[int]) -> int:
    """Bytes by which the last sample exceeds the largest of the first half: 0 where it is flat."""
    return max(0, samples[-1] - max(samples[: len(samples) // 2]))


def manifest() -> str:
    """Of a model with the inputs and outputs of `TorchEngine`."""
    return json.dumps(
        {
            "agp_edge_manifest": "1.0",
            "name": "gpu_check",
            "backbone": "convolutions",
            "input": {
                "name": "image",
                "height": SIDE,
                "width": SIDE,
                "mean": [118.0, 120.0, 122.0],
                "std": [57.0, 57.0, 57.0],
                "dtype": "float32",
                "channels": "rgb",
                "resize": "antialias",
                "roi": None,
            },
            "output": {"name": "distance", "height": GRID, "width": GRID, "dtype": "float32"},
            "postprocess": {"sigma": 4.0, "score": "max", "top_share": 0.01},
            "setup": "one-class",
            "classes": [],
            "threshold": None,
            "precision": {"asked": "fp32", "built": None},
            "opset": 18,
            "versions": {},
            "hashes": {},
            "created": "2026-01-01T00:00:00+00:00",
            "self_test": None,
        }
    )


class Address:
    """float32 device memory of the pipeline, as torch takes it."""

    def __init__(self, address: int, shape: tuple[int, ...]) -> None:
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": "<f4",
            "data": (address, False),
            "version": 2,
        }


class TorchEngine:
    """A torch model that works on the pipeline's stream and memory."""

    def __init__(self) -> None:
        import torch  # noqa: PLC0415  (the functions above need none)

        self.torch = torch
        self.model = (
            torch.nn.Sequential(
                torch.nn.Conv2d(3, 64, 5, stride=4, padding=2),
                torch.nn.ReLU(),
                torch.nn.Conv2d(64, 64, 3, padding=1),
                torch.nn.ReLU(),
                torch.nn.Conv2d(64, 1, 1),
            )
            .cuda()
            .eval()
        )
        # What is recorded keeps its addresses: no other work may get this memory.
        self.pool = torch.cuda.MemPool()

    def __call__(self, stream: int, inputs: list[int], outputs: list[int]) -> None:
        """Puts one run on the stream."""
        torch = self.torch
        with (
            torch.inference_mode(),
            torch.cuda.use_mem_pool(self.pool),
            torch.cuda.stream(torch.cuda.ExternalStream(stream)),
        ):
            image = torch.as_tensor(Address(inputs[0], (1, 3, SIDE, SIDE)), device="cuda")
            distance = torch.as_tensor(Address(outputs[0], (1, 1, GRID, GRID)), device="cuda")
            distance.copy_(self.model(image))


def bare_times(engine: TorchEngine, count: int) -> list[float]:
    """Milliseconds of the model alone, as a CUDA graph of torch's."""
    torch = engine.torch
    image = torch.zeros(1, 3, SIDE, SIDE, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode():
        engine.model(image)
        with torch.cuda.graph(graph):
            engine.model(image)
    times = []
    for _ in range(count):
        start = time.perf_counter()
        graph.replay()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", type=int, default=100_000)
    frames = parser.parse_args().frames
    from agp_edge import _core  # noqa: PLC0415  (the functions above need none)

    function = TorchEngine()
    torch = function.torch
    engine = _core.CallableEngine(
        f"torch {torch.__version__}",
        [("image", "float32", (1, 3, SIDE, SIDE))],
        [("distance", "float32", (1, 1, GRID, GRID))],
        function,
        memory="device",
    )
    frame = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    results: dict[str, Any] = {"bare_engine": percentiles(bare_times(function, 1000))}
    host: list[int] = []
    device: list[int] = []
    for name, bits in (("score_only", 0), ("all", 7)):
        detector = _core.Detector(manifest(), "gpu_check", engine, threshold=0.0, outputs=bits)
        buffer = detector.frame_buffer(480, 640, "bgr8")
        buffer[:] = frame
        for _ in range(100):
            detector.score(buffer)
        times = []
        for index in range(frames // 2):
            start = time.perf_counter()
            detector.score(buffer)
            times.append((time.perf_counter() - start) * 1e3)
            if index % max(1, frames // 40) == 0:
                host.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
                device.append(torch.cuda.mem_get_info()[1] - torch.cuda.mem_get_info()[0])
        results[name] = percentiles(times)
    properties = torch.cuda.get_device_properties(0)
    payload = {
        "device": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "frames": frames,
        **results,
        "host_growth_bytes": growth(host),
        "device_growth_bytes": growth(device),
    }
    print(json.dumps(payload, indent=2))
    print(write_result("gpu_check", payload))


if __name__ == "__main__":
    main()
