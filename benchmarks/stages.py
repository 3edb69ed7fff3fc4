"""C++ preprocessing and postprocessing against OpenCV, Pillow, SciPy and NumPy doing the same.

Every way is first checked to give the same result, then timed: one call of each in turn, round
after round, so that a busy moment of the machine meets all of them. Frames are read from a ring
larger than the last-level cache, as a camera's frames are. Prints medians and ratios, writes
benchmarks/results/stages.json with every single time.

    python benchmarks/stages.py [--rounds 60] [--output NAME]

What is compared:

- area: `cv2.resize(INTER_AREA)`, `cvtColor`, NumPy normalisation, transpose. `resize_only` is
  `cv2.resize` alone, below which no way through it can come.
- antialias: `PIL.Image.resize(BILINEAR)`, NumPy normalisation, transpose. Pillow has no threads.
- postprocessing: `cv2.resize(INTER_LINEAR)`, `cv2.GaussianBlur(BORDER_REFLECT_101)`, maximum,
  threshold, `connectedComponentsWithStats`; and SciPy's `zoom`, `gaussian_filter`, `label`,
  `find_objects`. Only the C++ code looks for the peak of each region too.

OpenCV and Pillow round the resized image to 8 bits, the C++ code does not: the results may differ
by 0.5 grey levels (Pillow rounds twice: 1), and by 1e-3 from the same library given floats.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from provenance import write_result
from scipy import ndimage
from tqdm import tqdm

from agp_edge._core import Postprocessor, Preprocessor

SIDE = 256  # of the network's input
SIZES = ((480, 640), (1536, 2048))
MEAN = np.array([123.675, 116.28, 103.53], np.float32)  # red, green, blue
STD = np.array([58.395, 57.12, 57.375], np.float32)
SIGMA = 4.0  # map pixels
RING_BYTES = 96 << 20
FLOAT_TOLERANCE = 1e-3  # grey levels

Ways = dict[str, Callable[[int], Any]]  # each called with the round's number


def preprocessing(size: tuple[int, int], channels: int, rule: str, threads: int) -> dict[str, Any]:
    """Times one frame size, colour or mono, one resize rule."""
    shape = (*size, 3) if channels == 3 else size
    count = max(2, -(-RING_BYTES // int(np.prod(shape))))
    ring = np.random.default_rng(1).integers(0, 256, (count, *shape), np.uint8)
    stage = Preprocessor(height=SIDE, width=SIDE, mean=MEAN, std=STD, resize=rule, threads=threads)
    out = np.empty((3, SIDE, SIDE), np.float32)
    resize = resize_area if rule == "area" else resize_pillow

    def theirs(i: int) -> NDArray[np.float32]:
        return normalise(resize(ring[i % count]))

    ways: Ways = {
        "agp_edge": lambda i: stage.run(ring[i % count], None, out),
        "opencv" if rule == "area" else "pillow": theirs,
        "resize_only": lambda i: resize(ring[i % count]),
    }
    rounding = 0.5 if rule == "area" else 1.0
    ours = stage.run(ring[0])
    difference = grey_levels(ours, theirs(0))
    float_difference = grey_levels(ours, normalise(resize_floats(ring[0], rule)))
    if difference > rounding + 0.01 or float_difference > FLOAT_TOLERANCE:
        raise SystemExit(
            f"{rule} {shape}: results differ by {difference} grey levels (floats: "
            f"{float_difference})"
        )
    return {
        "stage": "preprocess",
        "frame": [size[1], size[0]],
        "channels": channels,
        "rule": rule,
        "threads": threads,
        "frame_bytes": int(np.prod(shape)),
        "difference_grey_levels": difference,
        "difference_grey_levels_floats": float_difference,
        "ways": ways,
    }


def resize_area(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def resize_pillow(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def resize_floats(frame: NDArray[np.uint8], rule: str) -> NDArray[np.float32]:
    """The same library on floats, where nothing is rounded."""
    if rule == "area":
        return cv2.resize(frame.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    planes = frame[..., None] if frame.ndim == 2 else frame
    resized = [
        np.asarray(
            Image.fromarray(planes[..., c].astype(np.float32)).resize(
                (SIDE, SIDE), Image.Resampling.BILINEAR
            )
        )
        for c in range(planes.shape[2])
    ]
    return resized[0] if frame.ndim == 2 else np.stack(resized, axis=2)


def normalise(image: NDArray[Any]) -> NDArray[np.float32]:
    """(H, W, 3) BGR or (H, W) -> float32 (3, H, W) RGB, as inference scripts do it."""
    code = cv2.COLOR_BGR2RGB if image.ndim == 3 else cv2.COLOR_GRAY2RGB
    tensor = cv2.cvtColor(image, code).astype(np.float32)
    tensor -= MEAN
    tensor /= STD
    return np.ascontiguousarray(tensor.transpose(2, 0, 1))


def grey_levels(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float((np.abs(a - b) * STD[:, None, None]).max())


def postprocessing(grid_side: int, map_side: int, threads: int) -> dict[str, Any]:
    """Times the way from a grid with some defects to score, mask and regions.

    `threads` are OpenCV's; ours uses one.
    """
    grid = np.random.default_rng(2).uniform(0.1, 0.3, (grid_side, grid_side)).astype(np.float32)
    for y, x in ((2, 3), (9, 12), (13, 5)):
        grid[y, x] = 1.5
    threshold = 0.4
    stage = Postprocessor(
        grid_height=grid_side,
        grid_width=grid_side,
        map_height=map_side,
        map_width=map_side,
        sigma=SIGMA,
    )
    radius = int(np.ceil(4 * SIGMA))

    def with_opencv(_: int) -> tuple[Any, ...]:
        wide = cv2.resize(grid, (map_side, map_side), interpolation=cv2.INTER_LINEAR)
        kernel = (2 * radius + 1, 2 * radius + 1)
        smooth = cv2.GaussianBlur(wide, kernel, SIGMA, borderType=cv2.BORDER_REFLECT_101)
        mask = (smooth > threshold).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        return smooth, float(smooth.max()), mask, [tuple(row) for row in stats[1:].tolist()]

    def with_scipy(_: int) -> tuple[Any, ...]:
        zoom = map_side / grid_side
        wide = ndimage.zoom(grid, zoom, order=1, mode="nearest", grid_mode=True)
        smooth = ndimage.gaussian_filter(wide, SIGMA, mode="mirror", truncate=4.0)
        mask = smooth > threshold
        labels, count = ndimage.label(mask, np.ones((3, 3), int))
        areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        regions = [
            (x.start, y.start, x.stop - x.start, y.stop - y.start, int(area))
            for (y, x), area in zip(ndimage.find_objects(labels), areas, strict=True)
        ]
        return smooth, float(smooth.max()), mask, regions

    def ours(_: int) -> Any:
        return stage.run(grid, threshold=threshold, mask_threshold=threshold)

    result = ours(0)
    regions = sorted((*region.box, region.area) for region in result.regions)
    differences = {}
    for name, way in (("opencv", with_opencv), ("scipy", with_scipy)):
        smooth, score, mask, found = way(0)
        differences[name] = float(np.abs(smooth - result.anomaly_map).max())
        same = np.array_equal(mask.astype(bool), result.mask) and sorted(found) == regions
        if differences[name] > 1e-5 or abs(score - result.score) > 1e-5 or not same:
            raise SystemExit(f"postprocess {map_side}: {name} differs: {differences[name]}")
    return {
        "stage": "postprocess",
        "grid": [grid_side, grid_side],
        "map": [map_side, map_side],
        "threads": threads,
        "regions": len(regions),
        "difference": differences,
        "ways": {"agp_edge": ours, "opencv": with_opencv, "scipy": with_scipy},
    }


def timed(case: dict[str, Any], rounds: int, bandwidth: float) -> dict[str, Any]:
    """Replaces the case's ways by their times, milliseconds, medians and ratios."""
    ways: Ways = case.pop("ways")
    cv2.setNumThreads(case["threads"])
    times: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(-3, rounds):  # the first three warm up
        for name, way in ways.items():
            start = time.perf_counter()
            way(i)
            elapsed = time.perf_counter() - start
            if i >= 0:
                times[name].append(round(elapsed * 1e3, 4))
    medians = {name: round(float(np.median(values)), 4) for name, values in times.items()}
    case["median_ms"] = medians
    case["fastest_ms"] = {name: min(values) for name, values in times.items()}
    case["times_faster"] = {
        name: round(median / medians["agp_edge"], 2)
        for name, median in medians.items()
        if name != "agp_edge"
    }
    if "frame_bytes" in case:
        rate = case["frame_bytes"] / medians["agp_edge"] / 1e6
        case["share_of_read_bandwidth"] = round(rate / bandwidth, 3)
    case["times_ms"] = times
    return case


