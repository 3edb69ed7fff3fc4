"""Which engine runs a model file; each one is a module here and loads its library on demand."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from agp_edge.errors import DependencyError, DeviceError, Error, ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

    from agp_edge import _core

__all__ = ["ENGINES", "has_vnni", "is_plan", "open_engine"]

# The second OpenVINO is never a default: it gives other scores than every other engine.
ENGINES = ("onnxruntime", "openvino", "openvino-bf16", "tensorrt")

# A plan starts with "ftrt" (TensorRT), "vtrt" (TensorRT for RTX) or "ptrt" (before 10), an ONNX
# file with the tag of ir_version.
PLAN_MAGIC = b"trt"
ONNX_FIRST_BYTE = b"\x08"
PLAN_SUFFIXES = (".plan", ".engine", ".trt")


def is_plan(path: str, content: Buffer | None = None) -> bool:
    """Whether the file is a TensorRT plan: by its content, and where that is unknown by its suffix.

    Args:
        path: the file.
        content: its bytes; None: the file is read.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        if content is not None:
            start = bytes(memoryview(content)[:4])
        else:
            with Path(path).open("rb") as file:
                start = file.read(4)
    except OSError as error:
        raise ModelError(f"the model '{path}' cannot be read ({error.strerror})") from error
    if start[1:] == PLAN_MAGIC:
        return True
    return not start.startswith(ONNX_FIRST_BYTE) and Path(path).suffix.lower() in PLAN_SUFFIXES


def open_engine(
    path: str,
    *,
    device: str,
    engine: str | None,
    threads: int,
    build: bool = True,
    content: bytes | None = None,
    precision: str = "fp32",
    streams: int = 1,
    cpus: Sequence[int] = (),
    priority: int = 0,
) -> _core.Engine:
    """Load `path` into an engine.

    Args:
        path: an ONNX file or a plan whose manifest has been read.
        device: "auto", "cpu", "cuda"; "cuda" compiles an ONNX file for the GPU that is here.
        engine: one of `ENGINES`; None takes the first that fits the file and is installed.
        threads: of a CPU engine; 0: its own choice.
        build: whether an ONNX file may be compiled now where the plan cache does not hold it.
        content: the file's bytes, when their hash was compared: nothing else is loaded then.
        precision: that the manifest says: it decides between the engines for an ONNX file.
        streams: frames that a CPU engine and its clones shall run at a time.
        cpus: the only ones that its threads may use; none: as the process's.
        priority: real-time priority of its threads; 0: as the process's.

    Raises:
        ModelError: the engine cannot run this file.
        DependencyError: the engine's package is not installed.
        DeviceError: a plan or device "cuda", and no NVIDIA GPU; "openvino-bf16", and the CPU has
            no bfloat16.
        Error: unknown device or engine, a CPU or a priority that this process may not have.
    """
    opening = partial(
        _open_engine,
        path,
        device=device,
        engine=engine,
        threads=threads,
        build=build,
        content=content,
        precision=precision,
        streams=streams,
        cpus=cpus,
    )
    if not cpus and priority == 0:
        return opening()
    from agp_edge import _core  # noqa: PLC0415  (kept out of `import agp_edge`)

    # Threads that it starts are where their starter is.
    with ThreadPoolExecutor(1) as placed:
        placed.submit(_core.place_this_thread, cpus, priority).result()
        return placed.submit(opening).result()


def _open_engine(
    path: str,
    *,
    device: str,
    engine: str | None,
    threads: int,
    build: bool,
    content: bytes | None,
    precision: str,
    streams: int,
    cpus: Sequence[int],
) -> _core.Engine:
    if device not in ("auto", "cpu", "cuda"):
        raise Error(f"unknown device '{device}': expected 'auto', 'cpu' or 'cuda'")
    if engine is not None and engine not in ENGINES:
        raise Error(f"unknown engine '{engine}': expected one of {', '.join(ENGINES)}")
    if is_plan(path, content):
        return _open_plan(path, device=device, engine=engine, content=content)
    if device == "cuda" or engine == "tensorrt":
        if device == "cpu" or engine not in (None, "tensorrt"):
            raise Error(
                f"engine '{engine}' and device '{device}' do not go together: TensorRT runs on "
                "'cuda', the others on 'cpu'"
            )
        from agp_edge.plan.cache import plan_for_this_gpu  # noqa: PLC0415  (loads on demand)

        plan = plan_for_this_gpu(path, build=build, content=content)
        return _open_plan(str(plan), device="cuda", engine=engine)
    return _open_onnx(
        path,
        engine=engine,
        threads=threads,
        content=content,
        precision=precision,
        streams=streams,
        cpus=cpus,
    )


def _open_plan(
    path: str, *, device: str, engine: str | None, content: bytes | None = None
) -> _core.Engine:
    if engine not in (None, "tensorrt"):
        raise ModelError(
            f"'{path}' is a TensorRT plan and cannot run in {engine}: open the .onnx file instead"
        )
    if device == "cpu":
        raise DeviceError(
            f"'{path}' is a TensorRT plan, which runs on an NVIDIA GPU only, and device='cpu' was "
            "asked for: open the .onnx file instead"
        )
    from agp_edge.engines import tensorrt  # noqa: PLC0415  (engines load on demand)

    return tensorrt.open_plan(path, content=content)


def _open_onnx(
    path: str,
    *,
    engine: str | None,
    threads: int,
    content: bytes | None,
    precision: str,
    streams: int,
    cpus: Sequence[int],
) -> _core.Engine:
    from agp_edge.engines import onnxruntime, openvino  # noqa: PLC0415  (engines load on demand)

    # The faster one first (benchmarks/cpu_engines.py). Without VNNI the sums of OpenVINO's INT8
    # overflow 16 bits, and the self-test refuses the scores; ONNX Runtime computes it in float.
    in_order = {"openvino": openvino.open_onnx, "onnxruntime": onnxruntime.open_onnx}
    if precision == "int8" and not has_vnni():
        in_order = dict(reversed(in_order.items()))
    if engine is not None:
        if engine == "openvino-bf16":
            open_named = partial(openvino.open_onnx, bfloat16=True)
        else:
            open_named = partial(in_order[engine])
        return open_named(path, threads=threads, content=content, streams=streams, cpus=cpus)
    missing: DependencyError | None = None
    for open_onnx in in_order.values():
        try:
            return open_onnx(path, threads=threads, content=content, streams=streams, cpus=cpus)
        except DependencyError as error:
            missing = error
    raise DependencyError(
        f"no engine that runs '{path}' on a CPU is installed: "
        "install one with `pip install 'agp-edge[cpu]'` (ONNX Runtime) or "
        "`pip install 'agp-edge[openvino]'`"
    ) from missing


def has_vnni(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Whether the CPU adds products of eight bits up in 32 bits; unknown counts as no."""
    try:
        text = Path(cpuinfo).read_text("ascii", "replace")
    except OSError:
        return False
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "").split()
    return not {"avx512_vnni", "avx_vnni"}.isdisjoint(flags)
