"""The C++ part of agp_edge (cpp/bindings); private: agp_edge.Detector is the public way in.

Every error of the tree (agp_edge.errors) comes out of here as that class.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

# (name, "float32" or "float16", shape)
_Tensor = tuple[str, str, Sequence[int]]

def read_manifest_json(path: str, content: Buffer | None = None) -> str:
    """The manifest document of an ONNX file or a plan, unparsed; told apart by content.

    Args:
        path: The file; only its name in messages where `content` is given.
        content: Its bytes; None: the file is read.

    Raises:
        ModelError: missing, unreadable, truncated, not a model of ours.
    """

def manifest_extent(path: str) -> tuple[int, int]:
    """The bytes of an ONNX file that are its manifest's metadata entry; (0, 0) for a plan.

    Raises:
        ModelError: as `read_manifest_json`.
    """

def refuse_external_data(path: str, content: Buffer | None = None) -> None:
    """Refuses an ONNX file some of whose weights lie in another file, which no hash covers.

    Args:
        path: The file; only its name in messages where `content` is given.
        content: Its bytes; None: the file is read.

    Raises:
        ModelError: it names another file, or cannot be read.
    """

def check_manifest_json(text: str, source: str) -> None:
    """Checks every key of a manifest document; `source` names it in messages.

    Raises:
        ModelError: no valid JSON, a newer major version, a key missing or out of range.
    """

class Preprocessor:
    """Frame -> network input: crop, antialiased resize, channel order, normalise, NCHW.

    Args:
        height: Of the network's input, pixels.
        width: Of the network's input, pixels.
        mean: Of the three planes, 8-bit pixel units: tensor = (pixel - mean) / std.
        std: Of the three planes, 8-bit pixel units.
        channels: Order of the planes, "rgb" or "bgr".
        resize: "antialias" (PIL, torchvision) or "area" (cv2.INTER_AREA).
        roi: x, y, width, height in frame pixels; None: the whole frame.
        threads: 0 chooses, 1 stays on the caller's thread.
    """

    def __init__(
        self,
        *,
        height: int,
        width: int,
        mean: Sequence[float],
        std: Sequence[float],
        channels: str = "rgb",
        resize: str = "antialias",
        roi: tuple[int, int, int, int] | None = None,
        threads: int = 0,
    ) -> None: ...
    def run(
        self,
        frame: NDArray[np.uint8] | NDArray[np.uint16] | Buffer,
        format: str | None = None,
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Preprocesses one frame; threads take turns, the GIL is free.

        Args:
            frame: uint8 (height, width, 3) or (height, width); uint16 (height, width) with a
                format of more bits; uint8 (height * 3 / 2, width) for "nv12". Rows may be any
                distance apart; pixels that are not side by side are copied once.
            format: "bgr8", "rgb8", "mono8", "mono10", "mono12", "mono16", "bayer_rggb8" or
                "bayer_rggb12" (also grbg, gbrg, bggr), "nv12"; None: bgr8 or mono8 by the number
                of axes, for uint8 only.
            out: Written and returned if given: float32 (3, height, width), C-contiguous.

        Returns:
            float32 (3, height, width).

        Raises:
            FrameError: a wrong dtype, shape, format or region of interest.
            ValueError: `out` does not fit.
        """

