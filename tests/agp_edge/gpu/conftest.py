"""A detector on the GPU without TensorRT: its engine copies the top row of its input."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import numpy as np
import pytest

from agp_edge import Detector, _core

from .cuda_memory import Cuda, GpuFrame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TENSORS = ([("image", "float32", (1, 3, 64, 64))], [("distance", "float32", (1, 1, 8, 8))])
BYTES = 8 * 8 * 4


@pytest.fixture
def cuda() -> Iterator[Cuda]:
    driver = Cuda()
    yield driver
    driver.close()


@pytest.fixture
def played(cuda: Cuda) -> Cuda:
    if not cuda.is_played:
        pytest.skip("makes the driver that is played on the CPU fail, or counts its calls")
    return cuda


@pytest.fixture
def open_detector(
    cuda: Cuda, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Detector]]:
    """`Detector(model, **options)` whose engine is on the GPU, or with device="cpu" on the CPU."""

    def open_engine(path: str, *, device: str, **options: object) -> _core.Engine:
        if device == "cpu":

            def copy(stream: int, inputs: list[int], outputs: list[int]) -> None:
                ctypes.memmove(outputs[0], inputs[0], BYTES)

            return _core.CallableEngine("top row", *TENSORS, copy)

        def enqueue(stream: int, inputs: list[int], outputs: list[int]) -> None:
            cuda.copy(outputs[0], inputs[0], BYTES, stream)

        # It keeps nothing, so that every frame in flight may have a stream of its own.
        return _core.CallableEngine(
            "top row", *TENSORS, enqueue, memory="device", clone=lambda: enqueue
        )

    monkeypatch.setattr("agp_edge.detector.open_engine", open_engine)
    opened: list[Detector] = []

    def open_one(**options: object) -> Detector:
        opened.append(Detector(small_model, **options))
        return opened[-1]

    yield open_one
    for detector in opened:
        detector.close()


@pytest.fixture
def detector(open_detector: Callable[..., Detector]) -> Detector:
    return open_detector()


@pytest.fixture
def expected(open_detector: Callable[..., Detector]) -> Callable[..., float]:
    """The CPU's score of the same array."""
    on_cpu = open_detector(device="cpu")

    def score(array: np.ndarray, format: str | None = None) -> object:
        return pytest.approx(on_cpu.score(array, format=format).score, abs=1e-4)

    return score


@pytest.fixture
def on_gpu(cuda: Cuda) -> Iterator[Callable[..., GpuFrame]]:
    """Device memory for an array, its pixels on their way."""
    frames: list[GpuFrame] = []

    def make(array: np.ndarray, **options: object) -> GpuFrame:
        frames.append(GpuFrame(cuda, array, **options))
        frames[-1].send(array)
        return frames[-1]

    yield make
    for frame in frames:
        frame.release()
