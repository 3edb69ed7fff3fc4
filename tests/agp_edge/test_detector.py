import os
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agp_edge import Detector, DeviceError, Error, FrameError, ModelError


@pytest.fixture(scope="module")
def detector(small_model):
    with Detector(small_model) as detector:
        yield detector


def reference_map(frame: np.ndarray, model: str) -> np.ndarray:
    """The anomaly map by cv2, ONNX Runtime on plain arrays, and scipy: no code of ours."""
    import cv2
    import onnxruntime
    from scipy.ndimage import gaussian_filter

    colour = frame if frame.ndim == 3 else np.repeat(frame[:, :, None], 3, axis=2)
    assert colour.shape[:2] == (64, 64), "no resize in this reference"
    pixels = colour[:, :, ::-1].astype(np.float32)
    tensor = (pixels - np.array([118, 120, 122], np.float32)) / np.float32(57)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (grid,) = session.run(None, {"image": np.ascontiguousarray(tensor.transpose(2, 0, 1)[None])})
    upsampled = cv2.resize(grid[0, 0], (64, 64), interpolation=cv2.INTER_LINEAR)
    return gaussian_filter(upsampled, 2.0, mode="mirror", truncate=4.0)


def test_scores_as_the_same_steps_by_other_libraries(detector, small_model, bad_frame):
    for frame in (bad_frame[10:74, 50:114], bad_frame[10:74, 50:114, 1]):
        expected = reference_map(frame, str(small_model))
        result = detector.score(frame)
        np.testing.assert_allclose(result.anomaly_map, expected, rtol=2e-5, atol=2e-6)
        assert result.score == result.anomaly_map.max()


def test_the_verdict(detector, good_frame, bad_frame):
    good, bad = detector.score(good_frame), detector.score(bad_frame)
    assert not good.is_anomalous
    assert good.regions == ()
    assert not good.mask.any()
    assert bad.is_anomalous
    assert bad.score > bad.threshold == np.float32(0.3)
    assert bad.anomaly_map.dtype == np.float32
    assert bad.anomaly_map.shape == bad.mask.shape == (64, 64)
    assert bad.mask.dtype == np.bool_
    np.testing.assert_array_equal(bad.mask, bad.anomaly_map > bad.mask_threshold)
    (region,) = bad.regions
    x, y, width, height = region.box
    # the square at x 80-104, y 24-48, widened by the blur
    assert x <= 80
    assert 104 <= x + width <= 120
    assert y <= 24
    assert 48 <= y + height <= 60
    assert region.area == bad.mask.sum()
    assert region.peak == bad.score
    assert bad.p_value is None
    assert bad.roi == (0, 0, 128, 96)
    assert bad.latency.total_ms >= bad.latency.execute_ms > 0


def test_any_layout_of_the_same_pixels_gives_the_same_bits(detector, bad_frame):
    wide = np.zeros((96, 200, 3), np.uint8)
    wide[:, 30:158] = bad_frame
    expected = detector.score(bad_frame)
    for view in (
        wide[:, 30:158],  # a crop: rows with a pitch
        np.asfortranarray(bad_frame),
        bad_frame[::-1].copy()[::-1],  # negative row stride
        bad_frame[:, ::-1].copy()[:, ::-1],
        np.repeat(bad_frame, 2, axis=1)[:, ::2],  # every other pixel
        memoryview(bad_frame),
    ):
        result = detector.score(view)
        assert result.score == expected.score
        np.testing.assert_array_equal(result.anomaly_map, expected.anomaly_map)


steps = st.sampled_from([-3, -2, -1, 1, 2, 3])
edges = st.integers(0, 40)


@settings(max_examples=80, deadline=None)
@given(
    corner=st.tuples(edges, edges),
    step=st.tuples(steps, steps),
    channels=st.sampled_from([slice(None), slice(None, None, -1), 1]),
)
def test_any_view_is_scored_as_its_copy(detector, bad_frame, corner, step, channels):
    view = bad_frame[corner[0] :, corner[1] :][:: step[0], :: step[1], channels]
    expected = detector.score(np.ascontiguousarray(view))
    result = detector.score(view)
    assert result.score == expected.score
    np.testing.assert_array_equal(result.anomaly_map, expected.anomaly_map)
    assert result.roi == (0, 0, view.shape[1], view.shape[0])


