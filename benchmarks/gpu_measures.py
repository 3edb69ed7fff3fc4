"""What gpu_check measures itself: the kernels' bandwidth, whole frames, memory over many frames."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from gpu_engines import Opened

__all__ = ["FORMATS", "bandwidth", "endurance", "growth", "percentiles", "whole_frames"]

# Bits that a format's uint16 values have.
BITS = {"mono10": 10, "mono12": 12, "mono16": 16} | {
    f"bayer_{pattern}12": 12 for pattern in ("rggb", "grbg", "gbrg", "bggr")
}
FORMATS = (
    "bgr8", "rgb8", "mono8", "nv12",
    *(f"bayer_{pattern}8" for pattern in ("rggb", "grbg", "gbrg", "bggr")), *BITS,
)  # fmt: skip
OUTPUTS = {"score_only": 0, "all": 7}
ROUNDS = 5
GROWTH_LIMIT = 8 << 20  # bytes, of either memory


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p50 and p99 in milliseconds, and their ratio."""
    p50, p99 = np.percentile(np.asarray(seconds) * 1e3, [50, 99])
    return {"p50_ms": float(p50), "p99_ms": float(p99), "p99_over_p50": float(p99 / p50)}


def growth(samples: list[int]) -> int:
    """Bytes by which the last sample exceeds the largest of the first half: 0 where it is flat."""
    return max(0, samples[-1] - max(samples[: len(samples) // 2]))


def frame_of(format: str, height: int, width: int) -> np.ndarray:
    """Random pixels of an array that holds one frame of the format."""
    shape = {"nv12": (height * 3 // 2, width), "bgr8": (height, width, 3)}
    shape["rgb8"] = shape["bgr8"]
    dtype = np.uint16 if format in BITS else np.uint8
    rng = np.random.default_rng(0)
    return rng.integers(
        0, 2 ** BITS.get(format, 8), shape.get(format, (height, width)), dtype=dtype
    )


def bandwidth(*, height: int, width: int, side: int, footprint: int, runs: int) -> dict[str, Any]:
    """Bytes a second of each preprocessing kernel, as a share of a copy inside the GPU's memory.

    A kernel's bytes are the frame's, read once, and its output's; a copy's are twice its size.

    Args:
        height: of the frames, pixels.
        width: of the frames, pixels.
        side: of the network's input, pixels.
        footprint: bytes that a pass goes through, more than the GPU's caches hold.
        runs: passes measured; the median counts.
    """
    from agp_edge import _core  # noqa: PLC0415

    copied = float(np.median(_core.cuda_copy_seconds(footprint, runs)))
    copy_rate = 2 * footprint / copied
    kernels = {}
    for format in FORMATS:
        frame = frame_of(format, height, width)
        for half in (False, True):
            seconds = float(
                np.median(
                    _core.cuda_preprocess_seconds(
                        frame,
                        format,
                        height=side,
                        width=side,
                        half=half,
                        copies=max(1, footprint // frame.nbytes),
                        runs=runs,
                    )
                )
            )
            moved = frame.nbytes + 3 * side * side * (2 if half else 4)
            kernels[f"{format} to {'float16' if half else 'float32'}"] = {
                "us": seconds * 1e6,
                "gb_per_s": moved / seconds / 1e9,
                "share_of_copy": moved / seconds / copy_rate,
            }
    return {
        "frame": f"{width}x{height}",
        "input": side,
        "footprint_bytes": footprint,
        "copy_gb_per_s": copy_rate / 1e9,
        "kernels": kernels,
        "least_share": min(kernel["share_of_copy"] for kernel in kernels.values()),
    }


def whole_frames(opened: Opened, frames: int) -> dict[str, Any]:
    """Camera memory to verdict beside the engine alone, 640x480, in rounds of each in turn.

    Args:
        opened: the engine.
        frames: of each way; the engine alone runs as often.
    """
    from agp_edge import _core  # noqa: PLC0415

    detectors = {
        name: _core.Detector(
            opened.manifest, "gpu_check", opened.engine, threshold=0.0, outputs=bits
        )
        for name, bits in OUTPUTS.items()
    }
    buffer = next(iter(detectors.values())).frame_buffer(480, 640, "bgr8")
    buffer[:] = frame_of("bgr8", 480, 640)
    bare: list[float] = []
    on_device: list[float] = []
    whole: dict[str, list[float]] = {name: [] for name in detectors}
    recorded = True
    each = max(1, frames // ROUNDS)
    for _ in range(ROUNDS):
        times = _core.cuda_engine_times(opened.engine, each)
        bare += times.host
        on_device += times.device
        recorded = recorded and times.recorded
        for name, detector in detectors.items():
            warm_up = min(each, 20)
            for index in range(warm_up + each):
                start = time.perf_counter()
                detector.score(buffer, "bgr8")
                if index >= warm_up:  # the first ones record, and find other clocks
                    whole[name].append(time.perf_counter() - start)
    result: dict[str, Any] = {
        "engine": opened.engine.name,
        "frames": each * ROUNDS,
        "recorded": recorded,
        "bare_engine": percentiles(bare),
        "bare_engine_on_the_gpu": percentiles(on_device),
    }
    for name, seconds in whole.items():
        result[name] = percentiles(seconds)
        over = result[name]["p50_ms"] - result["bare_engine"]["p50_ms"]
        result[name]["over_bare_us"] = over * 1e3
        result[name]["over_bare_share"] = over / result["bare_engine"]["p50_ms"]
    return result


def endurance(opened: Opened, frames: int) -> dict[str, Any]:
    """Memory of host and GPU over many frames, of two geometries, from pinned and pageable memory.

    Raises:
        ValueError: either grew by more than `GROWTH_LIMIT`.
    """
    from agp_edge import _core  # noqa: PLC0415

    detector = _core.Detector(opened.manifest, "gpu_check", opened.engine, threshold=0.0)
    buffer = detector.frame_buffer(480, 640, "bgr8")
    buffer[:] = frame_of("bgr8", 480, 640)
    pageable = frame_of("mono8", 500, 700)
    ways = ((buffer, "bgr8"), (pageable, "mono8"))
    for frame, format in ways * 2:
        detector.score(frame, format)
    host: list[int] = []
    device: list[int] = []
    for index in range(frames):
        detector.score(*ways[index % 2])
        if index % max(1, frames // 40) == 0:
            free, total = _core.cuda_memory()
            host.append(_resident_bytes())
            device.append(total - free)
    result = {
        "engine": opened.engine.name,
        "frames": frames,
        "host_growth_bytes": growth(host),
        "device_growth_bytes": growth(device),
        "host_bytes": host,
        "device_bytes": device,
    }
    for what in ("host", "device"):
        if result[f"{what}_growth_bytes"] > GROWTH_LIMIT:
            raise ValueError(
                f"the {what}'s memory grew by {result[f'{what}_growth_bytes']} bytes over {frames} "
                f"frames, at most {GROWTH_LIMIT} are expected: {result}"
            )
    return result


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
