"""Does a training's memory grow with the number of images?

Trains an untrained small network for one epoch on few and on many images, hard links to eight
pictures of 48 px, each count in a process of its own, with the features in the cache and without
one, and notes the largest resident set (ru_maxrss).

    python benchmarks/training_memory.py     # writes benchmarks/results/training_memory.json
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

# Without a cache the backbone runs three times an epoch: fewer images show the same.
COUNTS = {True: (1_000, 100_000), False: (1_000, 10_000)}
PICTURES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cache-gb", type=float, default=8.0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train is not None:
        print(json.dumps(trained(args.train, args.cache_gb)))
        return
    from provenance import write_result  # noqa: PLC0415  (the measured process has no use for it)

    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for cached, counts in COUNTS.items():
            for count in counts:
                folder = Path(temporary) / f"{count}-{cached}"
                write_links(folder, count)
                command = [sys.executable, __file__, "--train", str(folder)]
                done = subprocess.run(
                    [*command, "--cache-gb", "8" if cached else "0"],
                    check=True,
                    capture_output=True,
                    text=True,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                )
                row = json.loads(done.stdout.splitlines()[-1])
                rows.append({"images": count, "cached": cached, **row})
                print(rows[-1], flush=True)
    write_result("training_memory", {"rows": rows})


def write_links(folder: Path, count: int) -> None:
    """`count` names of eight pictures: eight parts, since the same bytes are the same part."""
    import cv2  # noqa: PLC0415

    good = folder / "train" / "good"
    good.mkdir(parents=True)
    random = np.random.default_rng(0)
    for index in range(PICTURES):
        picture = random.integers(0, 256, (48, 48)).astype(np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), picture)
    for index in range(count):
        os.link(folder / f"{index % PICTURES}.png", good / f"{index:06}.png")


def trained(folder: Path, cache_gb: float) -> dict[str, float]:
    """Seconds and peak memory of a training in this process."""
    import torch  # noqa: PLC0415

    from agp_edge.dataset import open_dataset  # noqa: PLC0415
    from agp_edge.trainer.config import ModelConfig, TrainConfig  # noqa: PLC0415
    from agp_edge.trainer.train import train  # noqa: PLC0415

    torch.set_num_threads(1)
    start = time.perf_counter()
    train(
        open_dataset(folder),
        folder / f"run{cache_gb:g}",
        ModelConfig(
            backbone="test_efficientnet",
            height=32,
            width=32,
            decoder_depth=1,
            fine_regions=0,
            patch_memory=0,
        ),
        TrainConfig(epochs=1, batch=64, cache_gb=cache_gb),
        weights="random",
        device="cpu",
        cache_dir=folder / "cache",
        progress=False,
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    return {"peak_mib": round(peak, 1), "seconds": round(time.perf_counter() - start, 1)}


if __name__ == "__main__":
    main()
