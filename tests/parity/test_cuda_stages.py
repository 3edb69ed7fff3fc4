"""CUDA stages against their CPU twins, on the GPU that is here.

The same kernels, compiled as C++, are held against the CPU in cpp/tests/test_*process_cuda.cpp,
where there is no GPU; on the driver played there (AGP_EDGE_CUDA_DRIVER) this file runs too, on
small frames.
"""

from __future__ import annotations

import os

import numpy as np
import pytest

from agp_edge import _core

pytestmark = pytest.mark.gpu

# The same sums in another order, in units of the tensor, whose 8-bit range is about 4.4 wide.
TOLERANCE = 1e-5
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
BITS = {"mono10": 10, "mono12": 12, "mono16": 16, "bayer_rggb12": 12, "bayer_gbrg12": 12}
FORMATS = ["bgr8", "rgb8", "mono8", "bayer_rggb8", "bayer_grbg8", "bayer_gbrg8", "bayer_bggr8",
           "nv12", *BITS]  # fmt: skip
# Frame and network input: enlarging, whole and broken ratios, many tiles, rows of odd bytes.
MAP, REPEATS = (256, 250), 5
SIZES = [((2, 2), 32), ((480, 640), 256), ((301, 517), 96), ((1200, 1921), 256), ((97, 50), 224)]
if "fake_cuda" in os.environ.get("AGP_EDGE_CUDA_DRIVER", ""):
    MAP, REPEATS = (96, 90), 1
    SIZES = [((2, 2), 16), ((61, 50), 24)]


def image(format, height, width, pitch=0):
    rng = np.random.default_rng(height)
    if format == "nv12":
        height, width = (height + height % 2) * 3 // 2, width + width % 2
    dtype = np.uint16 if format in BITS else np.uint8
    shape = (height, width + pitch, 3) if format in ("bgr8", "rgb8") else (height, width + pitch)
    return rng.integers(0, 2 ** BITS.get(format, 8), shape).astype(dtype)[:, :width]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("resize", ["antialias", "area"])
def test_preprocessing(format, resize):
    for (height, width), size in SIZES:
        for roi in (None, (1, 1, width - 1, height - 1)):
            settings = {
                "height": size, "width": size + 8, "mean": MEAN, "std": STD, "resize": resize,
                "roi": roi,
            }  # fmt: skip
            cpu = _core.Preprocessor(**settings)
            gpu = _core.CudaPreprocessor(**settings)
            half = _core.CudaPreprocessor(**settings, half=True)
            for pitch in (0, 1, 6):
                frame = image(format, height, width, pitch)
                expected = cpu.run(frame, format)
                actual = gpu.run(frame, format)
                np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE)
                np.testing.assert_array_equal(gpu.run(frame, format), actual)
                np.testing.assert_array_equal(half.run(frame, format), actual.astype(np.float16))


@pytest.mark.parametrize("score", ["max", "top_mean", "power_mean"])
@pytest.mark.parametrize("grid", [(32, 32), (16, 20), (7, 9)])
def test_postprocessing(score, grid):
    rng = np.random.default_rng(5)
    settings = {
        "grid_height": grid[0], "grid_width": grid[1], "map_height": MAP[0], "map_width": MAP[1],
        "sigma": 4.0, "score": score,
    }  # fmt: skip
    cpu = _core.Postprocessor(**settings)
    gpu = _core.CudaPostprocessor(**settings)
    half = _core.CudaPostprocessor(**settings, half=True)
    for _ in range(REPEATS):
        values = rng.random(grid, np.float32) + 4 * (rng.random(grid) < 0.03).astype(np.float32)
        expected = cpu.run(values, threshold=1.0, min_area=9)
        actual = gpu.run(values, threshold=1.0, min_area=9)
        again = gpu.run(values, threshold=1.0, min_area=9)
        np.testing.assert_allclose(actual.anomaly_map, expected.anomaly_map, rtol=0, atol=5e-6)
        assert actual.score == pytest.approx(expected.score, abs=5e-6)
        assert again.score == actual.score
        np.testing.assert_array_equal(again.anomaly_map, actual.anomaly_map)
        unsure = np.abs(expected.anomaly_map - 1) < 1e-5
        assert (actual.mask != expected.mask)[~unsure].sum() == 0
        if not unsure.any():
            boxes = [(region.box, region.area) for region in actual.regions]
            assert boxes == [(region.box, region.area) for region in expected.regions]
        alone = gpu.run(values, threshold=1.0, outputs=0)
        assert alone.score == actual.score
        assert alone.anomaly_map is None
        rounded = values.astype(np.float16)
        expected = cpu.run(rounded.astype(np.float32), threshold=1.0)
        actual = half.run(rounded, threshold=1.0)
        np.testing.assert_allclose(actual.anomaly_map, expected.anomaly_map, rtol=0, atol=5e-6)
        assert actual.score == pytest.approx(expected.score, abs=5e-6)
