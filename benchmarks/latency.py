"""Latency on a CPU: ours beside the same graph fed by hand, anomalib, the bare engine; precisions.

Four parts, each of a minute or so, all of them interleaved frame by frame in random order, so that
what else the machine does meets all ways alike; read the ratios, not the milliseconds.

    beside      Detector.score (ONNX Runtime, OpenVINO) beside ONNX Runtime and OpenVINO between
                OpenCV, Pillow and SciPy calls, and beside anomalib's inferencers, from 640 x 480
                and 1920 x 1080 frames
    overhead    Detector.score from a 1920 x 1080 frame beside the engine's call alone
    precision   Detector.score in bfloat16, and with an INT8 file, beside FP32: time and image AUROC
    bandwidth   preprocessing 1920 x 1080 BGR -> 256, share of the memory-read bandwidth
    arithmetic  the network's multiplications a second beside those of a large matrix product

    python benchmarks/latency.py MODEL [--smaller FILE] [--int8 FILE] [--peers FOLDER]
                                 [--seconds 30] [--parts PART ...]

MODEL: an .onnx file of 256 x 256. FOLDER holds what anomalib exported (*/weights/*/model.pt and
.xml, for example of the detectors that benchmarks/peers.py --fitted keeps; --export-peers FITTED
writes them). anomalib's .pt files need TRUST_REMOTE_CODE=1. Writes results/latency.json and .md.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import stages
from bare_engines import arithmetic, bare_onnxruntime, bare_openvino, engines_here
from data_sets import lay_out
from numpy.typing import NDArray
from provenance import write_result

import agp_edge
from agp_edge import Error
from agp_edge.bench.against import open_ways, side_by_side
from agp_edge.bench.against.anomalib import open_anomalib
from agp_edge.bench.against.way import Way
from agp_edge.bench.frames import synthetic_frames
from agp_edge.bench.text import number
from agp_edge.dataset import open_dataset
from agp_edge.demo_data import DATA_NOTE
from agp_edge.files import write_aside
from agp_edge.images import read_image
from agp_edge.metrics import image_auroc

SIZES = ((640, 480), (1920, 1080))
SIDE = 256


def scorer(detector: agp_edge.Detector) -> Callable[[NDArray[np.uint8]], float]:
    """A frame in, a score out."""

    def score(frame: NDArray[np.uint8]) -> float:
        return detector.score(frame).score

    return score


def beside(
    model: Path, smaller: Path | None, peers: Sequence[Path], seconds: float, threads: int
) -> dict[str, Any]:
    """All ways on frames of both sizes."""
    engines = engines_here(model)
    detectors = {
        engine: agp_edge.Detector(model, engine=engine, threads=threads) for engine in engines
    }
    others = list(engines.items())[1:]
    manifest = agp_edge.read_manifest(model)
    small = [] if smaller is None else others
    if smaller is not None:
        side = agp_edge.read_manifest(smaller)["input"]["width"]
        opened = {
            engine: agp_edge.Detector(smaller, engine=engine, threads=threads)
            for engine, _ in small
        }
    ways, left_out = open_ways(model, manifest, ["all"], threads=threads)
    for path in peers:
        try:
            ways.append(open_anomalib(path, threads=threads))
        except Error as error:  # some exports cannot be run: part of the answer
            left_out.append(f"{path.parents[2].name}, {path.parent.name}: {error}")
    ours = [
        Way(name=f"agp_edge, {title}", score=scorer(detectors[engine]), same_graph=True)
        for engine, title in others
    ]
    ours += [
        Way(name=f"agp_edge at {side} px, {title}", score=scorer(opened[engine]), same_graph=False)
        for engine, title in small
    ]
    return {
        "left_out": left_out,
        **{
            f"{width}x{height}": side_by_side(
                scorer(detectors["onnxruntime"]),
                [*ours, *ways],
                synthetic_frames(width, height).arrays,
                duration_s=seconds,
                rest=threads != 1,
                name="agp_edge, ONNX Runtime",
            ).to_dict()
            for width, height in SIZES
        },
    }


def overhead(model: Path, seconds: float) -> dict[str, Any]:
    """Detector.score beside the engine's own call on a tensor that is already there."""
    found = {}
    for engine, bare in (("onnxruntime", bare_onnxruntime), ("openvino", bare_openvino)):
        detector = agp_edge.Detector(model, engine=engine, threads=1)
        call = bare(model)
        found[engine] = side_by_side(
            lambda _, call=call: call(),
            [Way(name="Detector.score", score=scorer(detector), same_graph=False)],
            synthetic_frames(1920, 1080).arrays,
            duration_s=seconds,
            rest=False,
            name="engine alone",
        ).to_dict()
    return found


