"""Which engine, and which of its settings, scores a frame fastest on this CPU?

Reads an exported model (e.g. an `agp-edge demo`'s) and, with --int8, its `agp-edge quantize`d
version. Writes benchmarks/results/cpu_engines.json and .md.

    python benchmarks/cpu_engines.py MODEL.onnx [--int8 MODEL.int8.onnx] [--rounds 60]

1. The network alone: ONNX Runtime and OpenVINO, each with one setting changed at a time.
2. `Detector.score` from 640x480 and 1920x1080 frames, with each engine.
3. `Detector.submit` against `Detector.score` in the same run: frames a second.
4. The INT8 file against the float one, with each engine.

All ways of a part take turns, round after round, so that a busy moment of the machine meets all of
them; each call is timed after one that is not, which fills the caches with its own data, and after
a pause in which threads of the way before stop spinning. A ratio is the median over rounds of the
ratio inside a round, with the 95 % interval of a bootstrap over rounds.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
from numpy.typing import NDArray
from provenance import RESULTS, write_result
from tqdm import tqdm

from agp_edge import Detector
from agp_edge.files import write_aside
from agp_edge.manifest import read_manifest

PAUSE_S = 0.004
SIZES = ((640, 480), (1920, 1080))
ENGINES = ("onnxruntime", "openvino")
IN_FLIGHT = (1, 2, 3, 4)
BFLOAT16 = "OpenVINO, bfloat16: engine='openvino-bf16'"
BLOCK = 24  # frames of one way before the next has its turn, in part 3

Ways = dict[str, Callable[[], Any]]


def onnx_runtime(model: str, tensor: NDArray[np.float32], **changes: Any) -> Callable[[], Any]:
    """One run of the network; `changes` against the settings of agp_edge.engines.onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = changes.pop("threads", len(os.sched_getaffinity(0)))
    options.inter_op_num_threads = 1
    spinning = changes.pop("spinning", "0")
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    binding = changes.pop("binding", True)
    for name, value in changes.items():
        setattr(options, name, value)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    if not binding:
        return lambda: session.run(None, {name: tensor})[0]
    out = np.empty(session.get_outputs()[0].shape, np.float32)
    bound = session.io_binding()
    address = tensor.ctypes.data
    bound.bind_input(name, "cpu", 0, np.float32, tensor.shape, address)
    bound.bind_output(
        session.get_outputs()[0].name, "cpu", 0, np.float32, out.shape, out.ctypes.data
    )

    def run() -> NDArray[np.float32]:
        session.run_with_iobinding(bound)
        return out

    return run


def open_vino(
    model: str, tensor: NDArray[np.float32], *, new_request: bool = False, **changes: Any
) -> Callable[[], Any]:
    """One run of the network; `changes` against the settings of openvino_engine.cpp."""
    core = openvino.Core()
    settings = {
        "NUM_STREAMS": "1",
        "ENABLE_CPU_PINNING": "NO",
        "INFERENCE_PRECISION_HINT": "f32",
        **changes,
    }
    compiled = core.compile_model(
        core.read_model(model), "CPU", {k: v for k, v in settings.items() if v is not None}
    )
    shared = openvino.Tensor(tensor, shared_memory=True)

    def bound_request() -> Any:
        request = compiled.create_infer_request()
        request.set_input_tensor(0, shared)
        return request

    request = bound_request()

    def run() -> NDArray[np.float32]:
        current = bound_request() if new_request else request
        current.infer()
        return current.get_output_tensor(0).data

    return run


