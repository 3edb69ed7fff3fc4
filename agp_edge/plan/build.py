"""Compile a plan: reads model.onnx, writes engine.plan with the same manifest as its name.

The precision is the graph's own (strongly typed networks), so the same file compiles with every
TensorRT from 10.3 on and with TensorRT for RTX, which needs no GPU for it.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from agp_edge.engines import is_plan
from agp_edge.engines.tensorrt import FLAVOURS, make_logger
from agp_edge.errors import DependencyError, Error, ModelError
from agp_edge.files import write_aside
from agp_edge.gpu import find_gpus
from agp_edge.manifest import MANIFEST_LIMIT, read_manifest
from agp_edge.plan.compiler_thread import serialized_network
from agp_edge.plan.network import check_ends, count_weights, not_null, parse_network
from agp_edge.plan.precision import (
    BUILT_PLACEHOLDER,
    check_built,
    check_network,
    engine_precision,
    graph_of_precision,
    stamped_plan,
)
from agp_edge.plan.targets import chosen_targets, has_gpu, set_targets
from agp_edge.plan.timing_cache import load_timing_cache, save_timing_cache

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["BACKENDS", "BuildReport", "compiler_version", "plan_from_onnx"]

BACKENDS = ("auto", "tensorrt", "rtx")


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What was compiled, and how large it came out."""

    path: str
    """The plan."""

    backend: str
    """Compiler and version, e.g. "TensorRT for RTX 1.7.1.116"."""

    targets: tuple[str, ...]
    """Compute capabilities that it runs on, e.g. ("8.6", "8.9")."""

    seconds: float
    """Compile time: parsing and building."""

    plan_bytes: int
    """Size of the plan."""

    weights: int
    """Weights of the network before the compiler folded them."""

    precision: str = "fp32"
    """What the graph asks for: "fp32", "fp16" or "int8"."""

    built: str | None = None
    """What the engine's layers really work in; None where no GPU could tell."""

    fp16_check: str | None = None
    """How far the FP16 graph lies from the FP32 one; None where nothing was converted."""

    timing_cache_problem: str | None = None
    """Why the timing cache was not kept; None where it was, or where none was asked for."""

    @property
    def bytes_per_weight(self) -> float:
        """plan_bytes / weights: near 4 says FP32, near 2 FP16, near 1 INT8, for large models."""
        return self.plan_bytes / max(1, self.weights)


