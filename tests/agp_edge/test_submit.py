"""submit, score_batch and close on real engines; what overlaps is tested in cpp/tests."""

import asyncio
import gc
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest

from agp_edge import BusyError, Detector, Error, FrameError, ModelError, _core
from agp_edge.engines import onnxruntime as ort_engine

ENGINES = ("onnxruntime", "openvino")


@pytest.fixture(scope="module")
def frames(good_frame, bad_frame):
    """Twenty different frames, of three sizes, mono among them."""
    rolled = [np.roll(bad_frame, 5 * shift, axis=1) for shift in range(10)]
    return [
        *rolled,
        *(frame[::2] for frame in rolled[:5]),
        *(frame[:, :, 0] for frame in rolled[:5]),
    ]


@pytest.fixture
def gate(monkeypatch):
    """ONNX Runtime runs wait for it; it is open at first."""
    gate = threading.Event()
    gate.set()
    run = ort_engine._Runner.__call__

    def wait(self, *arguments):
        assert gate.wait(30)
        run(self, *arguments)

    monkeypatch.setattr(ort_engine._Runner, "__call__", wait)
    yield gate
    gate.set()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("in_flight", [0, 1, 3])
def test_futures_and_batches_give_what_score_gives(small_model, frames, engine, in_flight):
    with Detector(small_model, engine=engine, in_flight=in_flight) as detector:
        expected = [detector.score(frame) for frame in frames]
        futures = [detector.submit(frame) for frame in frames]
        for results in ([future.result(30) for future in futures], detector.score_batch(frames)):
            for one, two in zip(results, expected, strict=True):
                assert one.score == two.score
                assert one.roi == two.roi
                assert one.regions == two.regions
                np.testing.assert_array_equal(one.anomaly_map, two.anomaly_map)
                np.testing.assert_array_equal(one.mask, two.mask)
                assert one.latency.total_ms >= one.latency.wait_ms >= 0


def test_answers_come_in_order(small_model, frames):
    order = []
    with Detector(small_model, in_flight=4) as detector:
        for number in range(40):
            future = detector.submit(frames[number % len(frames)])
            future.add_done_callback(lambda _, number=number: order.append(number))
    # A callback is called at once where the future is done by then: by us, not in turn.
    assert sorted(order) == list(range(40))


def test_answers_come_in_order_behind_a_gate(small_model, good_frame, gate):
    order = []
    with Detector(small_model, engine="onnxruntime", in_flight=3, self_test=False) as detector:
        gate.clear()
        for number in range(3):
            future = detector.submit(good_frame)
            future.add_done_callback(lambda _, number=number: order.append(number))
        gate.set()
    assert order == [0, 1, 2]


def test_no_room(small_model, good_frame, gate):
    with Detector(small_model, engine="onnxruntime", in_flight=2) as detector:
        gate.clear()
        futures = [detector.submit(good_frame) for _ in range(2)]
        for timeout in (0, -1, 0.01):
            with pytest.raises(BusyError, match="has 2 frames in flight") as caught:
                detector.submit(good_frame, timeout=timeout)
        assert isinstance(caught.value, TimeoutError)
        assert not futures[0].cancel()
        assert not any(future.done() for future in futures)
        gate.set()
        detector.submit(good_frame, timeout=float("inf")).result(30)
        futures[1].result(30)
        detector.submit(good_frame, timeout=0).result(30)


def test_the_gil_is_free_while_submit_waits(small_model, good_frame, gate):
    with Detector(small_model, engine="onnxruntime", in_flight=1) as detector:
        gate.clear()
        first = detector.submit(good_frame)
        opener = threading.Timer(0.05, gate.set)
        opener.start()
        assert detector.submit(good_frame).result(30).score == first.result(30).score
        opener.join()


def test_a_frame_is_borrowed_and_then_let_go(small_model, good_frame, gate):
    class Pixels(np.ndarray):
        pass

    with Detector(small_model, engine="onnxruntime", in_flight=1) as detector:
        frame = good_frame.copy().view(Pixels)
        alive = weakref.ref(frame)
        gate.clear()
        future = detector.submit(frame)
        del frame
        gc.collect()
        assert alive() is not None
        gate.set()
        future.result(30)
        detector.score_batch([good_frame])  # the answer before it has been put away
        gc.collect()
        assert alive() is None


def test_copy(small_model, good_frame, bad_frame, gate):
    with Detector(small_model, engine="onnxruntime", in_flight=2) as detector:
        expected = detector.score(good_frame).score
        gate.clear()
        buffer = good_frame.copy()
        first = detector.submit(buffer)  # holds the engine's first place
        second = detector.submit(buffer, copy=True)
        buffer[:] = bad_frame
        gate.set()
        assert second.result(30).score == expected
        first.result(30)