def engine_settings(model: str, tensor: NDArray[np.float32]) -> Ways:
    """Part 1: the settings that are used, and each change of one."""
    levels = onnxruntime.GraphOptimizationLevel
    sequential = {"execution_mode": onnxruntime.ExecutionMode.ORT_PARALLEL}
    hint = {"NUM_STREAMS": None, "ENABLE_CPU_PINNING": None}
    return {
        "ONNX Runtime, as used": onnx_runtime(model, tensor),
        "ONNX Runtime, threads=0: its own choice, pinned": onnx_runtime(model, tensor, threads=0),
        "ONNX Runtime, one thread": onnx_runtime(model, tensor, threads=1),
        "ONNX Runtime, workers spin": onnx_runtime(model, tensor, spinning="1"),
        "ONNX Runtime, no arena": onnx_runtime(model, tensor, enable_cpu_mem_arena=False),
        "ONNX Runtime, no memory pattern": onnx_runtime(model, tensor, enable_mem_pattern=False),
        "ONNX Runtime, parallel operators": onnx_runtime(model, tensor, **sequential),
        "ONNX Runtime, extended optimisation": onnx_runtime(
            model, tensor, graph_optimization_level=levels.ORT_ENABLE_EXTENDED
        ),
        "ONNX Runtime, no binding": onnx_runtime(model, tensor, binding=False),
        "OpenVINO, as used": open_vino(model, tensor),
        "OpenVINO, LATENCY hint": open_vino(model, tensor, PERFORMANCE_HINT="LATENCY", **hint),
        "OpenVINO, THROUGHPUT hint": open_vino(
            model, tensor, PERFORMANCE_HINT="THROUGHPUT", **hint
        ),
        "OpenVINO, pinned": open_vino(model, tensor, ENABLE_CPU_PINNING="YES"),
        "OpenVINO, one thread": open_vino(model, tensor, INFERENCE_NUM_THREADS="1"),
        BFLOAT16: open_vino(model, tensor, INFERENCE_PRECISION_HINT="bf16"),
        "OpenVINO, a request per frame": open_vino(model, tensor, new_request=True),
    }


def camera_frame(width: int, height: int) -> NDArray[np.uint8]:
    """uint8 (height, width, 3): smooth shades under sensor noise."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    shade = 128 + 60 * np.sin(x / width * 7) * np.cos(y / height * 5)
    noisy = shade[:, :, None] + rng.normal(0, 6, (height, width, 3)).astype(np.float32)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def timed(ways: Ways, rounds: int, title: str) -> dict[str, NDArray[np.float64]]:
    """Milliseconds of each round's call."""
    times = {name: np.empty(rounds) for name in ways}
    for turn in tqdm(range(-2, rounds), desc=title, unit="round"):
        for name, way in ways.items():
            time.sleep(PAUSE_S)
            way()
            start = time.perf_counter()
            way()
            if turn >= 0:
                times[name][turn] = (time.perf_counter() - start) * 1e3
    return times


def ratio(one: NDArray[np.float64], other: NDArray[np.float64]) -> dict[str, float]:
    """How many times as long `one` takes as `other`."""
    per_round = one / other
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(per_round), (4000, len(per_round)))
    low, high = np.percentile(np.median(per_round[picks], axis=1), [2.5, 97.5])
    return {
        "ratio": round(float(np.median(per_round)), 3),
        "low": round(float(low), 3),
        "high": round(float(high), 3),
    }


def compared(times: dict[str, NDArray[np.float64]], base: str) -> list[dict[str, Any]]:
    """One row per way: its quartiles, and how many times as long as `base` it takes."""
    return [
        {
            "way": name,
            "p25_ms": round(float(np.percentile(values, 25)), 3),
            "p50_ms": round(float(np.median(values)), 3),
            "p90_ms": round(float(np.percentile(values, 90)), 3),
            "times_as_long": ratio(values, times[base]),
            "times_ms": [round(float(value), 4) for value in values],
        }
        for name, values in times.items()
    ]


