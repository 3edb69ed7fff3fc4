import dataclasses
import json
import re

import numpy as np
import pytest

from agp_edge import Detector, FrameError


@pytest.fixture(scope="module")
def detector(small_model):
    with Detector(small_model) as detector:
        yield detector


def test_results_are_frozen_and_print_shapes(detector, bad_frame):
    result = detector.score(bad_frame)
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.score = 0.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.regions[0].area = 0
    text = repr(result)
    assert len(text) < 300
    assert "<float32 (64, 64)>" in text
    assert "<bool (64, 64)>" in text
    assert re.search(r"score=0\.77\d+, is_anomalous=True, threshold=0\.3,", text)


def test_to_dict_is_plain_json(detector, bad_frame):
    result = detector.score(bad_frame)
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert document["score"] == result.score
    assert document["is_anomalous"] is True
    assert document["regions"][0]["box"] == list(result.regions[0].box)
    assert document["latency"]["execute_ms"] == result.latency.execute_ms
    assert "anomaly_map" not in document


def test_the_overlay_colours_the_defect_and_leaves_the_rest(detector, bad_frame):
    original = bad_frame.copy()
    overlay = detector.score(bad_frame).overlay(bad_frame)
    np.testing.assert_array_equal(bad_frame, original)
    assert overlay.shape == bad_frame.shape
    assert overlay.dtype == np.uint8
    changed = (overlay != bad_frame).any(axis=2)
    assert changed[24:48, 80:104].mean() > 0.9
    assert not changed[:, :60].any()


def test_a_good_part_stays_clear(detector, good_frame):
    # Its own largest value would glow if the scale were this image's.
    np.testing.assert_array_equal(detector.score(good_frame).overlay(good_frame), good_frame)


def test_the_overlay_lies_on_the_region_of_interest(small_model, bad_frame):
    with Detector(small_model, roi=(64, 16, 64, 64)) as detector:
        overlay = detector.score(bad_frame).overlay(bad_frame, alpha=1.0)
    changed = (overlay != bad_frame).any(axis=2)
    assert changed[24:48, 80:104].mean() > 0.9
    assert not changed[:16].any()
    assert not changed[:, :64].any()


def test_mono_and_rgb_frames_become_bgr(detector, bad_frame):
    grey = np.ascontiguousarray(bad_frame[:, :, 0])
    overlay = detector.score(grey).overlay(grey)
    assert overlay.shape == bad_frame.shape
    np.testing.assert_array_equal(overlay[60:, :60, 1], grey[60:, :60])
    rgb = bad_frame[:, :, ::-1]
    np.testing.assert_array_equal(
        detector.score(rgb, format="rgb8").overlay(rgb, format="rgb8"),
        detector.score(bad_frame).overlay(bad_frame),
    )


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 1e30])
def test_odd_thresholds_still_draw(small_model, bad_frame, threshold):
    with Detector(small_model, threshold=threshold) as detector:
        overlay = detector.score(bad_frame).overlay(bad_frame)
    assert overlay.shape == bad_frame.shape
    assert (overlay == bad_frame).all() == (threshold > 1)


def test_another_frame_is_refused(detector, bad_frame):
    result = detector.score(bad_frame)
    with pytest.raises(FrameError, match="64x96 pixels cannot be the one of this result"):
        result.overlay(bad_frame[:, :64])
    with pytest.raises(FrameError, match=r"float64 of shape \(96, 128, 3\), expected uint8"):
        result.overlay(bad_frame / 255)
