"""Camera formats against OpenCV and NumPy: Bayer, high bit depths, NV12; odd sides, ROIs, pitch."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agp_edge import _core
from agp_edge.errors import FrameError

SIZE = 24
DEPTHS = {"mono10": 10, "mono12": 12, "mono16": 16}
# OpenCV names a pattern by the second row's second and third pixel.
BAYER = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
}


def preprocessor(roi=None, resize="antialias", size=SIZE):
    return _core.Preprocessor(
        height=size, width=size, mean=(0, 0, 0), std=(1, 1, 1), roi=roi, resize=resize
    )


def resampled(pixels, roi=None, resize="antialias"):
    """float (H, W) or (H, W, 3) through our own tables for 8 bits, split so that no bit is lost."""
    whole = np.floor(pixels)
    fraction = np.floor((pixels - whole) * 256)
    rest = np.floor(((pixels - whole) * 256 - fraction) * 256)
    format = "rgb8" if pixels.ndim == 3 else None
    stage = preprocessor(roi, resize)
    parts = [stage.run(part.astype(np.uint8), format) for part in (whole, fraction, rest)]
    return parts[0] + parts[1] / 256 + parts[2] / 65536


def padded(array, extra, fill=77):
    """The same pixels with `extra` pixels of junk behind each row."""
    wide = np.full((array.shape[0], array.shape[1] + extra), fill, array.dtype)
    wide[:, : array.shape[1]] = array
    return wide[:, : array.shape[1]]


def raw(rng, height, width, bits):
    values = rng.integers(0, 2**bits, (height, width))
    return values.astype(np.uint8 if bits == 8 else np.uint16)


@st.composite
def geometries(draw, least=1):
    height, width = draw(st.integers(least, 70)), draw(st.integers(least, 70))
    x, y = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    roi = (x, y, draw(st.integers(1, width - x)), draw(st.integers(1, height - y)))
    return height, width, draw(st.sampled_from((None, roi))), draw(st.integers(0, 3))


def demosaiced(mosaic, pattern):
    """Bilinear, mirrored about the edge pixels, by convolution: float (H, W, 3) RGB."""
    edge = np.pad(mosaic.astype(np.float64), 1, mode="reflect")
    rows, columns = np.indices(edge.shape) - 1
    letters = np.array(list(pattern)).reshape(2, 2)[rows % 2, columns % 2]
    kernel = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]])
    planes = []
    for colour in "rgb":
        there = (letters == colour).astype(np.float64)
        weights = kernel * (1 if colour != "g" else np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 4)
        shifts = [(i, j, weights[i, j]) for i in range(3) for j in range(3)]
        height, width = mosaic.shape
        total = sum(w * (edge * there)[i : i + height, j : j + width] for i, j, w in shifts)
        norm = sum(w * there[i : i + height, j : j + width] for i, j, w in shifts)
        own = there[1:-1, 1:-1] == 1
        planes.append(np.where(own, mosaic, total / norm))
    return np.stack(planes, 2)


@given(geometry=geometries(), name=st.sampled_from(list(DEPTHS)), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_high_bit_depths_are_scaled_without_rounding(geometry, name, seed):
    height, width, roi, extra = geometry
    bits = DEPTHS[name]
    frame = padded(raw(np.random.default_rng(seed), height, width, bits), extra)
    expected = resampled(frame.astype(np.float64) * 255 / (2**bits - 1), roi)
    np.testing.assert_allclose(preprocessor(roi).run(frame, name), expected, atol=2e-4)


@given(
    geometry=geometries(least=2),
    pattern=st.sampled_from(list(BAYER)),
    bits=st.sampled_from((8, 12)),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_bayer_is_demosaiced_then_resized(geometry, pattern, bits, seed):
    height, width, roi, extra = geometry
    frame = padded(raw(np.random.default_rng(seed), height, width, bits), extra)
    expected = resampled(demosaiced(frame, pattern) * 255 / (2**bits - 1), roi)
    actual = preprocessor(roi).run(frame, f"bayer_{pattern}{bits}")
    np.testing.assert_allclose(actual, expected, atol=2e-4)


@pytest.mark.parametrize("pattern", BAYER)
def test_demosaicing_is_opencvs_inside_the_border(pattern):
    mosaic = raw(np.random.default_rng(3), SIZE + 2, SIZE + 2, 8)
    ours = preprocessor((1, 1, SIZE, SIZE)).run(mosaic, f"bayer_{pattern}8")  # no resize
    theirs = cv2.cvtColor(mosaic, BAYER[pattern])[1:-1, 1:-1].transpose(2, 0, 1)
    # OpenCV rounds to 8 bits, half up.
    np.testing.assert_array_equal(np.floor(ours + 0.5), theirs)


@given(geometry=geometries(), resize=st.sampled_from(("antialias", "area")), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_nv12_is_opencvs_in_every_bit(geometry, resize, seed):
    height, width, roi, extra = geometry
    height, width = height + height % 2, width + width % 2
    frame = raw(np.random.default_rng(seed), height * 3 // 2, width, 8)
    rgb = cv2.cvtColor(frame, cv2.COLOR_YUV2RGB_NV12)
    actual = preprocessor(roi, resize).run(padded(frame, 2 * extra), "nv12")
    # The same pixels summed in another order.
    np.testing.assert_allclose(actual, preprocessor(roi, resize).run(rgb, "rgb8"), atol=2e-4)


def test_every_nv12_colour():
    values = np.arange(0, 256, 5, dtype=np.uint8)
    u, v, y = np.meshgrid(values, values, values, indexing="ij")
    side = 364
    colours = [np.resize(channel.ravel(), side * side).reshape(side, side) for channel in (y, u, v)]
    luma = np.kron(colours[0], np.ones((2, 2), np.uint8))
    chroma = np.stack(colours[1:], 2).reshape(side, 2 * side)
    frame = np.vstack([luma, chroma])
    expected = cv2.cvtColor(frame, cv2.COLOR_YUV2RGB_NV12).transpose(2, 0, 1)
    actual = preprocessor(size=2 * side).run(frame, "nv12")
    np.testing.assert_array_equal(actual, expected)


def test_misaligned_and_strided_16_bit_frames_are_copied():
    frame = raw(np.random.default_rng(1), 40, 50, 12)
    expected = preprocessor().run(frame, "mono12")
    memory = np.zeros(frame.nbytes + 1, np.uint8)
    memory[1:] = frame.view(np.uint8).ravel()
    misaligned = memory[1:].view(np.uint16).reshape(frame.shape)
    spread = np.repeat(frame, 2, 1)[:, ::2]
    for same in (misaligned, spread, np.asfortranarray(frame)):
        np.testing.assert_array_equal(preprocessor().run(same, "mono12"), expected)


@pytest.mark.parametrize(
    ("shape", "dtype", "format", "message"),
    [
        ((8, 8), np.uint16, None, r"uint16 \(8, 8\), format='mono10', 'mono12'"),
        ((8, 8), np.uint8, "mono12", r"'mono12', for which uint16 \(height, width\) is expected"),
        ((8, 8), np.uint16, "mono8", r"'mono8', for which uint8 \(height, width\) is expected"),
        ((8, 8), ">u2", "mono16", r"'mono16', for which uint16"),
        ((8, 8), np.int16, "mono16", "is int16"),
        ((8, 8, 3), np.uint8, "bayer_rggb8", r"for which uint8 \(height, width\) is expected"),
        ((8, 8), np.uint8, "bayer_rggb12", r"for which uint16 \(height, width\) is expected"),
        ((1, 8), np.uint8, "bayer_rggb8", "expected at least 2 x 2"),
        ((8, 8), np.uint8, "nv12", r"height \* 3 / 2 rows are expected, a multiple of 3"),
        ((9, 8), np.uint16, "nv12", r"for which uint8 \(height \* 3 / 2, width\) is expected"),
        ((9, 7), np.uint8, "nv12", "7 x 6 pixels; expected even sides"),
        ((8, 8), np.uint8, "bayer_rg8", '"bayer_rg8"; expected one of "bgr8", "rgb8"'),
    ],
)
def test_frames_that_do_not_fit_their_format(shape, dtype, format, message):
    with pytest.raises(FrameError, match=message):
        preprocessor().run(np.zeros(shape, dtype), format)