def precision(model: Path, quantised: Path | None, seconds: float) -> dict[str, Any]:
    """FP32, bfloat16 and INT8: time from 1920 x 1080, and image AUROC on the mono cells' test."""
    engines = engines_here(model)
    detectors = {
        title: agp_edge.Detector(model, engine=engine, threads=1)
        for engine, title in engines.items()
    }
    if quantised is not None:
        for engine, title in engines.items():
            # what its scores are worth is asked here, whether it would be let in or not
            detectors[f"{title}, INT8"] = agp_edge.Detector(
                quantised, engine=engine, threads=1, self_test=False
            )
    first, *others = detectors
    times = side_by_side(
        scorer(detectors[first]),
        [Way(name=name, score=scorer(detectors[name]), same_graph=False) for name in others],
        synthetic_frames(1920, 1080).arrays,
        duration_s=seconds,
        rest=False,
        name=first,
    ).to_dict()
    scores: dict[str, list[float]] = {name: [] for name in detectors}
    with tempfile.TemporaryDirectory() as scratch:
        samples = open_dataset(lay_out("mono", Path(scratch) / "mono", 0)).test
        for sample in samples:
            frame = read_image(sample.path)
            for name, detector in detectors.items():
                scores[name].append(detector.score(frame).score)
    defective = np.array([sample.is_defective for sample in samples])
    base = np.array(scores[first])
    aurocs = {}
    for name, values in scores.items():
        low, high = lost_auroc(defective, base, np.array(values))
        aurocs[name] = {
            "image_auroc": image_auroc(defective, values),
            "lost": image_auroc(defective, base) - image_auroc(defective, values),
            "lost_interval": [low, high],
            # in units of the spread of good images' scores: relative to a score near 0 says nothing
            "shift": float((np.array(values) - base).mean() / base[~defective].std()),
            "largest_shift": float(np.abs(np.array(values) - base).max() / base[~defective].std()),
        }
    return {"times": times, "accuracy": aurocs, "scores": scores, "defective": defective.tolist()}


def lost_auroc(
    defective: NDArray[np.bool_], base: NDArray[np.float64], other: NDArray[np.float64]
) -> tuple[float, float]:
    """95 % interval of the AUROC that is lost: paired bootstrap over images of each kind."""
    rng = np.random.default_rng(0)
    groups = [np.flatnonzero(defective == kind) for kind in (False, True)]
    lost = []
    for _ in range(1000):
        picks = np.concatenate([rng.choice(group, len(group)) for group in groups])
        kinds = defective[picks]
        lost.append(image_auroc(kinds, base[picks]) - image_auroc(kinds, other[picks]))
    low, high = np.percentile(lost, [2.5, 97.5])
    return float(low), float(high)


def bandwidth(rounds: int) -> dict[str, Any]:
    """Preprocessing's share of what one core reads from memory; also OpenCV's for the same job."""
    read = stages.read_bandwidth()
    cases = [
        stages.timed(stages.preprocessing((1080, 1920), 3, rule, 1), rounds, read)
        for rule in ("antialias", "area")
    ]
    for case in cases:
        del case["times_ms"]
    return {"read_gb_s": read, "cases": cases}