def scoring(model: str, rounds: int) -> list[dict[str, Any]]:
    """Part 2."""
    cases = []
    for width, height in SIZES:
        frame = camera_frame(width, height)
        with ExitStack() as stack:
            detectors = {
                engine: stack.enter_context(Detector(model, engine=engine)) for engine in ENGINES
            }
            latency: dict[str, list[Any]] = {engine: [] for engine in ENGINES}

            def score(engine: str, opened: Any = detectors, kept: Any = latency) -> None:
                kept[engine].append(opened[engine].score(frame).latency)  # noqa: B023

            ways: Ways = {engine: lambda engine=engine: score(engine) for engine in ENGINES}
            times = timed(ways, rounds, f"score {width}x{height}")
        rows = compared(times, "onnxruntime")
        for row in rows:
            measured = latency[row["way"]][-2 * rounds + 1 :: 2]
            for stage in ("preprocess_ms", "execute_ms", "postprocess_ms"):
                values = [getattr(each, stage) for each in measured]
                row[stage] = round(float(np.median(values)), 3)
        cases.append({"frame": [width, height], "ways": rows})
    return cases


def throughput(model: str, rounds: int) -> list[dict[str, Any]]:
    """Part 3: seconds per frame of blocks of frames, one way after the other."""
    cases = []
    for engine in ENGINES:
        for width, height in SIZES:
            frames = [camera_frame(width, height)] * BLOCK
            with ExitStack() as stack:
                alone = stack.enter_context(Detector(model, engine=engine))
                ways: Ways = {"score": lambda: [alone.score(frame) for frame in frames]}  # noqa: B023
                ways["submit, in_flight=0"] = lambda: alone.score_batch(frames)  # noqa: B023
                for number in IN_FLIGHT:
                    detector = stack.enter_context(Detector(model, engine=engine, in_flight=number))
                    ways[f"submit, in_flight={number}"] = (
                        lambda detector=detector: detector.score_batch(frames)  # noqa: B023
                    )
                times: dict[str, list[float]] = {name: [] for name in ways}
                title = f"{engine} {width}x{height}"
                for turn in tqdm(range(-1, rounds), desc=title, unit="round"):
                    for name, way in ways.items():
                        start = time.perf_counter()
                        way()
                        if turn >= 0:
                            times[name].append((time.perf_counter() - start) * 1e3 / BLOCK)
            arrays = {name: np.array(values) for name, values in times.items()}
            rows = [
                {
                    "way": name,
                    "p50_ms": round(float(np.median(values)), 3),
                    "frames_per_second": round(float(np.median(1e3 / values)), 1),
                    "times_score": ratio(arrays["score"], values),
                }
                for name, values in arrays.items()
            ]
            cases.append({"engine": engine, "frame": [width, height], "ways": rows})
    return cases


def integers(model: str, quantised: str, rounds: int) -> list[dict[str, Any]]:
    """Part 4."""
    frame = camera_frame(*SIZES[0])
    with ExitStack() as stack:
        ways: Ways = {}
        for engine in ENGINES:
            for kind, path in (("fp32", model), ("int8", quantised)):
                # Its score may differ from engine to engine: that is not what is asked here.
                opened = stack.enter_context(Detector(path, engine=engine, self_test=False))
                ways[f"{engine}, {kind}"] = lambda opened=opened: opened.score(frame)
        times = timed(ways, rounds, "int8")
    return [
        {
            "engine": engine,
            "fp32_p50_ms": round(float(np.median(times[f"{engine}, fp32"])), 3),
            "int8_p50_ms": round(float(np.median(times[f"{engine}, int8"])), 3),
            "times_as_long": ratio(times[f"{engine}, int8"], times[f"{engine}, fp32"]),
        }
        for engine in ENGINES
    ]