class NativeRegion:
    """One connected part of the mask."""

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x, y, width, height; frame pixels."""
    @property
    def area(self) -> int:
        """Anomaly-map pixels."""
    @property
    def frame_area(self) -> float:
        """Frame pixels."""
    @property
    def peak(self) -> float:
        """Largest value of the anomaly map inside."""
    @property
    def peak_position(self) -> tuple[int, int]:
        """x, y of the peak; frame pixels."""

class NativeLatency:
    """Milliseconds of the steady clock."""

    @property
    def wait_ms(self) -> float: ...
    @property
    def copy_ms(self) -> float | None: ...
    @property
    def copy_back_ms(self) -> float | None: ...
    @property
    def preprocess_ms(self) -> float: ...
    @property
    def execute_ms(self) -> float: ...
    @property
    def postprocess_ms(self) -> float: ...
    @property
    def total_ms(self) -> float: ...

class NativeResult:
    """What C++ found in one frame; the arrays own their memory."""

    @property
    def score(self) -> float: ...
    @property
    def threshold(self) -> float: ...
    @property
    def is_anomalous(self) -> bool: ...
    @property
    def p_value(self) -> float | None:
        """Conformal, of the score; None without a calibration tail."""
    @property
    def anomaly_map(self) -> NDArray[np.float32] | None:
        """float32 (height, width); None where it was not asked for."""
    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """NumPy bool (height, width); None where it was not asked for."""
    @property
    def regions(self) -> list[NativeRegion]:
        """Largest peak first; empty where they were not asked for."""
    @property
    def view(self) -> tuple[int, int, int, int]:
        """x, y, width, height of what was judged: the region of interest or the frame."""
    @property
    def latency(self) -> NativeLatency: ...

class Postprocessor:
    """Distance grid -> anomaly map, score, mask, regions.

    Args:
        grid_height: Of the engine's output.
        grid_width: Of the engine's output.
        map_height: Of the anomaly map, pixels.
        map_width: Of the anomaly map, pixels.
        sigma: Of the Gaussian blur, map pixels; 0: none.
        score: "max", "top_mean" or "power_mean".
        top_share: Share of the map's pixels that "top_mean" averages, (0, 1].
        power: Of "power_mean", 1 to 64: mean(max(value, 0)^power)^(1 / power).
    """

    def __init__(
        self,
        *,
        grid_height: int,
        grid_width: int,
        map_height: int,
        map_width: int,
        sigma: float,
        score: str = "max",
        top_share: float = 0.01,
        power: int = 24,
    ) -> None: ...
    def run(
        self,
        grid: NDArray[np.float32],
        *,
        view: tuple[int, int, int, int] | None = None,
        threshold: float | None = None,
        mask_threshold: float | None = None,
        min_area: int = 0,
        outputs: int = 7,
    ) -> NativeResult:
        """Postprocesses one grid; threads take turns, the GIL is free.

        Args:
            grid: float32 (grid_height, grid_width).
            view: x, y, width, height of the part of the frame that the map covers; None: the map.
            threshold: Of the score; None: nothing is anomalous.
            mask_threshold: Of the map; None: `threshold`.
            min_area: Regions of fewer map pixels are dropped.
            outputs: Sum of 1 (map), 2 (mask) and 4 (regions).

        Raises:
            ModelError: a value of the grid is not finite.
            ValueError: `grid` does not fit.
        """

def has_cuda_kernels() -> bool:
    """Whether this build carries the kernels: nvcc was found when it was compiled."""

class CudaPreprocessor:
    """`Preprocessor` on an NVIDIA GPU, for frames in host memory; for tests.

    Args:
        height: As `Preprocessor`, and all up to `roi`.
        width: See there.
        mean: See there.
        std: See there.
        channels: See there.
        resize: See there.
        roi: See there.
        device: CUDA's number of the GPU.
        half: Results are float16.

    Raises:
        DeviceError: no GPU, no kernels in this build, or none for this GPU.
    """

    def __init__(
        self,
        *,
        height: int,
        width: int,
        mean: Sequence[float],
        std: Sequence[float],
        channels: str = "rgb",
        resize: str = "antialias",
        roi: tuple[int, int, int, int] | None = None,
        device: int = 0,
        half: bool = False,
    ) -> None: ...
    def run(
        self, frame: NDArray[np.uint8] | NDArray[np.uint16] | Buffer, format: str | None = None
    ) -> NDArray[np.float32] | NDArray[np.float16]:
        """Uploads one frame, preprocesses it, downloads (3, height, width)."""

class CudaPostprocessor:
    """`Postprocessor` on an NVIDIA GPU, for grids in host memory; for tests.

    Args:
        grid_height: As `Postprocessor`, and all up to `power`.
        grid_width: See there.
        map_height: See there.
        map_width: See there.
        sigma: See there.
        score: See there.
        top_share: See there.
        power: See there.
        device: CUDA's number of the GPU.
        half: Grids become float16 before they are uploaded.
    """

    def __init__(
        self,
        *,
        grid_height: int,
        grid_width: int,
        map_height: int,
        map_width: int,
        sigma: float,
        score: str = "max",
        top_share: float = 0.01,
        power: int = 24,
        device: int = 0,
        half: bool = False,
    ) -> None: ...
    def run(
        self,
        grid: NDArray[np.float32],
        *,
        threshold: float | None = None,
        mask_threshold: float | None = None,
        min_area: int = 0,
        outputs: int = 7,
    ) -> NativeResult:
        """As `Postprocessor.run`."""

def cuda_compiler_version() -> int:
    """Of the kernels' compiler: 13000 is CUDA 13.0; 0 where this build has none."""

def cuda_memory(device: int = 0) -> tuple[int, int]:
    """Free and all bytes of the GPU's memory, as its driver counts them."""

def cuda_copy_seconds(bytes: int, runs: int = 20, device: int = 0) -> list[float]:
    """Each run's time on the GPU of a copy inside its memory: `bytes` read and `bytes` written."""

