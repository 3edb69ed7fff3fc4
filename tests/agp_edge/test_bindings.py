"""agp_edge._core: argument checks, lifetimes, the GIL, exceptions."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
import time
import tracemalloc
import weakref
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from agp_edge import DependencyError, Error, FrameError, ModelError, _core

SIZE, GRID = 64, 8
INPUTS = [("image", "float32", (1, 3, SIZE, SIZE))]
OUTPUTS = [("distance", "float32", (1, 1, GRID, GRID))]


def view(address: int, shape: tuple[int, ...]) -> np.ndarray:
    count = int(np.prod(shape))
    pointer = ctypes.cast(address, ctypes.POINTER(ctypes.c_float))
    return np.ctypeslib.as_array(pointer, (count,)).reshape(shape)


def block_means(stream: int, inputs: list[int], outputs: list[int]) -> None:
    """distance = mean of each 8 x 8 block over the three planes."""
    image = view(inputs[0], (3, GRID, SIZE // GRID, GRID, SIZE // GRID))
    view(outputs[0], (GRID, GRID))[:] = image.mean(axis=(0, 2, 4))


def detector_of(function, small_model, **options) -> _core.Detector:
    engine = _core.CallableEngine("test 1.0", INPUTS, OUTPUTS, function)
    text = _core.read_manifest_json(str(small_model))
    return _core.Detector(text, str(small_model), engine, **options)


def preprocessor(**options) -> _core.Preprocessor:
    plain = {"height": SIZE, "width": SIZE, "mean": (0, 0, 0), "std": (1, 1, 1)}
    return _core.Preprocessor(**{**plain, **options})


def resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * 4096


@pytest.fixture
def frame() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (96, 128, 3), dtype=np.uint8)


# Arguments


def test_views_score_as_their_copies(frame):
    large = np.random.default_rng(4).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    views = [
        large[20:120, 30:190],  # a longer row pitch
        large[::2],
        large[::-1],
        large[:, ::2],
        large[:, ::-1],
        large[:, :, ::-1],
        large.transpose(1, 0, 2),
        np.asfortranarray(large),
        np.broadcast_to(large[:1], (50, 300, 3)),
        np.broadcast_to(large[:1, :1], (50, 60, 3)),
        large[5:6, 10:90],
        large[5:90, 10:11],
        large[7:8, 7:8],
        large[..., 1],
        large[..., 1][::-2, ::-3],
    ]
    pre = preprocessor()
    for image in views:
        np.testing.assert_array_equal(pre.run(image), pre.run(image.copy(order="C")))


def test_a_row_pitch_is_no_reason_to_copy():
    large = np.zeros((2000, 2000, 3), np.uint8)
    pre = preprocessor()
    out = np.empty((3, SIZE, SIZE), np.float32)
    pre.run(large, out=out)

    def peak(image: np.ndarray) -> int:
        tracemalloc.start()
        pre.run(image, out=out)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(large[::2, 100:1900]) < 100_000
    assert peak(large[:, ::2]) > 2000 * 1000 * 3, "NumPy's copies are seen by this measure"


def test_read_only_and_buffer_frames(frame):
    pre = preprocessor()
    expected = pre.run(frame)
    frozen = frame.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(pre.run(frozen), expected)
    np.testing.assert_array_equal(pre.run(memoryview(frame)), expected)


def test_formats(frame):
    pre = preprocessor()
    np.testing.assert_array_equal(
        pre.run(frame, "rgb8"), pre.run(np.ascontiguousarray(frame[:, :, ::-1]), "bgr8")
    )
    np.testing.assert_array_equal(pre.run(frame), pre.run(frame, format="bgr8"))
    mono = frame[:, :, 0].copy()
    np.testing.assert_array_equal(pre.run(mono), pre.run(mono, format="mono8"))
    # one channel and three take different vector paths: an ulp
    three = np.repeat(mono[:, :, None], 3, 2)
    np.testing.assert_allclose(pre.run(mono), pre.run(three), rtol=1e-6)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8, 3), np.float32), r"the frame is float32 \(8, 8, 3\), uint8"),
        (np.zeros((8, 8), np.int8), "the frame is int8"),
        (np.zeros((8, 8), np.uint16), "the frame is uint16"),
        (np.zeros((8, 8), np.bool_), "the frame is bool"),
        (np.zeros((8, 8), object), "the frame is object"),
        (np.zeros((8, 8, 4), np.uint8), r"the frame is uint8 \(8, 8, 4\)"),
        (np.zeros((8, 8, 1), np.uint8), r"the frame is uint8 \(8, 8, 1\)"),
        (np.zeros((3, 8, 8), np.uint8), r"the frame is uint8 \(3, 8, 8\)"),
        (np.zeros((1, 8, 8, 3), np.uint8), r"the frame is uint8 \(1, 8, 8, 3\)"),
        (np.zeros(8, np.uint8), r"the frame is uint8 \(8,\)"),
        (np.zeros((0, 8, 3), np.uint8), "0"),
        (np.zeros((8, 0), np.uint8), "0"),
        ([[1, 2], [3, 4]], "the frame is a list, a NumPy array"),
        (None, "the frame is a NoneType"),
        ("frame.png", "the frame is a str"),
        (b"12345678", r"the frame is uint8 \(8,\)|the frame is \|S|the frame is"),
    ],
)
def test_frames_that_are_none(image, message):
    with pytest.raises(FrameError, match=message):
        preprocessor().run(image)


def test_formats_that_do_not_fit(frame):
    pre = preprocessor()
    with pytest.raises(FrameError, match=r"given as 'mono8', for which uint8 \(height, width\)"):
        pre.run(frame, "mono8")
    with pytest.raises(FrameError, match=r"'rgb8', for which uint8 \(height, width, 3\)"):
        pre.run(frame[:, :, 0], "rgb8")
    with pytest.raises(FrameError, match="bgr8"):
        pre.run(frame, "yuv")


def test_out_is_written_in_place(frame):
    pre = preprocessor()
    out = np.full((3, SIZE, SIZE), -1, np.float32)
    assert pre.run(frame, out=out) is out
    np.testing.assert_array_equal(out, pre.run(frame))
    stack = np.zeros((2, 3, SIZE, SIZE), np.float32)
    pre.run(frame, out=stack[1])
    np.testing.assert_array_equal(stack[1], out)
    assert not stack[0].any()
    frozen = out.copy()
    frozen.flags.writeable = False
    for wrong in (
        frozen,
        np.zeros((3, SIZE, SIZE), np.float64),
        np.zeros((3, SIZE, SIZE + 1), np.float32),
        np.zeros((SIZE, SIZE, 3), np.float32).transpose(2, 0, 1),
        np.zeros((1, 3, SIZE, SIZE), np.float32),
    ):
        with pytest.raises(ValueError, match=r"writeable C-contiguous float32 \(3, 64, 64\)"):
            pre.run(frame, out=wrong)


def test_rectangles_that_are_none(small_model):
    for roi, message in (
        ((1, 2, 3), "roi has 3 numbers, four"),
        ((1.5, 2, 3, 4), "roi"),
        (("a", 2, 3, 4), "roi"),
        ((0, 0, 0, 4), "region of interest"),
        ((-1, 0, 4, 4), "region of interest"),
        ((2**40, 0, 4, 4), "roi"),
    ):
        with pytest.raises(FrameError, match=message):
            detector_of(block_means, small_model, roi=roi)


def test_grids_that_do_not_fit():
    post = _core.Postprocessor(grid_height=8, grid_width=8, map_height=64, map_width=64, sigma=1.0)
    for wrong in (np.zeros((8, 9), np.float32), np.zeros((8, 8)), np.zeros((1, 8, 8), np.float32)):
        with pytest.raises(ValueError, match=r"float32 \(8, 8\) is expected"):
            post.run(wrong)
    grid = np.random.default_rng(0).random((8, 16)).astype(np.float32)
    np.testing.assert_array_equal(
        post.run(grid[:, ::2]).anomaly_map, post.run(grid[:, ::2].copy()).anomaly_map
    )


def test_tensors_that_do_not_fit():
    with pytest.raises(ModelError, match="'image' is int8, float32 or float16"):
        _core.CallableEngine("x", [("image", "int8", (1,))], OUTPUTS, block_means)
    with pytest.raises(ModelError, match="a side of -1"):
        _core.CallableEngine("x", [("image", "float32", (-1, 3))], OUTPUTS, block_means)
    engine = _core.CallableEngine("x", INPUTS, OUTPUTS, block_means)
    assert engine.name == "x"
    assert engine.inputs == INPUTS
    assert engine.outputs == OUTPUTS


# Lifetimes


def test_arrays_outlive_result_and_detector(small_model, frame):
    detector = detector_of(block_means, small_model, threshold=-100.0)
    result = detector.score(frame)
    anomaly_map, mask = result.anomaly_map, result.mask
    expected = anomaly_map.copy()
    assert anomaly_map.base is not None
    assert not anomaly_map.flags.owndata, "handed over, not copied"
    assert mask.all()
    del result, detector
    gc.collect()
    churn = [np.full(anomaly_map.nbytes, 255, np.uint8) for _ in range(50)]
    np.testing.assert_array_equal(anomaly_map, expected)
    assert mask.all()
    del churn


def test_results_are_not_shared_between_calls(small_model, frame):
    detector = detector_of(block_means, small_model)
    first = detector.score(frame)
    expected = first.anomaly_map.copy()
    detector.score(255 - frame)
    np.testing.assert_array_equal(first.anomaly_map, expected)


def test_two_thousand_calls_leak_nothing(frame):
    post = _core.Postprocessor(
        grid_height=16, grid_width=16, map_height=256, map_width=256, sigma=0.0
    )
    pre = preprocessor(height=256, width=256)
    grid = np.random.default_rng(0).random((16, 16)).astype(np.float32)

    def calls(count: int) -> None:
        for _ in range(count):
            result = post.run(grid, threshold=0.5)
            assert result.anomaly_map is not None
            assert result.mask is not None
            assert result.regions
            pre.run(frame)
            pre.run(frame[:, ::2])

    calls(100)
    gc.collect()
    before = resident_bytes()
    calls(2000)
    # 2.2 GB if map, mask and tensors leaked; 80 MB if the masks' bytes alone did, a tenth.
    assert resident_bytes() - before < 20e6


def test_engine_function_is_released(small_model, frame):
    class Function:
        def __call__(self, stream, inputs, outputs):
            block_means(stream, inputs, outputs)

    function = Function()
    alive = weakref.ref(function)
    detector = detector_of(function, small_model)
    del function
    detector.score(frame)
    assert alive() is not None
    del detector
    assert alive() is None


def test_last_reference_may_go_in_another_thread(small_model, frame):
    class Function:
        def __call__(self, stream, inputs, outputs):
            block_means(stream, inputs, outputs)

    function = Function()
    alive = weakref.ref(function)
    box = [detector_of(function, small_model)]
    del function
    box[0].score(frame)
    thread = threading.Thread(target=box.clear)
    thread.start()
    thread.join()
    assert alive() is None


# Exceptions


class PeculiarError(Exception):
    pass


@pytest.mark.parametrize("kind", [PeculiarError, KeyboardInterrupt, SystemExit, ModelError])
def test_what_the_engine_raises_comes_out_unchanged(small_model, frame, kind):
    raised = kind("the very one")
    fail = [True]

    def function(stream, inputs, outputs):
        if fail[0]:
            raise raised
        block_means(stream, inputs, outputs)

    detector = detector_of(function, small_model)
    with pytest.raises(kind) as caught:
        detector.score(frame)
    assert caught.value is raised
    assert any(entry.name == "function" for entry in caught.traceback)
    fail[0] = False
    assert np.isfinite(detector.score(frame).score), "the detector is usable afterwards"


def test_an_output_that_is_nonsense_or_missing(small_model, frame):
    def unwritten(stream, inputs, outputs):
        pass

    def infinite(stream, inputs, outputs):
        view(outputs[0], (GRID, GRID))[:] = np.inf

    for function in (unwritten, infinite):
        with pytest.raises(ModelError, match="finite"):
            detector_of(function, small_model).score(frame)


def test_errors_are_the_classes_of_the_tree(tmp_path, small_model):
    for error in (ModelError, FrameError, DependencyError):
        assert issubclass(error, Error)
    with pytest.raises(ModelError, match="does not exist"):
        _core.read_manifest_json(str(tmp_path / "no.onnx"))
    with pytest.raises(DependencyError, match=r"pip install agp-edge\[openvino\]"):
        _core.open_openvino(str(small_model), library_folder=str(tmp_path))
    with pytest.raises(ModelError, match="no engine"):
        _core.Detector(_core.read_manifest_json(str(small_model)), "m", None)


# Threads


def test_other_threads_run_while_cpp_works():
    pre = preprocessor(threads=1)
    large = np.zeros((12000, 4000, 3), np.uint8)
    out = np.empty((3, SIZE, SIZE), np.float32)
    pre.run(large, out=out)

    def runs_in_the_middle() -> bool:
        span = []

        def work():
            start = time.perf_counter()
            for _ in range(5):
                pre.run(large, out=out)
            span.extend((start, time.perf_counter()))

        thread = threading.Thread(target=work)
        ticks = []
        thread.start()
        while thread.is_alive():
            ticks.append(time.perf_counter())
        thread.join()
        start, end = span
        bins = np.histogram(ticks, bins=50, range=(start, end))[0]
        # Five calls that hold the GIL leave six openings, of a switch interval each.
        return np.count_nonzero(bins) > 15

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        # A busy machine may starve this thread once, not three times.
        assert any(runs_in_the_middle() for _ in range(3))
    finally:
        sys.setswitchinterval(interval)


def test_engines_of_two_detectors_meet(small_model, frame):
    barrier = threading.Barrier(2, timeout=30)

    def function(stream, inputs, outputs):
        barrier.wait()
        block_means(stream, inputs, outputs)

    detectors = [detector_of(function, small_model) for _ in range(2)]
    scores = []
    threads = [
        threading.Thread(target=lambda d=d: scores.append(d.score(frame).score)) for d in detectors
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(scores) == 2
    assert scores[0] == scores[1]


def test_threads_share_one_object_of_each(small_model):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (90 + 7 * i, 120, 3), dtype=np.uint8) for i in range(4)]
    pre = preprocessor(threads=2)
    detector = detector_of(block_means, small_model)
    tensors = [pre.run(frame) for frame in frames]
    scores = [detector.score(frame).score for frame in frames]
    assert len(set(scores)) == 4
    wrong = []

    def work(i: int) -> None:
        for _ in range(50):
            if not np.array_equal(pre.run(frames[i]), tensors[i]):
                wrong.append(("tensor", i))
            if detector.score(frames[i]).score != scores[i]:
                wrong.append(("score", i))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# OpenVINO


def test_openvino_answers_as_onnx_runtime(small_model, bad_frame):
    import onnxruntime

    spec = find_spec("openvino")
    assert spec is not None, "CI installs the openvino extra"
    libraries = str(Path(next(iter(spec.submodule_search_locations))) / "libs")
    assert _core.has_openvino()
    engine = _core.open_openvino(str(small_model), library_folder=libraries, threads=1)
    assert engine.name.startswith("OpenVINO 20")
    assert engine.inputs == INPUTS
    assert engine.outputs == OUTPUTS
    session = onnxruntime.InferenceSession(small_model, providers=["CPUExecutionProvider"])

    def function(stream, inputs, outputs):
        (grid,) = session.run(None, {"image": view(inputs[0], (1, 3, SIZE, SIZE))})
        view(outputs[0], (1, 1, GRID, GRID))[:] = grid

    text = _core.read_manifest_json(str(small_model))
    result = _core.Detector(text, str(small_model), engine).score(bad_frame)
    other = detector_of(function, small_model).score(bad_frame)
    assert result.score == pytest.approx(other.score, rel=1e-5)
    np.testing.assert_allclose(result.anomaly_map, other.anomaly_map, rtol=1e-4, atol=1e-6)
    assert [r.box for r in result.regions] == [r.box for r in other.regions]
