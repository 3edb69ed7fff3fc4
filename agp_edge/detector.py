"""The detector: a model file and frames in, verdicts out."""

from __future__ import annotations

import json
import os
import weakref
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any

import numpy as np

from agp_edge.detector_options import (
    as_pixels,
    checked_cpus,
    checked_roi,
    native_settings,
    output_bits,
)
from agp_edge.engines import open_engine
from agp_edge.errors import Error, FrameError
from agp_edge.manifest import read_manifest_text
from agp_edge.result import Result, result_of
from agp_edge.self_test import check_self_test, self_test_frame

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

    from agp_edge import _core
    from agp_edge.detector_options import FrameLike

__all__ = ["Detector"]


class Detector:
    """Scores frames with one model: `Detector("bottle.onnx").score(frame)`.

    One detector may be shared by threads: frames take their turn in order of arrival, and the GIL
    is free while C++ works. `score` is one frame at the lowest latency; `submit` and `score_batch`
    keep several in flight (docs/throughput.md). Same model, engine and frame: the same bits. A
    context manager; `close` releases the engine. It does not survive a fork: open it in the child.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        device: str = "auto",
        engine: str | None = None,
        threshold: float | None = None,
        roi: tuple[int, int, int, int] | None = None,
        min_area: int | None = None,
        outputs: Iterable[str] = ("map", "mask", "regions"),
        threads: int = 0,
        in_flight: int = 0,
        cpu: int | Iterable[int] | None = None,
        priority: int = 0,
        wait: str = "spin",
        geometries: int = 4,
        device_times: bool = False,
        self_test: bool = True,
        build: bool = True,
        site: str | os.PathLike[str] | None = None,
        verify: str | os.PathLike[str] | None = None,
    ) -> None:
        """Open a model, load its engine, and check that it gives the answers it was exported with.

        Args:
            path: an .onnx file (runs on a CPU) or a TensorRT plan (runs on an NVIDIA GPU), made by
                `agp-edge export` or `agp-edge build`.
            device: "cpu", "cuda" or "auto": what the file is made for. "cuda" compiles an .onnx
                file for the GPU that is here, once, and keeps the plan in a cache.
            engine: "onnxruntime", "openvino", "openvino-bf16" or "tensorrt"; None takes the
                fastest that is installed, fits the file and gives its scores. "openvino-bf16"
                computes in bfloat16, faster on CPUs that have it, and its scores are a little
                different: find the threshold with it too (docs/throughput.md).
            threshold: a frame is anomalous, and a map pixel is in the mask, when its value is
                larger; None takes the site file's, else the manifest's.
            roi: x, y, width, height in frame pixels; None takes the site file's, else the
                manifest's.
            min_area: regions of fewer anomaly-map pixels leave mask and list; None takes the site
                file's, else 0.
            outputs: which of "map", "mask", "regions" results carry; the score is always there.
            threads: of preprocessing and the engine on a CPU; 0 chooses.
            in_flight: how many frames `submit` works on at a time, 1 to 64, each with buffers of
                its own; a number opens a CPU engine for throughput, so that one frame alone may
                take longer. 0: two, made by the first `submit`, beside an engine at its lowest
                latency.
            cpu: the CPU, or CPUs, that the detector's own threads run on, ONNX Runtime's among
                them. OpenVINO's helpers, which it has for more than one CPU, keep to the process's.
                `score` then hands its frame to one of these threads.
            priority: 1 to 99: these threads run at this real-time priority (SCHED_FIFO), which
                the process has to be permitted; 0: as any other.
            wait: how `score` waits for a GPU: "spin" keeps a core busy and returns some
                microseconds sooner, "block" sleeps.
            geometries: how many frame geometries (size, pitch, format, kind of memory) keep their
                buffers and CUDA graph on a GPU, the last used ones; the first frame of a new one
                takes longer.
            device_times: on a GPU, measure the parts of the work with CUDA events for
                `Result.latency`, which costs some microseconds a frame.
            self_test: score the manifest's synthetic frame and compare; False opens the model
                unchecked.
            build: False never compiles: an .onnx file with device="cuda" has to be in the cache.
                For services, which must not start with minutes of work.
            site: the site file (docs/site_file.md); None takes `path` + ".json" where that exists.
            verify: file with an Ed25519 public key: the site file has to bear its signature, which
                covers the model's hash too. None checks the hash, and no signature.

        Raises:
            ModelError: not a model of ours, corrupt, a newer manifest, a failed self-test; a site
                file that is invalid, made for another file, or not signed by `verify`'s owner.
            DependencyError: the engine's package is not installed.
            DeviceError: a plan without an NVIDIA GPU; "openvino-bf16" on a CPU without bfloat16.
            Error: an unknown device, engine or output; a CPU or a priority that this process may
                not have.
        """
        from agp_edge import _core  # noqa: PLC0415  (kept out of `import agp_edge`)
        from agp_edge.signature import check_signature  # noqa: PLC0415  (likewise)
        from agp_edge.site import read_approved  # noqa: PLC0415  (likewise)

        self._native: _core.Detector | None = None
        self._source = os.fspath(path)
        bits = output_bits(outputs)
        roi = None if roi is None else checked_roi(roi)
        if threads < 0:
            raise Error(f"threads is {threads}: expected 0 (chosen) or more")
        # first of all: a file that is not the one that was approved is read by nobody
        self._site, content = read_approved(self._source, site)
        if verify is not None:
            check_signature(self._site, verify, self._source)
        text, self._manifest = read_manifest_text(self._source, content)
        cpus = checked_cpus(cpu)
        native_engine = open_engine(
            self._source,
            device=device,
            engine=engine,
            threads=threads,
            build=build,
            content=content,
            precision=self._manifest["precision"]["asked"],
            streams=in_flight or 1,
            cpus=cpus,
            priority=priority,
        )
        if self_test and self._manifest.get("self_test"):
            score = self._self_test_score(text, native_engine, threads, cpus, priority)
            check_self_test(self._manifest, score, self._source, engine=engine)
        self._native = _core.Detector(
            text,
            self._source,
            native_engine,
            outputs=bits,
            threads=threads,
            in_flight=in_flight,
            cpus=cpus,
            priority=priority,
            wait=wait,
            geometries=geometries,
            device_times=device_times,
            **native_settings(self._site, threshold=threshold, roi=roi, min_area=min_area),
        )
        # Also when the interpreter ends: none of its threads may ask for the GIL after that.
        self._finalizer = weakref.finalize(self, self._native.close, drain=False)

    def score(self, frame: FrameLike, *, format: str | None = None) -> Result:
        """The verdict on one frame; blocks until it is there.

        Args:
            frame: uint8 (H, W, 3), BGR as OpenCV gives it, or (H, W) mono, of any size; uint16
                (H, W) or uint8 (H * 3 / 2, W) for the formats that need it. Slices and crops are
                read in place where the pixels of a row lie side by side, else copied once. A
                detector on a GPU takes frames in that GPU's memory, without a copy, from whatever
                has DLPack or `__cuda_array_interface__` (torch, CuPy, pycuda, jetson-utils); it
                waits for the producer's stream there, see docs/gpu.md. The frame must not change
                until the call returns.
            format: What the camera sends, see docs/frames.md: uint8 (H, W, 3) "bgr8", "rgb8";
                uint8 (H, W) "mono8", "bayer_rggb8" (also grbg, gbrg, bggr); uint16 (H, W)
                "mono10", "mono12", "mono16", "bayer_rggb12" (and the others), values in the low
                bits; uint8 (H * 3 / 2, W) "nv12". None: BGR for three channels, mono for none;
                uint16 has no default.

        Raises:
            FrameError: another type, dtype, shape or format, an empty frame, or a region of
                interest that does not lie in it.
            ModelError: the model's output is not finite, or its engine failed.
            Error: the detector is closed.
        """
        detector = self._open()
        return self._result(detector.score(as_pixels(frame), format), detector)

    def submit(
        self,
        frame: FrameLike,
        *,
        format: str | None = None,
        timeout: float | None = None,
        copy: bool = False,
    ) -> Future[Result]:
        """Hand in one frame and go on: while it is worked on, others are too.

        Futures are answered in the order of `submit`, and call their callbacks one at a time in a
        thread of the detector's. `asyncio.wrap_future` makes them awaitable. A frame that was
        handed in cannot be cancelled: `Future.cancel` returns False.

        Args:
            frame: as for `score`. It is borrowed, and must not change, until the future is done.
            format: as for `score`.
            timeout: seconds to wait for room while `in_flight` frames are in flight; None waits
                for as long as it takes. Callbacks never wait.
            copy: copy the frame first, so that its memory may be filled again at once.

        Returns:
            A future with the result; what `score` raises, it raises.

        Raises:
            BusyError: no room within `timeout`; it is a TimeoutError too.
            FrameError: another type, dtype, shape or format.
            Error: the detector is closed, or was opened before a fork.
        """
        detector = self._open()
        pixels = as_pixels(frame)
        if copy:
            if not isinstance(pixels, np.ndarray):
                raise FrameError(
                    "copy=True copies arrays of NumPy, and the frame is a "
                    f"{type(frame).__qualname__}: copy it where it is made"
                )
            pixels = pixels.copy()
        future: Future[Result] = Future()
        future.set_running_or_notify_cancel()  # from here on it cannot be cancelled

        def done(native: _core.NativeResult | None, error: BaseException | None) -> None:
            if native is None:
                future.set_exception(error)
            else:
                future.set_result(self._result(native, detector))

        detector.submit(pixels, format, timeout, done)
        return future

    def score_batch(
        self, frames: Iterable[FrameLike], *, format: str | None = None
    ) -> list[Result]:
        """The verdicts on many frames, several in flight; blocks until all are there.

        Args:
            frames: each as for `score`; an array (N, H, W, 3) or (N, H, W) is N frames. They are
                asked for as there is room, so a generator may read files.
            format: as for `score`, of all.

        Returns:
            One result per frame, in their order.

        Raises:
            FrameError, ModelError, ...: what the first frame that failed raised, with its index
                ("frame 3 of the batch: ..."). No frame after it is begun, and none is borrowed.
            Error: the detector is closed, or this is a future's callback.
        """
        if self._open().is_own_thread:
            raise Error(
                "score_batch was called by a future's callback, for whose end its frames would "
                "wait: call it in another thread"
            )
        results: list[Result] = []
        pending: deque[Future[Result]] = deque()
        refused: Error | None = None

        def collect() -> None:
            future = pending.popleft()
            try:
                results.append(future.result())
            except Error as error:
                raise _of_batch(error, len(results)) from error

        try:
            for frame in frames:
                while pending and pending[0].done():
                    collect()
                try:
                    pending.append(self.submit(frame, format=format))
                except Error as error:  # raised below, unless an earlier frame fails too
                    refused = error
                    break
            while pending:
                collect()
        finally:
            wait(pending)
        if refused is not None:
            raise _of_batch(refused, len(results)) from refused
        return results

    def _result(self, native: _core.NativeResult, detector: _core.Detector) -> Result:
        scale = None if self._site is None else self._site.mm_per_pixel
        return result_of(native, detector.mask_threshold, scale)

    def frame_buffer(
        self, height: int, width: int, format: str = "bgr8"
    ) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Memory for a camera to fill, which `score` reads without a copy by the CPU.

        Page-locked for a detector on a GPU (a Jetson's GPU reads it where it is), plain otherwise.
        The array, and every view of it, keeps the memory alive, also when the detector is closed.
        Fill it, score it, and fill it again only when `score` has returned: it is read until then.

        Args:
            height: of the frame, pixels.
            width: of the frame, pixels.
            format: as for `score`.

        Returns:
            Zeros; uint8 (H, W, 3), uint8 (H, W), uint16 (H, W) or, for "nv12", uint8
            (H * 3 / 2, W).

        Raises:
            FrameError: an unknown format, or a size that it cannot have.
            DeviceError: the GPU cannot lock so much memory.
            Error: the detector is closed.
        """
        return self._open().frame_buffer(height, width, format)

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest as it stands in the model file; a copy."""
        copy: dict[str, Any] = json.loads(json.dumps(self._manifest))
        return copy

    @property
    def site(self) -> dict[str, Any] | None:
        """The site file as it was read; None where there is none; a copy."""
        return None if self._site is None else self._site.to_dict()

    @property
    def threshold(self) -> float:
        """The decision threshold in use: raw score."""
        return self._open().threshold

    @property
    def engine_name(self) -> str:
        """Name, version and settings of the engine: "OpenVINO 2026.4.1 (threads 2, streams 1)"."""
        return self._open().engine_name

    @property
    def is_on_gpu(self) -> bool:
        """Whether frames are scored in a GPU's memory."""
        return self._open().is_on_gpu

    def close(self, *, drain: bool = True) -> None:
        """Take no more frames, wait for those handed in, release the engine and its buffers.

        A frame that another thread is scoring finishes. In a future's callback it does not wait.

        Args:
            drain: score every frame that was handed in; False: frames that nobody works on yet are
                answered with an Error.
        """
        native, self._native = self._native, None
        if native is not None:
            native.close(drain=drain)
            if not native.is_own_thread:  # else frames may still be in flight
                self._finalizer.detach()

    def __enter__(self) -> Detector:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._native is None else self._native.engine_name
        return f"Detector({self._source!r}, {state})"

    def _open(self) -> _core.Detector:
        native = self._native
        if native is None:
            raise Error(f"the detector of '{self._source}' is closed: open the model again")
        return native

    def _self_test_score(
        self, text: str, engine: _core.Engine, threads: int, cpus: list[int], priority: int
    ) -> float:
        """Score the synthetic frame with the manifest's own settings, whatever the caller's are.

        On the detector's CPUs all the same: an engine may start its threads in its first run.
        """
        from agp_edge import _core  # noqa: PLC0415  (kept out of `import agp_edge`)

        # The verdict is not used, so a model without a default threshold is tested all the same.
        native = _core.Detector(
            text,
            self._source,
            engine,
            threshold=0.0,
            outputs=0,
            threads=threads,
            in_flight=1 if cpus or priority else 0,
            cpus=cpus,
            priority=priority,
        )
        frame = self_test_frame(self._manifest, self._manifest["self_test"]["seed"])
        return native.score(frame).score


def _of_batch(error: Error, index: int) -> Error:
    """The error with its frame's place in the batch."""
    return type(error)(f"frame {index} of the batch: {error}")