def test_errors_arrive_through_the_future(small_model, good_frame, write_model, tmp_path):
    with Detector(small_model, in_flight=2, roi=(0, 0, 100, 90)) as detector:
        futures = [detector.submit(good_frame), detector.submit(good_frame[:50]),
                   detector.submit(good_frame)]  # fmt: skip
        assert isinstance(futures[1].exception(30), FrameError)
        assert "region of interest" in str(futures[1].exception())
        assert futures[0].result(30).score == futures[2].result(30).score
        for frame in (good_frame.astype(float), good_frame[:0], [[1]]):
            with pytest.raises(FrameError):
                detector.submit(frame)
    poisoned = write_model(tmp_path / "nan.onnx", poison=float("nan"))
    with (
        Detector(poisoned, self_test=False) as detector,
        pytest.raises(ModelError, match="not finite"),
    ):
        detector.submit(good_frame).result(30)


def test_what_a_python_engine_raises_arrives_as_it_was_raised(small_model, good_frame, monkeypatch):
    def fail(self, *arguments):
        raise KeyError("mine")

    with Detector(small_model, engine="onnxruntime") as detector:
        monkeypatch.setattr(ort_engine._Runner, "__call__", fail)
        assert repr(detector.submit(good_frame).exception(30)) == "KeyError('mine')"
        with pytest.raises(KeyError, match="mine"):
            detector.score_batch([good_frame])


