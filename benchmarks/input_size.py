"""Does `--size auto` choose what a product needs, without having seen a real defect?

Two products: generated boards of 1024 px with defects of 3 px, which 256 px cannot show, and solar
cells of 300 px, which need no more. The choice is made on good training images; then the choice and
the default input are compared on the test images, by the same judge without a decoder (judge.py).

    python benchmarks/input_size.py [mono] [boards]     # writes results/input_size_<name>.json
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from provenance import write_result

from agp_edge.dataset import Dataset, open_dataset, read_mask
from agp_edge.demo_data import DATA_NOTE, lay_out_cells
from agp_edge.metrics import PixelScores, aupro, image_auroc
from agp_edge.trainer.config import ModelConfig
from agp_edge.trainer.data import ImageReader, read_frame
from agp_edge.trainer.judge import Scorer, fit_judge
from agp_edge.trainer.network import new_model
from agp_edge.trainer.size import choose_size

SIDE = 1024  # pixels of a generated board
SPECK = 3  # pixels of a defect's side
COUNTS = {"train/good": 24, "test/good": 20, "test/speck": 20}


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_boards(root / "boards")
        lay_out_cells("mono", root / "mono")
        for name in sys.argv[1:] or ("mono", "boards"):
            dataset = open_dataset(root / name)
            start = time.process_time()
            choice = choose_size(
                dataset.train,
                ModelConfig(),
                lambda config: new_model(config, "wheel", 0),
                seed=0,
                progress=False,
            )
            seconds = time.process_time() - start
            print(name, f"{seconds:.0f} CPU s", *choice.lines(), sep="\n", flush=True)
            row = {
                "cpu_seconds": seconds,
                "reason": choice.reason,
                "candidates": [asdict(candidate) for candidate in choice.candidates],
                "chosen": figures(dataset, choice.config),
                "default": figures(dataset, ModelConfig()),
            }
            print(row["chosen"], row["default"], flush=True)
            write_result(f"input_size_{name}", {"note": DATA_NOTE, "product": name, **row})


@torch.no_grad()
def figures(dataset: Dataset, config: ModelConfig) -> dict[str, Any]:
    """Image AUROC, and AUPRO where there are masks, of the judge on the test images."""
    model, pretrained = new_model(replace(config, fine_memory=0), "wheel", 0)
    reader = ImageReader(config.height, config.width, pretrained.mean, pretrained.std)

    def tokens(samples: Any) -> torch.Tensor:
        return model.fusion(model.backbone(reader.read(samples)))

    train = list(dataset.train)
    fit_judge(model, config, [tokens(train[i : i + 8]) for i in range(0, len(train), 8)])
    scorer = Scorer(model, config)
    results = [item for s in dataset.test for item in scorer.scored(tokens([s]))]
    defective = [sample.is_defective for sample in dataset.test]
    row = {"image_auroc": image_auroc(defective, [score for score, _ in results])}
    if all(sample.mask_path for sample in dataset.test if sample.is_defective):
        # at the frames' size: a defect of 3 px is not there in a mask of 256 px
        maps, masks = [], []
        for sample, (_, map_) in zip(dataset.test, results, strict=True):
            height, width = read_frame(sample).shape[:2]
            # every second pixel keeps each defect and a quarter of the numbers
            maps.append(cv2.resize(map_, (width, height))[1::2, 1::2])
            masks.append(read_mask(sample, (height, width))[1::2, 1::2])
        row["aupro"] = aupro(PixelScores.collect(maps, masks))
    return row


def write_boards(root: Path) -> None:
    """A product in the MVTec-AD layout: tracks and pads at fixed places, specks as defects."""
    seed = 0
    for folder, count in COUNTS.items():
        (root / folder).mkdir(parents=True)
        for index in range(count):
            seed += 1
            random = np.random.default_rng(seed)
            image, mask = board(random), np.zeros((SIDE, SIDE), np.uint8)
            for _ in range(3 if folder == "test/speck" else 0):
                y, x = random.integers(40, SIDE - 40, 2)
                place = (slice(y, y + SPECK), slice(x, x + SPECK))
                image[place] += random.choice([-70.0, 70.0])
                mask[place] = 255
            pixels = np.clip(image, 0, 255).astype(np.uint8)
            cv2.imwrite(str(root / folder / f"{index:03}.png"), pixels)
            if mask.any():
                (root / "ground_truth/speck").mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(root / f"ground_truth/speck/{index:03}_mask.png"), mask)


def board(random: np.random.Generator) -> NDArray[np.float32]:
    """One good board: a little moved, differently lit, with noise."""
    image = np.full((SIDE, SIDE), 95, np.float32)
    layout = np.random.default_rng(7)  # the same for all boards
    for _ in range(60):
        at, first, last = (int(value) for value in layout.integers(20, SIDE - 20, 3))
        cv2.line(image, (at, first), (at, last), 150, 3)
        at, first, last = (int(value) for value in layout.integers(20, SIDE - 20, 3))
        cv2.line(image, (first, at), (last, at), 150, 3)
    for _ in range(80):
        centre = tuple(int(value) for value in layout.integers(20, SIDE - 20, 2))
        cv2.circle(image, centre, 8, 190, -1)
        cv2.circle(image, centre, 3, 40, -1)
    move = np.array([[1, 0, random.uniform(-4, 4)], [0, 1, random.uniform(-4, 4)]])
    image = cv2.warpAffine(image, move, (SIDE, SIDE), borderMode=cv2.BORDER_REFLECT_101)
    image = cv2.GaussianBlur(image, (0, 0), 0.8) * random.uniform(0.95, 1.05)
    light = cv2.resize(random.normal(0, 3, (32, 32)).astype(np.float32), (SIDE, SIDE))
    return np.asarray(image + light + random.normal(0, 4, image.shape), np.float32)


if __name__ == "__main__":
    main()
