"""The self-test: a synthetic frame that any machine makes bit for bit, and the score it must give.

Export scores the frame and writes seed and score into the manifest; a detector scores it again when
it opens the model, so that an engine that computes nonsense never reaches the line.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from agp_edge.engines import has_vnni
from agp_edge.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["check_self_test", "self_test_frame", "synthetic_frame"]

# Relative to the score in the manifest. FP32 engines differ by their order of summation only, FP16
# engines round every activation. In INT8 a rounding that falls the other way moves an activation by
# a whole step: two ways to compute one INT8 graph lay up to 0.9 % apart on such frames.
TOLERANCES = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 1e-2, "int8": 5e-2}

# Cell size in pixels and weight of each layer of noise: like photographs, more power in coarse
# structure than in fine. The weights add up to 16.
OCTAVES = ((64, 6), (16, 5), (4, 3), (1, 2))


def self_test_frame(manifest: Mapping[str, Any], seed: int) -> NDArray[np.uint8]:
    """The frame of this model's self-test: uint8 (H, W, 3) BGR.

    It is half as large again as the network's input, so that resizing is tested too, and contains
    the default region of interest.

    Args:
        manifest: the document (`agp_edge.read_manifest`); its `input` is used.
        seed: as in `manifest["self_test"]["seed"]`.
    """
    spec = manifest["input"]
    height, width = spec["height"] * 3 // 2, spec["width"] * 3 // 2
    if spec.get("roi"):
        x, y, roi_width, roi_height = spec["roi"]
        height, width = max(height, y + roi_height), max(width, x + roi_width)
    return synthetic_frame(seed, height, width)


def synthetic_frame(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """Coloured value noise in four octaves: uint8 (height, width, 3).

    Integer arithmetic on a hash of pixel, octave, channel and seed only, so the bytes are the same
    with every NumPy version, processor and operating system.

    Args:
        seed: 0 to 2**32 - 1.
        height: pixels.
        width: pixels.
    """
    total = np.zeros((height, width, 3), dtype=np.uint32)
    for octave, (cell, weight) in enumerate(OCTAVES):
        for channel in range(3):
            noise = _value_noise(seed, 4 * octave + channel, cell, height, width)
            total[:, :, channel] += weight * noise
        # Shared by the channels: photographs are greyer than three independent noises.
        total += (weight * _value_noise(seed, 4 * octave + 3, cell, height, width))[:, :, None]
    return (total // 32).astype(np.uint8)


def _value_noise(seed: int, stream: int, cell: int, height: int, width: int) -> NDArray[np.uint32]:
    """Hashed values 0 to 255 on a lattice of `cell` pixels, bilinear between: (height, width)."""
    rows, columns = np.arange(height, dtype=np.uint32), np.arange(width, dtype=np.uint32)
    if cell == 1:
        return _hash(rows[:, None], columns[None, :], seed, stream)
    lattice = _hash(
        np.arange(height // cell + 2, dtype=np.uint32)[:, None],
        np.arange(width // cell + 2, dtype=np.uint32)[None, :],
        seed,
        stream,
    )
    row, row_share = rows // cell, (rows % cell)[:, None]
    column, column_share = columns // cell, (columns % cell)[None, :]
    lines: NDArray[np.uint32] = lattice[row] * (cell - row_share) + lattice[row + 1] * row_share
    noise: NDArray[np.uint32] = (
        lines[:, column] * (cell - column_share) + lines[:, column + 1] * column_share
    )
    noise //= np.uint32(cell * cell)
    return noise


def _hash(
    row: NDArray[np.uint32], column: NDArray[np.uint32], seed: int, stream: int
) -> NDArray[np.uint32]:
    """0 to 255 for each pair; the finaliser of MurmurHash3 over a sum of odd multiples."""
    offset = np.array([seed * 0x9E3779B1 + stream * 0x85EBCA77 & 0xFFFFFFFF], dtype=np.uint32)
    value: NDArray[np.uint32] = (
        row * np.uint32(0xC2B2AE3D) + column * np.uint32(0x27D4EB2F) + offset
    )
    value ^= value >> np.uint32(16)
    value *= np.uint32(0x85EBCA6B)
    value ^= value >> np.uint32(13)
    value *= np.uint32(0xC2B2AE35)
    value ^= value >> np.uint32(16)
    value >>= np.uint32(24)
    return value


def check_self_test(
    manifest: Mapping[str, Any], score: float, source: str, *, engine: str | None = None
) -> None:
    """Compare `score`, given to the self-test's frame, with the one in the manifest.

    Args:
        manifest: the document, with its `self_test`.
        score: raw image score that the opened engine gave.
        source: the model's path, for the message.
        engine: that was asked for; "openvino-bf16" computes more coarsely than the file asks for.

    Raises:
        ModelError: they differ by more than 1e-3 (FP32), 1e-2 (FP16, bfloat16) or 5e-2 (INT8) of
            the expected score.
    """
    expected = float(manifest["self_test"]["score"])
    asked = manifest.get("precision", {}).get("asked", "fp32")
    tolerance = TOLERANCES.get(asked, TOLERANCES["int8"])  # a newer precision is no finer
    if engine == "openvino-bf16":
        tolerance = max(tolerance, TOLERANCES["bf16"])
        asked += ", computed in bfloat16"
    if math.isfinite(score) and abs(score - expected) <= tolerance * max(abs(expected), 1e-6):
        return
    cause = (
        "the file or the engine computes something else than what was exported: export or build it "
        "again"
    )
    if asked.startswith("int8") and (engine or "").startswith("openvino") and not has_vnni():
        cause = (
            "this CPU has no VNNI, and without it OpenVINO's INT8 sums overflow: leave the engine "
            "out, or take the FP32 file"
        )
    raise ModelError(
        f"'{source}' fails its self-test: the synthetic frame got the score {score:.6g}, expected "
        f"{expected:.6g} within {tolerance:g} of it ({asked}); {cause} "
        "(self_test=False opens it all the same)"
    )