def test_a_batch_names_the_frame_that_failed(small_model, good_frame):
    asked = []

    def source():
        for number in range(50):
            asked.append(number)
            yield good_frame[:50] if number == 3 else good_frame

    with Detector(small_model, in_flight=2, roi=(0, 0, 100, 90)) as detector:
        with pytest.raises(FrameError, match=r"^frame 3 of the batch: the region of interest"):
            detector.score_batch(source())
        assert len(asked) < 10
        with pytest.raises(FrameError, match=r"^frame 1 of the batch: the frame is float64"):
            detector.score_batch([good_frame, good_frame.astype(float), good_frame[:50]])
        with pytest.raises(FrameError, match=r"^frame 0 of the batch: the region of interest"):
            detector.score_batch([good_frame[:50], good_frame.astype(float)])
        with pytest.raises(ZeroDivisionError):
            detector.score_batch(good_frame for _ in range(1 // 0))
        stack = np.stack([good_frame] * 3)
        assert len(detector.score_batch(stack)) == 3
        assert detector.score_batch([]) == []


def test_asyncio(small_model, frames):
    async def inspect():
        with Detector(small_model, in_flight=3) as detector:
            awaited = await asyncio.gather(
                *(asyncio.wrap_future(detector.submit(frame)) for frame in frames)
            )
            assert [result.score for result in awaited] == [
                detector.score(frame).score for frame in frames
            ]
            # Giving up on one leaves the detector and the rest alone.
            lost = asyncio.wrap_future(detector.submit(frames[0]))
            lost.cancel()
            assert (await asyncio.wrap_future(detector.submit(frames[1]))).score == awaited[1].score

    asyncio.run(inspect())


def test_inside_a_callback(small_model, good_frame, gate):
    seen = {}
    done = threading.Event()

    def callback(future):
        seen["score"] = detector.score(good_frame).score
        seen["next"] = detector.submit(good_frame)
        for name, call in (
            ("busy", lambda: detector.submit(good_frame)),
            ("batch", lambda: detector.score_batch([good_frame])),
        ):
            try:
                call()
            except Error as error:
                seen[name] = error
        detector.close()
        done.set()

    with Detector(small_model, engine="onnxruntime", in_flight=1) as detector:
        expected = detector.score(good_frame).score
        gate.clear()  # so that the callback is there before the answer
        detector.submit(good_frame).add_done_callback(callback)
        gate.set()
        assert done.wait(30)
    assert seen["score"] == expected
    assert seen["next"].result(30).score == expected
    assert isinstance(seen["busy"], BusyError)
    assert "callback" in str(seen["batch"])


@pytest.mark.parametrize("drain", [True, False])
def test_close_during_flight(small_model, good_frame, gate, drain):
    detector = Detector(small_model, engine="onnxruntime", in_flight=2)
    gate.clear()
    futures = [detector.submit(good_frame) for _ in range(2)]
    refusals = []

    def submit():
        try:
            detector.submit(good_frame)
        except Error as error:
            refusals.append(str(error))

    submitter = threading.Thread(target=submit)
    submitter.start()
    closer = threading.Thread(target=detector.close, kwargs={"drain": drain})
    time.sleep(0.05)
    closer.start()
    submitter.join(30)
    assert len(refusals) == 1
    assert "is closed: open the model again" in refusals[0]
    gate.set()
    closer.join(30)
    assert not closer.is_alive()
    # Both had begun.
    assert futures[0].result(0).score == futures[1].result(0).score
    with pytest.raises(Error, match="is closed"):
        detector.submit(good_frame)
    detector.close()


def test_threads_of_two_detectors(small_model, frames):
    """Every thread gets the answers to its own frames, whichever way it asks."""
    wrong = []
    counts = {0: 0, 1: 0}
    with (
        Detector(small_model, engine="onnxruntime", in_flight=2) as one,
        Detector(small_model, engine="openvino", in_flight=2) as two,
    ):
        expected = [[detector.score(frame).score for frame in frames] for detector in (one, two)]

        def work(offset):
            which = offset % 2
            detector = (one, two)[which]
            for turn in range(0, 60, 3):
                chosen = [(turn + offset + step) % len(frames) for step in range(3)]
                scores = [detector.score(frames[chosen[0]]).score,
                          detector.submit(frames[chosen[1]]).result(30).score,
                          detector.score_batch([frames[chosen[2]]])[0].score]  # fmt: skip
                counts[which] += 3
                if scores != [expected[which][number] for number in chosen]:
                    wrong.append((which, chosen))

        threads = [threading.Thread(target=work, args=(offset,)) for offset in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
            assert not thread.is_alive()
    assert wrong == []
    assert counts == {0: 120, 1: 120}


def test_a_forgotten_detector_ends_its_threads(small_model, good_frame):
    def own_threads() -> int:
        names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
        return sum(name.startswith("agp_edge ") for name in names)

    before = own_threads()
    detector = Detector(small_model, in_flight=3)
    future = detector.submit(good_frame)
    assert own_threads() == before + 3
    del detector
    assert future.result(30).score > 0
    del future
    for _ in range(100):
        gc.collect()
        if own_threads() == before:
            return
        time.sleep(0.05)
    raise AssertionError("its threads are still there")


ENDING = """
import sys
import numpy as np
from agp_edge import Detector
detector = Detector(sys.argv[1], engine=sys.argv[2], in_flight=3)
frame = np.zeros((64, 64, 3), np.uint8)
futures = [detector.submit(frame) for _ in range(3)]
print("end")
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_a_program_may_end_with_frames_in_flight(small_model, engine):
    done = subprocess.run(
        [sys.executable, "-c", ENDING, str(small_model), engine],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


FORK = """
import os, sys, warnings
import numpy as np
from agp_edge import Detector, Error
warnings.simplefilter("ignore")  # Python's own, of forks with threads
detector = Detector(sys.argv[1], threads=1)
frame = np.zeros((64, 64, 3), np.uint8)
score = detector.submit(frame).result(30).score
if os.fork() == 0:
    try:
        detector.submit(frame)
    except Error as error:
        assert "was forked from the one that opened the detector" in str(error)
        with Detector(sys.argv[1], threads=1) as own:
            assert own.submit(frame).result(30).score == score
        # As multiprocessing ends its children: ONNX Runtime's own exit handler fails in a fork.
        os._exit(0)
    os._exit(1)
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def test_a_forked_child_opens_its_own(small_model):
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(small_model)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("in_flight", [-1, 65])
def test_wrong_numbers_in_flight(small_model, in_flight):
    with pytest.raises(Error, match=f"{in_flight} frames in flight were asked for, 1 to 64"):
        Detector(small_model, in_flight=in_flight)


def test_an_engine_without_clones_takes_turns(small_model, frames):
    from agp_edge.manifest import read_manifest_text

    text, _ = read_manifest_text(small_model)
    session = ort_engine.open_onnx(str(small_model))
    inside = 0
    most = 0

    def function(stream, inputs, outputs):
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.001)
        np.ctypeslib.as_array((np.ctypeslib.ctypes.c_float * 64).from_address(outputs[0]))[:] = 1
        inside -= 1

    engine = _core.CallableEngine("Turns", session.inputs, session.outputs, function)
    detector = _core.Detector(text, "small", engine, in_flight=4)
    scores = []
    for frame in frames:
        detector.submit(frame, None, None, lambda result, error: scores.append(result.score))
    detector.close(drain=True)
    assert scores == [1.0] * len(frames)
    assert most == 1