def cuda_preprocess_seconds(
    frame: NDArray[np.uint8] | NDArray[np.uint16],
    format: str | None = None,
    *,
    height: int,
    width: int,
    half: bool = False,
    copies: int = 1,
    runs: int = 20,
    device: int = 0,
) -> list[float]:
    """Each run's time on the GPU of one frame's preprocessing, by CUDA events.

    Args:
        frame: Any that `Preprocessor` takes.
        format: Its format.
        height: Of the network's input.
        width: See there.
        half: The output is float16.
        copies: Of the frame, in memory of their own; a run is one pass over all of them.
        runs: How many are measured, after three that are not.
        device: CUDA's number of the GPU.
    """

class EngineTimes:
    """Of an engine alone, one entry a run, seconds."""

    @property
    def host(self) -> list[float]:
        """From the launch to the end of the host's wait, which spins as `score` does."""
    @property
    def device(self) -> list[float]:
        """On the GPU, by CUDA events."""
    @property
    def recorded(self) -> bool:
        """Whether a run was the launch of a CUDA graph; else the engine was called."""

def cuda_engine_times(engine: Engine, runs: int = 1000) -> EngineTimes:
    """Runs an engine in device memory on tensors of its own."""

class Engine:
    """Any inference engine that C++ can call."""

    @property
    def name(self) -> str:
        """Name and version."""
    @property
    def inputs(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """Name, dtype and shape of each."""
    @property
    def outputs(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """Name, dtype and shape of each."""

class CallableEngine(Engine):
    """An engine that is a Python function.

    Args:
        name: Name and version, for reports.
        inputs: (name, dtype, shape) of each.
        outputs: (name, dtype, shape) of each.
        function: Called with a stream (0 on a CPU) and the addresses of the inputs and outputs,
            the same ones for one detector's life; what it raises comes out of score() unchanged.
            It is kept alive from C++, which the garbage collector does not see: it must not refer
            to the detector that calls it.
        memory: "host" or "device": where the addresses are. "device": of the primary context of
            the CUDA device `device`, current during the call, which only puts its work on the
            stream.
        device: Index of the GPU.
        clone: Gives another function like `function`, whose calls may run beside its own; None:
            there is none, and frames in flight take turns.

    Raises:
        ModelError: an unknown dtype or memory, or a side below 1.
    """

    def __init__(
        self,
        name: str,
        inputs: Sequence[_Tensor],
        outputs: Sequence[_Tensor],
        function: Callable[[int, list[int], list[int]], object],
        *,
        memory: str = "host",
        device: int = 0,
        clone: Callable[[], Callable[[int, list[int], list[int]], object]] | None = None,
    ) -> None: ...

def has_openvino() -> bool:
    """Whether the extension was built with OpenVINO's headers."""

def open_openvino(
    path: str,
    *,
    library_folder: str = "",
    threads: int = 0,
    streams: int = 1,
    cpus: Sequence[int] = (),
    bfloat16: bool = False,
    content: Buffer | None = None,
) -> Engine:
    """Opens an ONNX file with OpenVINO on the CPU.

    Args:
        path: The ONNX file.
        library_folder: Where libopenvino_c.so* is; empty: AGP_EDGE_OPENVINO_LIBS, then the
            system's search path.
        threads: 0: OpenVINO chooses, or one per given CPU.
        streams: Frames that the engine's clones run at a time, at most one per core.
        cpus: The only ones to use; none: as the process's.
        bfloat16: Compute in it.
        content: The file's bytes; None: the file is read.

    Raises:
        DependencyError: not built in, or the library was not found.
        ModelError: OpenVINO cannot read or compile the file.
        DeviceError: bfloat16, and this CPU has no instructions for it.
    """

def tensorrt_modules() -> list[str]:
    """Titles of the TensorRT modules in this build: "TensorRT 10", "TensorRT for RTX"."""

def set_tensorrt_log(log: Callable[[int, bytes], object] | None) -> None:
    """Where TensorRT's own messages go, for the whole process; None: nowhere.

    Args:
        log: Called from any thread with a level of `logging` and the message in UTF-8.
    """

def open_tensorrt(
    path: str,
    *,
    library_folders: Sequence[str] = (),
    device: int = 0,
    content: Buffer | None = None,
) -> Engine:
    """Opens a plan on an NVIDIA GPU; the CUDA driver is asked before TensorRT is touched.

    Args:
        path: The plan.
        library_folders: Searched for TensorRT's library before the system's search path.
        device: Index of the GPU.
        content: The plan's bytes; None: the file is mapped.

    Raises:
        ModelError: not a plan, changed, or built for another GPU, TensorRT version or flavour.
        DeviceError: no GPU, or out of memory.
        DependencyError: no module in this build, or no library that fits.
    """

def place_this_thread(cpus: Sequence[int], priority: int) -> None:
    """Pins the calling thread, and those that it starts, and makes it urgent.

    Args:
        cpus: The only ones to use; none: as it is.
        priority: 1 to 99, SCHED_FIFO; 0: as it is.

    Raises:
        Error: not a CPU of this process, a priority out of range or not permitted.
    """

def p_value(n: int, scores: Sequence[float], score: float) -> float:
    """Conformal p-value: (1 + good parts with at least this score) / (n + 1), in (0, 1].

    Args:
        n: Good parts that were scored in all.
        scores: The largest of their scores, rising.
        score: Of the new part. All are compared as float32.

    Raises:
        ModelError: not 1 to n finite, rising scores.
    """

class Detector:
    """A manifest and an engine; frames from any thread, in order of arrival.

    Args:
        manifest_json: The document.
        source: Its file, for messages.
        engine: Its tensors have to fit the manifest.
        threshold: None: the manifest's.
        mask_threshold: None: `threshold` if given, else the manifest's.
        roi: x, y, width, height in frame pixels; None: the manifest's.
        min_area: Regions of fewer map pixels leave mask and list.
        outputs: Sum of 1 (map), 2 (mask) and 4 (regions).
        threads: Of the CPU stages; 0 chooses.
        ignored: Don't-care polygons, each three or more (x, y) in frame pixels: what lies inside
            has no say in score, mask and regions.
        calibration_tail: n and the largest scores of n good parts, rising; None: the manifest's,
            unless `roi` or `ignored` make scores that it was not made of.
        in_flight: Frames that submit() works on at a time, made now; 0: two, by the first submit().
        cpus: The only ones that the detector's threads use; score() then works in one of them.
        priority: Real-time priority of these threads, 1 to 99; 0: none.
        wait: For a GPU: "spin" or "block".
        geometries: Frame geometries whose graphs are kept on a GPU; 1 or more.

    Raises:
        ModelError: a wrong manifest, a tensor that does not fit, no threshold anywhere.
        FrameError: a region of interest that is empty or starts below 0.
        Error: `in_flight`, `cpus` or `priority` out of range or not permitted.
    """

    def __init__(
        self,
        manifest_json: str,
        source: str,
        engine: Engine,
        *,
        threshold: float | None = None,
        mask_threshold: float | None = None,
        roi: tuple[int, int, int, int] | None = None,
        min_area: int = 0,
        outputs: int = 7,
        threads: int = 0,
        ignored: Sequence[Sequence[tuple[float, float]]] = (),
        calibration_tail: tuple[int, Sequence[float]] | None = None,
        in_flight: int = 0,
        cpus: Sequence[int] = (),
        priority: int = 0,
        wait: str = "spin",
        geometries: int = 4,
        device_times: bool = False,
    ) -> None: ...
    def frame_buffer(
        self, height: int, width: int, format: str
    ) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Zeros in memory that a camera fills and score() reads without a copy by the CPU.

        Raises:
            FrameError: format or size; DeviceError: the GPU cannot lock so much memory.
        """
    def score(
        self,
        frame: NDArray[np.uint8] | NDArray[np.uint16] | Buffer,
        format: str | None = None,
    ) -> NativeResult:
        """Scores one frame; see Preprocessor.run for what a frame may be.

        Raises:
            FrameError: the frame; ModelError: the engine failed or answered nonsense.
        """
    def submit(
        self,
        frame: NDArray[np.uint8] | NDArray[np.uint16] | Buffer,
        format: str | None,
        timeout: float | None,
        done: Callable[[NativeResult | None, BaseException | None], object],
    ) -> None:
        """Hands in one frame, which is kept until `done` returns.

        Args:
            frame: As for score().
            format: As for score().
            timeout: Seconds to wait for room; None: as long as it takes.
            done: Called with the result and None, or None and the exception, in a thread of the
                detector's; one call at a time, in the order of submit().

        Raises:
            BusyError: no room in time; FrameError: the frame; Error: closed, or a forked process.
        """
    def close(self, drain: bool) -> None:
        """Takes no more frames; waits for those in flight, but not inside a `done`.

        Args:
            drain: False: frames that nobody works on yet are answered with an Error.
        """
    @property
    def is_own_thread(self) -> bool:
        """Whether this is a call of a `done`."""
    @property
    def threshold(self) -> float: ...
    @property
    def mask_threshold(self) -> float: ...
    @property
    def is_on_gpu(self) -> bool:
        """Whether the engine's memory is a GPU's."""
    @property
    def engine_name(self) -> str: ...
