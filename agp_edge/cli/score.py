"""`agp-edge score`: one verdict per image."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agp_edge.engines import ENGINES
from agp_edge.errors import DataError, FrameError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from agp_edge.result import Result

__all__ = ["HELP", "add_arguments", "run"]

HELP = "score images and give a verdict on each"

EPILOG = """\
Prints one line per image as soon as it is scored: path, score, threshold, verdict, milliseconds.
An image that cannot be read gets the verdict "error" and the others are scored all the same.
Exit code: 0 all good, 3 at least one anomalous, 1 an error (also when only one image of many
could not be read, whatever the others are)."""

COLUMNS = (
    "path", "verdict", "score", "threshold", "regions",
    "wait_ms", "preprocess_ms", "execute_ms", "postprocess_ms", "total_ms", "error", "p_value",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument("model", metavar="MODEL", help=".onnx file or TensorRT plan")
    parser.add_argument(
        "images", metavar="FILE_OR_FOLDER", nargs="+", help="images, or folders of images"
    )
    style = parser.add_mutually_exclusive_group()
    style.add_argument("--json", action="store_true", help="one JSON object per line")
    style.add_argument("--csv", action="store_true", help="comma-separated, with a header")
    pictures = parser.add_mutually_exclusive_group()
    pictures.add_argument("--overlay", metavar="DIR", help="save heat maps over the images here")
    pictures.add_argument(
        "--format",
        metavar="FORMAT",
        help="the files are raw frames saved as grey images: mono12, bayer_rggb8, nv12, ... "
        "(docs/frames.md); default: ordinary images",
    )
    parser.add_argument(
        "--threshold", type=float, help="default: the site file's, else the model's"
    )
    parser.add_argument(
        "--roi", metavar="X,Y,W,H", type=_roi, help="region of interest, frame pixels"
    )
    parser.add_argument(
        "--min-area", type=int, metavar="N", help="drop regions of fewer map pixels"
    )
    parser.add_argument(
        "--verify", metavar="KEY.pub", help="refuse a model that is not signed with this key"
    )
    parser.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda"),
        help="cuda: compile an .onnx file for the GPU here, once (default: what the file is for)",
    )
    parser.add_argument(
        "--no-build", action="store_true", help="never compile; take what the cache holds"
    )
    parser.add_argument("--engine", choices=ENGINES)
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="0: chosen (default)")
    parser.add_argument(
        "--no-self-test", action="store_true", help="open the model without checking its answers"
    )


def run(args: argparse.Namespace) -> int:
    """Score every image; see the exit codes in --help."""
    from tqdm import tqdm  # noqa: PLC0415  (heavy imports stay out of --help)

    from agp_edge.detector import Detector  # noqa: PLC0415
    from agp_edge.images import read_image, read_raw_frame  # noqa: PLC0415

    paths = list(_find_images(args.images))
    overlays = _OverlayFolder(Path(args.overlay)) if args.overlay else None
    emit = _emit_json if args.json else _CsvRows() if args.csv else _emit_text
    failures: list[str] = []
    anomalous = 0
    with Detector(
        args.model,
        device=args.device,
        engine=args.engine,
        build=not args.no_build,
        threshold=args.threshold,
        roi=args.roi,
        min_area=args.min_area,
        threads=args.threads,
        self_test=not args.no_self_test,
        verify=args.verify,
    ) as detector:
        # On a terminal the lines themselves show the progress.
        for path in tqdm(paths, unit="image", disable=sys.stdout.isatty() or None):
            try:
                frame = read_image(path) if args.format is None else read_raw_frame(path)
                result = detector.score(frame, format=args.format)
            except (DataError, FrameError) as error:
                failures.append(str(error) if str(path) in str(error) else f"'{path}': {error}")
                emit(path, None, failures[-1])
                continue
            anomalous += result.is_anomalous
            emit(path, result, "")
            if overlays is not None:
                overlays.save(path, result, frame)
    if failures:
        others = f" ({len(failures)} of {len(paths)} images failed)" if len(paths) > 1 else ""
        raise DataError(failures[0] + others)
    return 3 if anomalous else 0


def _roi(text: str) -> tuple[int, int, int, int]:
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a region of interest like 100,50,640,480"
        ) from None
    return x, y, width, height


def _find_images(arguments: list[str]) -> Iterator[Path]:
    from agp_edge.images import list_images  # noqa: PLC0415  (NumPy stays out of --help)

    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            yield from list_images(path)
        else:  # a missing file is reported beside the verdicts of the others
            yield path


def _emit_text(path: Path, result: Result | None, error: str) -> None:
    if result is None:
        line = f"{path}  error: {error}"
    else:
        line = (
            f"{path}  score {result.score:.4g}  threshold {result.threshold:.4g}  "
            f"{_verdict(result)}  {result.latency.total_ms:.1f} ms"
        )
    print(line, flush=True)


def _emit_json(path: Path, result: Result | None, error: str) -> None:
    record: dict[str, Any] = {"path": str(path), "verdict": _verdict(result)}
    record |= {"error": error} if result is None else result.to_dict()
    print(json.dumps(record, ensure_ascii=False), flush=True)


class _CsvRows:
    def __init__(self) -> None:
        self._writer = csv.DictWriter(
            sys.stdout,
            COLUMNS,
            lineterminator="\n",
            extrasaction="ignore",  # device times
        )
        self._writer.writeheader()

    def __call__(self, path: Path, result: Result | None, error: str) -> None:
        row: dict[str, Any] = {"path": path, "verdict": _verdict(result), "error": error}
        if result is not None:
            row |= {"score": result.score, "threshold": result.threshold}
            row["p_value"] = result.p_value  # empty where the model has no calibrated scores
            row |= {"regions": len(result.regions), **asdict(result.latency)}
        self._writer.writerow(row)
        sys.stdout.flush()


def _verdict(result: Result | None) -> str:
    if result is None:
        return "error"
    return "anomalous" if result.is_anomalous else "good"


class _OverlayFolder:
    """Where overlays go: one PNG per image, numbered where two images share a name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._taken: set[str] = set()

    def save(self, path: Path, result: Result, frame: NDArray[Any]) -> None:
        from agp_edge.dependencies import require  # noqa: PLC0415
        from agp_edge.files import write_aside  # noqa: PLC0415

        cv2 = require("cv2", extra="images")
        _, encoded = cv2.imencode(".png", result.overlay(frame))
        with write_aside(self._folder / self._name(path)) as aside:
            aside.write_bytes(encoded.tobytes())

    def _name(self, path: Path) -> str:
        name, number = f"{path.stem}.png", 1
        while name in self._taken:
            number += 1
            name = f"{path.stem}-{number}.png"
        self._taken.add(name)
        return name