def plan_from_onnx(
    onnx_path: str | os.PathLike[str],
    plan_path: str | os.PathLike[str],
    *,
    backend: str = "auto",
    precision: str | None = None,
    images: Sequence[str | os.PathLike[str]] = (),
    optimization_level: int | None = None,
    workspace: int | None = None,
    timing_cache: str | os.PathLike[str] | None = None,
    targets: Sequence[int] = (),
    keep_onnx: str | os.PathLike[str] | None = None,
    progress: Callable[[float], None] | None = None,
) -> BuildReport:
    """Compile `onnx_path` into `plan_path`; an existing plan is replaced when the new one is whole.

    Args:
        onnx_path: a model made by `agp-edge export`.
        plan_path: where the plan goes.
        backend: "tensorrt" compiles for the GPU of this machine; "rtx" is TensorRT for RTX, which
            needs no GPU; "auto" takes TensorRT where it and a GPU are there, else RTX.
        precision: "fp32", "fp16" or "int8"; None: the graph's own. An FP32 graph becomes FP16 here,
            and is compared with itself on `images` before anything is compiled; INT8 graphs are
            quantised beforehand.
        images: image files for that comparison; empty: synthetic frames.
        optimization_level: 0 (fast to build) to 5 (searches longest); None: the compiler's own.
        workspace: most scratch memory that a layer may take on the GPU, MiB; None: all.
        timing_cache: TensorRT's measurements, read and written: makes the next build of a similar
            model fast. TensorRT for RTX measures nothing and has none.
        targets: compute capabilities for "rtx", e.g. (86, 89); empty: this machine's GPU, or
            `RTX_TARGETS` where it has none that RTX knows.
        keep_onnx: where the FP16 graph that is made here is kept, checked and before it is
            compiled; None: nowhere.
        progress: called now and then with the share done, 0 to 1, from another thread.

    Raises:
        ModelError: not an ONNX file of ours, its manifest is too long for a plan, or the compiler
            refuses it; the graph is of another precision, or loses too much in FP16.
        DataError: the timing cache cannot be read, or not be written.
        DependencyError: no compiler is installed.
        DeviceError: "tensorrt" without an NVIDIA GPU.
        Error: unknown backend, or targets that it does not have; `keep_onnx` where nothing is
            converted, or with the name of another file of this build.
    """
    source = os.fspath(onnx_path)
    if keep_onnx is not None and Path(keep_onnx).resolve() in (
        Path(source).resolve(),
        Path(plan_path).resolve(),
    ):
        raise Error(
            f"the FP16 graph cannot be kept as '{os.fspath(keep_onnx)}', which is the model or the "
            "plan: expected another file"
        )
    manifest = read_manifest(source)
    if is_plan(source):
        raise ModelError(f"'{source}' is a plan already: pass the .onnx file that it was made from")
    flavour = _choose(backend)
    if targets and flavour != "rtx":
        raise Error(
            "targets are for TensorRT for RTX: TensorRT compiles for this machine's GPU only; "
            "leave them out or choose backend 'rtx'"
        )
    if timing_cache is not None and flavour == "rtx":
        raise Error("TensorRT for RTX measures nothing and has no timing cache: leave it out")
    if workspace is not None and workspace < 1:
        raise Error(f"the workspace is {workspace} MiB: expected 1 or more")
    trt = FLAVOURS[flavour].load()
    package = "tensorrt_rtx" if flavour == "rtx" else "tensorrt"
    manifest.setdefault("versions", {})[package] = trt.__version__
    chosen = chosen_targets(trt, flavour, targets)
    manifest["built_for"] = [_dotted(*divmod(target, 10)) for target in chosen]
    _plan_name(manifest, source, placeholder=has_gpu())  # too long is refused before any work
    with TemporaryDirectory(prefix="agp-edge-build-") as folder:
        graph, conversion = graph_of_precision(source, precision, Path(folder), images)
        if keep_onnx is not None:
            if conversion is None:
                raise Error(
                    f"'{source}' is compiled as it is, so there is no converted graph to keep as "
                    f"'{os.fspath(keep_onnx)}': leave it out, or ask for fp16 of an fp32 model"
                )
            with write_aside(keep_onnx) as aside:
                copyfile(graph, aside)
        manifest["precision"] = read_manifest(graph)["precision"]
        compiled = _compile(
            trt,
            flavour,
            graph,
            source,
            manifest,
            optimization_level=optimization_level,
            workspace=workspace,
            timing_cache=None if timing_cache is None else Path(timing_cache),
            targets=chosen,
            progress=progress,
        )
    target = Path(plan_path)
    with write_aside(target) as aside:
        aside.write_bytes(compiled.plan)
        if read_manifest(aside) != manifest:
            raise ModelError(
                f"{compiled.title} did not keep the manifest of '{source}' in the plan: nothing "
                "was written"
            )
    return BuildReport(
        path=str(target),
        backend=compiled.title,
        targets=tuple(manifest["built_for"]),
        seconds=compiled.seconds,
        plan_bytes=len(compiled.plan),
        weights=compiled.weights,
        precision=manifest["precision"]["asked"],
        built=manifest["precision"]["built"],
        fp16_check=None if conversion is None else str(conversion.difference),
        timing_cache_problem=compiled.timing_cache_problem,
    )


@dataclass(frozen=True, kw_only=True)
class _Compiled:
    title: str
    plan: bytes
    seconds: float
    weights: int
    timing_cache_problem: str | None