def interval(found: dict[str, float]) -> str:
    """E.g. "0.87 (0.85 to 0.90)"."""
    return f"{found['ratio']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def page(document: dict[str, Any]) -> str:
    """The Markdown tables."""
    lines = [
        "# cpu_engines",
        "",
        f"{document['model']['backbone']}, {document['model']['input'][0]} px, "
        f"{document['cores']} cores; load average at the start {document['load_average']}"
        f"{', real-time priority' if document['real_time_priority'] else ''}. A ratio is the "
        "median over rounds, with its 95 % interval.",
        "",
        "The network alone:",
        "",
        "| settings | p50 ms | p90 ms | times ONNX Runtime as used |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['way']} | {row['p50_ms']:.2f} | {row['p90_ms']:.2f} | "
        f"{interval(row['times_as_long'])} |"
        for row in document["settings"]
    ]
    lines += [
        "",
        "`Detector.score`, from frame to verdict:",
        "",
        "| frame | engine | p50 ms | of it preprocess, execute, postprocess | times ONNX Runtime |",
        "| --- | --- | --- | --- | --- |",
    ]
    for case in document["score"]:
        lines += [
            f"| {case['frame'][0]}x{case['frame'][1]} | {row['way']} | {row['p50_ms']:.2f} | "
            f"{row['preprocess_ms']:.2f}, {row['execute_ms']:.2f}, {row['postprocess_ms']:.2f} | "
            f"{interval(row['times_as_long'])} |"
            for row in case["ways"]
        ]
    lines += [
        "",
        f"Throughput, {BLOCK} frames at a time:",
        "",
        "| engine | frame | way | frames/s | times `score` |",
        "| --- | --- | --- | --- | --- |",
    ]
    for case in document["throughput"]:
        lines += [
            f"| {case['engine']} | {case['frame'][0]}x{case['frame'][1]} | {row['way']} | "
            f"{row['frames_per_second']} | {interval(row['times_score'])} |"
            for row in case["ways"]
        ]
    if "int8" in document:
        lines += [
            "",
            "INT8 (Q/DQ pairs) against float32, `Detector.score` from 640x480; what it costs in "
            "accuracy is in int8.md:",
            "",
            "| engine | fp32 ms | INT8 ms | INT8 / fp32 |",
            "| --- | --- | --- | --- |",
        ]
        lines += [
            f"| {row['engine']} | {row['fp32_p50_ms']:.2f} | {row['int8_p50_ms']:.2f} | "
            f"{interval(row['times_as_long'])} |"
            for row in document["int8"]
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="an exported .onnx file")
    parser.add_argument("--int8", help="the same, after `agp-edge quantize`")
    parser.add_argument("--rounds", type=int, default=60, help="timed calls of each way")
    parser.add_argument("--output", default="cpu_engines", help="name under benchmarks/results")
    arguments = parser.parse_args()

    manifest = read_manifest(arguments.model)
    height, width = manifest["input"]["height"], manifest["input"]["width"]
    tensor = np.random.default_rng(0).normal(0, 1, (1, 3, height, width)).astype(np.float32)
    document: dict[str, Any] = {
        "model": {"backbone": manifest["backbone"], "input": [height, width]},
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 1),
        # `chrt -f 5` keeps other work off the cores.
        "real_time_priority": os.sched_getscheduler(0) == os.SCHED_FIFO,
        "rounds": arguments.rounds,
    }
    ways = engine_settings(arguments.model, tensor)
    reference = ways["ONNX Runtime, one thread"]().copy()
    for name, way in ways.items():
        difference = float(np.abs(way() - reference).max() / np.abs(reference).max())
        if difference > (2e-2 if name == BFLOAT16 else 1e-5):
            raise SystemExit(f"{name}: its output differs by {difference:.1e}")
    times = timed(ways, arguments.rounds, "settings")
    document["settings"] = compared(times, "ONNX Runtime, as used")
    document["openvino_over_onnxruntime"] = ratio(
        times["OpenVINO, as used"], times["ONNX Runtime, as used"]
    )
    del ways
    document["score"] = scoring(arguments.model, arguments.rounds)
    document["throughput"] = throughput(arguments.model, max(3, arguments.rounds // 3))
    if arguments.int8:
        document["int8"] = integers(arguments.model, arguments.int8, arguments.rounds)
    path = write_result(arguments.output, document)
    with write_aside(RESULTS / f"{arguments.output}.md") as aside:
        aside.write_text(page(document), encoding="utf-8")
    print(page(document))
    print(f"written: {path.relative_to(Path(__file__).parents[1])} and .md")


if __name__ == "__main__":
    main()