def table(title: str, found: dict[str, Any], *, ours_alone: bool = False) -> list[str]:
    """One side-by-side run as Markdown; `ours_alone`: no row is about another model."""
    lines = [
        f"{title}; {found['rounds']} rounds:",
        "",
        "| way | p50 ms | p99 ms | p99 / p50 | times the first (95 % interval) | scores |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in found["rows"]:
        p50, p99 = (row["ms"]["percentiles"][key]["value"] for key in ("p50", "p99"))
        tail = "-" if p99 is None else f"{p99 / p50:.2f}"
        ratio = "1"
        if row["ratio"] is not None:
            low, high = row["ratio_interval"]
            ratio = f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"
        scores = "-" if row["ratio"] is None or ours_alone else "another model"
        if row["ratio"] is not None and row["score_difference"] is not None:
            off = f"{row['score_difference']:.1%}"
            scores = f"agree within {off}" if row["agrees"] else f"differ by up to {off}"
        lines.append(
            f"| {row['name']} | {number(p50)} | {number(p99)} | {tail} | {ratio} | {scores} |"
        )
    return [*lines, ""]


def summary(results: dict[str, Any]) -> list[str]:
    """Everything as Markdown."""
    lines: list[str] = []
    if "beside" in results:
        threads = results["beside"]["threads"]
        for width, height in SIZES:
            title = f"From {width} x {height} BGR frames to the score, {threads} threads each"
            lines += table(title, results["beside"][f"{width}x{height}"])
        lines += [f"- left out: {sentence}" for sentence in results["beside"]["left_out"]] + [""]
    for engine, found in results.get("overhead", {}).items():
        title = f"{engine} alone, and Detector.score from 1920 x 1080, 1 thread"
        lines += table(title, found, ours_alone=True)
    if "precision" in results:
        title = "Detector.score from 1920 x 1080, 1 thread, in other precisions"
        lines += table(title, results["precision"]["times"], ours_alone=True)
        lines += [
            "| solar cells, mono | image AUROC | lost (95 %, paired) | mean shift of scores | "
            "largest |",
            "| --- | --- | --- | --- | --- |",
        ]
        for name, found in results["precision"]["accuracy"].items():
            low, high = found["lost_interval"]
            lines.append(
                f"| {name} | {found['image_auroc']:.4f} | {found['lost']:+.4f} ({low:+.4f} to "
                f"{high:+.4f}) | {found['shift']:+.2f} | {found['largest_shift']:.2f} |"
            )
        lines += ["", "Shifts are in standard deviations of the good cells' scores.", ""]
    if "arithmetic" in results:
        found = results["arithmetic"]
        most = found["product_g_s"]
        rates = ", ".join(
            f"{engine} {rate:.1f} ({rate / most:.0%})" for engine, rate in found["g_s"].items()
        )
        lines += [
            f"A frame's network has {found['multiplications'] / 1e6:.0f} million multiplications; "
            "thousand millions a second, FP32, one thread: a product of 1024 x 1024 matrices "
            f"{most:.1f}, {rates}.",
            "",
        ]
    if "bandwidth" in results:
        found = results["bandwidth"]
        lines += [f"One core reads {found['read_gb_s']:.1f} GB/s. 1920 x 1080 BGR -> 256:", ""]
        for case in found["cases"]:
            others = ", ".join(
                f"{k} takes {v} times as long" for k, v in case["times_faster"].items()
            )
            lines.append(
                f"- {case['rule']}: {case['median_ms']['agp_edge']:.3f} ms, "
                f"{case['share_of_read_bandwidth']:.0%} of the bandwidth; {others}"
            )
    return lines


def export_peers(fitted: Path, folder: Path) -> None:
    """Exports the detectors that peers.py kept, for both of anomalib's inferencers."""
    import torch  # noqa: PLC0415

    for path in sorted(fitted.glob("*.pt")):
        model, _ = torch.load(path, weights_only=False)
        try:
            model.to_torch(export_root=folder / path.stem)
            model.to_openvino(export_root=folder / path.stem, input_size=(SIDE, SIDE))
        except Exception as error:  # whatever the export cannot do is part of the answer
            print(f"{path.stem}: {type(error).__name__}: {error}"[:200])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--smaller", type=Path, metavar="FILE", help="ours with a smaller input")
    parser.add_argument("--int8", type=Path, metavar="FILE", help="MODEL after agp-edge quantize")
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--export-peers", type=Path, metavar="FITTED")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each interleaved run")
    parser.add_argument("--threads", type=int, default=1, help="of each way, part `beside`")
    everything = ["beside", "overhead", "precision", "arithmetic", "bandwidth"]
    parser.add_argument("--parts", nargs="+", choices=everything, default=everything)
    parser.add_argument("--output", default="latency", help="name under results")
    arguments = parser.parse_args()
    if arguments.export_peers:
        export_peers(arguments.export_peers, arguments.peers)
    peers = sorted(arguments.peers.glob("*/weights/*/model.[px][tm]*")) if arguments.peers else []
    load = os.getloadavg()[0]
    results: dict[str, Any] = {}
    for part in arguments.parts:
        if part == "beside":
            found = beside(
                arguments.model, arguments.smaller, peers, arguments.seconds, arguments.threads
            )
            results[part] = {"threads": arguments.threads, **found}
        elif part == "overhead":
            results[part] = overhead(arguments.model, arguments.seconds)
        elif part == "arithmetic":
            results[part] = arithmetic(arguments.model)
        elif part == "bandwidth":
            cv2.setNumThreads(1)
            results[part] = bandwidth(100)
        else:
            results[part] = precision(arguments.model, arguments.int8, arguments.seconds)
    lines = [
        f"Load average {load:.1f} on {os.cpu_count()} cores when this began; ways take turns with "
        "each frame, so read the ratios.",
        "",
        *summary(results),
    ]
    print("\n".join(lines))
    path = write_result(
        arguments.output, {"load_average": load, "data": DATA_NOTE, "results": rounded(results)}
    )
    with write_aside(path.with_suffix(".md")) as aside:
        aside.write_text(f"# {arguments.output}\n\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return 0


def rounded(value: Any) -> Any:
    """The same with floats of five digits: samples need no more, and the file is a third."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value


if __name__ == "__main__":
    sys.exit(main())