def read_bandwidth() -> float:
    """GB/s that one core reads from memory: the largest of 512 MB of integers, best of five."""
    block = np.ones(64 << 20, np.uint64)  # zeros would all be one page
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        block.max()
        best = min(best, time.perf_counter() - start)
    return block.nbytes / best / 1e9


def row(case: dict[str, Any]) -> str:
    median = case["median_ms"]
    if case["stage"] == "preprocess":
        width, height = case["frame"]
        kind = "BGR" if case["channels"] == 3 else "mono"
        what = f"{case['rule']:9} {width:4} x {height:4} {kind:4}"
        rest = f"{case['share_of_read_bandwidth']:6.0%} of read bandwidth"
    else:
        what = f"postprocess {case['grid'][0]} -> {case['map'][0]}"
        rest = f"{case['regions']} regions"
    others = "  ".join(
        f"{name} {median[name]:7.3f} ({ratio:5.2f}x)"
        for name, ratio in case["times_faster"].items()
    )
    return (
        f"{what:27} {case['threads']} thr  agp_edge {median['agp_edge']:6.3f} ms  {others}  {rest}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60, help="timed calls of each way")
    parser.add_argument("--output", default="stages", help="name under benchmarks/results")
    arguments = parser.parse_args()

    bandwidth = read_bandwidth()
    load = os.getloadavg()[0]
    plans: list[Callable[[], dict[str, Any]]] = []
    for threads in (1, 2):
        for size in SIZES:
            for channels in (3, 1):
                for rule in ("area", "antialias"):
                    plans.append(lambda a=(size, channels, rule, threads): preprocessing(*a))
        for grid_side, map_side in ((16, 256), (32, 512)):
            plans.append(lambda a=(grid_side, map_side, threads): postprocessing(*a))
    cases = [timed(plan(), arguments.rounds, bandwidth) for plan in tqdm(plans, unit="case")]

    print(f"one core reads {bandwidth:.1f} GB/s; load average at the start {load:.1f}")
    for case in cases:
        print(row(case))
    path = write_result(
        arguments.output,
        {
            "read_bandwidth_gb_s": round(bandwidth, 1),
            "load_average_at_start": round(load, 1),
            # `chrt -f 5` keeps other work off the cores; on a busy machine two threads need it.
            "real_time_priority": os.sched_getscheduler(0) == os.SCHED_FIFO,
            "rounds": arguments.rounds,
            "cases": cases,
        },
    )
    print(f"written: {path.relative_to(Path(__file__).parents[1])}")


if __name__ == "__main__":
    main()