def test_memory_does_not_grow(small_model, good_frame, bad_frame):
    def resident_bytes() -> int:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def work(frames: int) -> None:
        for turn in range(frames):
            result = detector.score(bad_frame if turn % 2 else good_frame)
            assert result.anomaly_map is not None
            assert result.mask is not None
            assert len(result.regions) == turn % 2

    with Detector(small_model) as detector:
        work(200)
        before = resident_bytes()
        work(2000)
        # One leaked map per frame would be 32 MB.
        assert resident_bytes() - before < 4_000_000


def test_models_are_released(small_model, good_frame):
    with Detector(small_model) as detector:
        engine = weakref.ref(detector._native)
        result = detector.score(good_frame)
    assert engine() is None
    assert result.anomaly_map.shape == (64, 64)


def test_formats(detector, bad_frame):
    rgb = bad_frame[:, :, ::-1]
    expected = detector.score(bad_frame)
    assert detector.score(rgb, format="rgb8").score == expected.score
    assert detector.score(rgb).score != expected.score
    grey = np.ascontiguousarray(bad_frame[:, :, 0])
    three = np.repeat(grey[:, :, None], 3, axis=2)
    assert detector.score(grey).score == pytest.approx(detector.score(three).score, rel=1e-6)
    assert detector.score(grey, format="mono8").score == detector.score(grey).score


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (7, 3), (64, 64), (480, 640)])
def test_any_size(detector, size):
    result = detector.score(np.full((*size, 3), 120, np.uint8))
    assert np.isfinite(result.score)
    assert result.roi == (0, 0, size[1], size[0])


def test_region_of_interest(small_model, bad_frame):
    with Detector(small_model, roi=(64, 16, 64, 64)) as inside:
        with Detector(small_model) as whole:
            np.testing.assert_array_equal(
                inside.score(bad_frame).anomaly_map,
                whole.score(bad_frame[16:80, 64:128]).anomaly_map,
            )
        result = inside.score(bad_frame)
        assert result.roi == (64, 16, 64, 64)
        x, y, _, _ = result.regions[0].box
        assert (x, y) >= (64, 16)
        with pytest.raises(FrameError, match="region of interest"):
            inside.score(bad_frame[:50, :70])
        assert inside.score(bad_frame).score == result.score  # usable afterwards


def test_the_manifest_s_region_of_interest(write_model, tmp_path, bad_frame):
    path = write_model(tmp_path / "roi.onnx", changes={"input.roi": [64, 16, 64, 64]})
    with Detector(path) as detector:
        assert detector.score(bad_frame).roi == (64, 16, 64, 64)


def test_threshold_and_mask_threshold(write_model, small_model, tmp_path, bad_frame):
    with Detector(small_model, threshold=0.77) as detector:
        result = detector.score(bad_frame)
        assert detector.threshold == result.threshold == np.float32(0.77)
        assert result.is_anomalous
        assert result.mask_threshold == np.float32(0.77)
    with Detector(small_model, threshold=0.78) as detector:
        assert not detector.score(bad_frame).is_anomalous
    path = write_model(tmp_path / "mask.onnx", changes={"threshold.mask_value": 0.6})
    with Detector(path) as detector:
        result = detector.score(bad_frame)
        assert (result.threshold, result.mask_threshold) == (np.float32(0.3), np.float32(0.6))


def test_minimum_area(small_model, bad_frame):
    with Detector(small_model) as detector:
        (region,) = detector.score(bad_frame).regions
    with Detector(small_model, min_area=region.area) as detector:
        assert len(detector.score(bad_frame).regions) == 1
    with Detector(small_model, min_area=region.area + 1) as detector:
        result = detector.score(bad_frame)
        assert result.regions == ()
        assert not result.mask.any()
        assert result.is_anomalous  # the score does not depend on it