def _compile(
    trt: Any,
    flavour: str,
    graph: str,
    source: str,
    manifest: dict[str, Any],
    *,
    optimization_level: int | None,
    workspace: int | None,
    timing_cache: Path | None,
    targets: Sequence[int],
    progress: Callable[[float], None] | None,
) -> _Compiled:
    """Parse `graph`, compile it, read its precision back; `source` is its name in messages.

    `manifest` gets the precision that was built.
    """
    title = f"{FLAVOURS[flavour].name} {trt.__version__}"
    reads_back = has_gpu()
    started = time.perf_counter()
    logger = make_logger(trt)
    builder = not_null(trt.Builder(logger), "builder", title, logger)
    network = parse_network(trt, builder, logger, graph, source=source, title=title)
    check_ends(trt, network, source)
    check_network(trt, network, manifest["precision"]["asked"], source)
    config = not_null(builder.create_builder_config(), "builder configuration", title, logger)
    # TF32 keeps 10 bits of mantissa: a graph that says FP32 gets FP32.
    config.clear_flag(trt.BuilderFlag.TF32)
    if optimization_level is not None:
        config.builder_optimization_level = optimization_level
    if workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace << 20)
    if reads_back:  # without it the inspector gives names only
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if flavour == "rtx":
        set_targets(trt, config, targets)
        # Lets the pipeline capture the engine in a CUDA graph.
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    network.name = _plan_name(manifest, source, placeholder=reads_back)
    measured = b""
    if timing_cache is not None:
        measured = load_timing_cache(config, timing_cache)
        # a cache that cannot be used is no reason why a model does not compile
        logger.first_error = logger.last_error = ""

    serialized = serialized_network(trt, builder, network, config, progress)
    if serialized is None:
        raise ModelError(
            f"{title} cannot compile '{source}' for compute capability "
            f"{', '.join(manifest['built_for'])} "
            f"({logger.last_error or 'it gave no reason'}): choose other targets or another "
            "optimization level, or export the model with other operators"
        )
    seconds = time.perf_counter() - started
    problem = None
    if timing_cache is not None:
        problem = save_timing_cache(config, timing_cache, measured)
    plan = bytes(memoryview(serialized))
    if reads_back:
        built = engine_precision(trt, plan, logger)
        check_built(manifest["precision"]["asked"], built, source, title)
        stamped = None if built is None else stamped_plan(trt, plan, built, logger)
        if stamped is not None:
            plan = stamped
            manifest["precision"]["built"] = built
    return _Compiled(
        title=title,
        plan=plan,
        seconds=seconds,
        weights=count_weights(trt, network),
        timing_cache_problem=problem,
    )


def _plan_name(manifest: dict[str, Any], source: str, *, placeholder: bool = False) -> str:
    """The manifest as compact JSON, refused before anything is built where it cannot fit."""
    name = json.dumps(manifest, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    if placeholder:
        name = name.replace(BUILT_PLACEHOLDER.rstrip(), BUILT_PLACEHOLDER)
    length = len(name.encode())
    if length > MANIFEST_LIMIT:
        raise ModelError(
            f"the manifest of '{source}' has {length} bytes, and a plan holds at most "
            f"{MANIFEST_LIMIT}: shorten its class names and export the model again"
        )
    return name


def compiler_version(backend: str = "auto") -> tuple[str, str]:
    """The compiler that `plan_from_onnx` takes here: "tensorrt" or "rtx", and its title.

    Raises:
        DependencyError, DeviceError, Error: as `plan_from_onnx`.
    """
    flavour = _choose(backend)
    return flavour, f"{FLAVOURS[flavour].name} {FLAVOURS[flavour].load().__version__}"


def _choose(backend: str) -> str:
    """The flavour that compiles; TensorRT itself is touched only where the driver found a GPU."""
    if backend not in BACKENDS:
        raise Error(f"unknown backend '{backend}': expected one of {', '.join(BACKENDS)}")
    if backend == "tensorrt":
        if FLAVOURS["tensorrt"].find_module() is None:
            FLAVOURS["tensorrt"].load()  # raises the sentence that says how to install it
        find_gpus()
        return "tensorrt"
    if backend == "rtx":
        return "rtx"
    if FLAVOURS["tensorrt"].find_module() and has_gpu():
        return "tensorrt"
    if FLAVOURS["rtx"].find_module():
        return "rtx"
    raise DependencyError(
        "no compiler for plans can be used here: install TensorRT for RTX, which needs no GPU, "
        f"with {FLAVOURS['rtx'].install}, or TensorRT on the machine with the GPU with "
        f"{FLAVOURS['tensorrt'].install}"
    )


def _dotted(major: int, minor: int) -> str:
    return f"{major}.{minor}"