def test_only_the_outputs_asked_for(small_model, bad_frame):
    with Detector(small_model, outputs=()) as detector:
        result = detector.score(bad_frame)
        assert result.is_anomalous
        assert result.anomaly_map is None
        assert result.mask is None
        assert result.regions == ()
        with pytest.raises(Error, match="no anomaly map"):
            result.overlay(bad_frame)
    with Detector(small_model, outputs=("map",)) as detector:
        result = detector.score(bad_frame)
        assert result.anomaly_map is not None
        assert result.mask is None
    with Detector(small_model, outputs="regions") as detector:
        assert detector.score(bad_frame).regions
    with pytest.raises(Error, match=r"unknown outputs \['heat'\].*'map'"):
        Detector(small_model, outputs=("heat", "map"))


def test_results_outlive_the_next_frame_and_the_detector(small_model, good_frame, bad_frame):
    with Detector(small_model) as detector:
        result = detector.score(bad_frame)
        copy = result.anomaly_map.copy()
        for _ in range(20):
            detector.score(good_frame)
    np.testing.assert_array_equal(result.anomaly_map, copy)


def test_threads_share_one_detector_and_get_the_same_bits(detector, good_frame, bad_frame):
    frames = [good_frame, bad_frame, bad_frame[::2], good_frame[:, :, 0]]
    expected = [detector.score(frame).anomaly_map.tobytes() for frame in frames]
    wrong: list[int] = []

    def work(offset: int) -> None:
        for turn in range(40):
            which = (turn + offset) % len(frames)
            if detector.score(frames[which]).anomaly_map.tobytes() != expected[which]:
                wrong.append(which)

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert wrong == []


def test_another_detector_and_thread_count_give_the_same_bits(detector, small_model, bad_frame):
    expected = detector.score(bad_frame).anomaly_map
    for threads in (1, 2):
        with Detector(small_model, threads=threads) as other:
            np.testing.assert_array_equal(other.score(bad_frame).anomaly_map, expected)


def test_closed(small_model, good_frame):
    detector = Detector(small_model)
    assert "OpenVINO" in repr(detector)
    detector.close()
    detector.close()
    for use in (lambda: detector.score(good_frame), lambda: detector.threshold,
                lambda: detector.engine_name):  # fmt: skip
        with pytest.raises(Error, match=r"small\.onnx' is closed: open the model again"):
            use()
    assert repr(detector).endswith("closed)")


def test_the_manifest_is_a_copy(detector):
    assert detector.manifest["name"] == "small"
    detector.manifest["name"] = "changed"
    assert detector.manifest["name"] == "small"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "unknown device 'tpu': expected 'auto', 'cpu' or 'cuda'"),
        ({"engine": "tflite"}, "unknown engine 'tflite': expected one of onnxruntime"),
        ({"threshold": float("nan")}, "threshold nan"),
        ({"min_area": -1}, "minimum area -1"),
        ({"roi": (0, 0, 0, 5)}, "region of interest"),
        ({"roi": (0, 0, 5)}, "x, y, width, height"),
        ({"roi": (0.5, 0, 5, 5)}, "x, y, width, height"),
        ({"threads": -1}, "threads is -1"),
    ],
)
def test_wrong_options(small_model, options, message):
    with pytest.raises(Error, match=message):
        Detector(small_model, **options)


@pytest.mark.parametrize("options", [{"device": "cuda"}, {"engine": "tensorrt"}])
def test_an_onnx_file_on_a_gpu_asks_the_driver_before_it_compiles(
    small_model, options, monkeypatch, tmp_path
):
    monkeypatch.setenv("AGP_EDGE_CUDA_DRIVER", str(tmp_path / "libcuda.so.1"))
    monkeypatch.setenv("AGP_EDGE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DeviceError, match="no NVIDIA GPU can be used here"):
        Detector(small_model, **options)
    assert not (tmp_path / "cache").exists()


def test_a_model_without_a_threshold_needs_one(write_model, tmp_path, good_frame):
    path = write_model(tmp_path / "none.onnx", changes={"threshold": None})
    with pytest.raises(ModelError, match="no default threshold"):
        Detector(path)
    with Detector(path, threshold=0.4) as detector:
        assert detector.score(good_frame).threshold == np.float32(0.4)
