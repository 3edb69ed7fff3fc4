"""The fastest plan that keeps the accuracy: candidates built and measured on this very device.

Whether INT8 beats FP16 depends on the network, the GPU and TensorRT's version, and it is often the
slower one; so nobody guesses here.
"""

from __future__ import annotations

import os
import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol

from agp_edge.errors import Error, ModelError
from agp_edge.files import write_aside
from agp_edge.gpu import find_gpus
from agp_edge.manifest import read_manifest
from agp_edge.self_test import self_test_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from agp_edge.plan.build import BuildReport

__all__ = ["Candidate", "Choice", "choose", "fastest_plan", "median_milliseconds"]

WARM_UP, RUNS = 20, 200
# Two medians nearer than this are called equal, and the wider type is taken.
NOISE = 0.02


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to build the model."""

    name: str
    """The INT8 file, or the precision that the FP32 file is built with."""

    precision: str
    milliseconds: float | None
    """Median from frame to result; None: not measured, `refusal` says why."""

    loss: float | None
    """What quantisation lost, as its file says; None for FP16, whose conversion has its check."""

    refusal: str | None = None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which candidate was taken, beside the others."""

    chosen: Candidate
    candidates: tuple[Candidate, ...]

    def lines(self) -> list[str]:
        """One line for each candidate."""
        lines = []
        for candidate in self.candidates:
            text = f"{candidate.name} ({candidate.precision}): "
            text += (
                f"left out, {candidate.refusal}"
                if candidate.milliseconds is None
                else f"{candidate.milliseconds:.3f} ms"
            )
            if candidate.loss is not None:
                text += f", loss {candidate.loss:.4g}"
            lines.append(text + (" <- taken" if candidate is self.chosen else ""))
        return lines


class Scores(Protocol):
    """A detector as far as it is measured."""

    def score(self, frame: NDArray[np.uint8]) -> Any:
        """A result with `latency.total_ms`."""


def median_milliseconds(
    detector: Scores, frame: NDArray[np.uint8], *, warm_up: int = WARM_UP, runs: int = RUNS
) -> float:
    """Median time from frame to result, one frame after the other, in milliseconds."""
    for _ in range(warm_up):
        detector.score(frame)
    times = [float(detector.score(frame).latency.total_ms) for _ in range(runs)]
    return statistics.median(times)


def choose(candidates: Sequence[Candidate]) -> Choice:
    """The fastest of the measured candidates; of equally fast ones the first.

    Args:
        candidates: the widest type first.

    Raises:
        Error: none was measured.
    """
    measured = [c for c in candidates if c.milliseconds is not None]
    if not measured:
        reasons = "; ".join(f"{c.name}: {c.refusal}" for c in candidates)
        raise Error(f"no candidate is left to choose from ({reasons}): build with precision fp16")
    best = measured[0]
    for candidate in measured[1:]:
        assert candidate.milliseconds is not None
        assert best.milliseconds is not None
        if candidate.milliseconds < (1.0 - NOISE) * best.milliseconds:
            best = candidate
    return Choice(chosen=best, candidates=tuple(candidates))


def fastest_plan(
    onnx_path: str | os.PathLike[str],
    plan_path: str | os.PathLike[str],
    *,
    int8: Sequence[str | os.PathLike[str]],
    budget: float | None = None,
    build: Callable[[str, Path, str], BuildReport],
    measure: Callable[[Path], float] | None = None,
) -> tuple[BuildReport, Choice]:
    """Builds the FP16 plan and one for each INT8 file, measures them, keeps the fastest.

    Args:
        onnx_path: the FP32 model.
        plan_path: where the fastest plan goes.
        int8: what `agp-edge quantize` made of that model; those that lose more than the budget are
            not built.
        budget: the most that INT8 may lose, in the unit of the quantisation's own budget; None:
            what each file was quantised for.
        build: (ONNX file, plan, precision) -> report.
        measure: plan -> milliseconds; None: opens it on this machine's GPU.

    Returns:
        The report of the plan that was kept, and the choice.

    Raises:
        DeviceError: there is no GPU to measure on.
        ModelError: an INT8 file was made from another model or by other means, or a candidate
            cannot be compiled.
        Error: there is no INT8 file.
    """
    source = os.fspath(onnx_path)
    if not int8:
        raise Error(
            "precision auto compares FP16 with INT8 and was given no INT8 file: make one with "
            "`agp-edge quantize` and give it with --int8"
        )
    refusals = {os.fspath(path): _refusal(source, os.fspath(path), budget) for path in int8}
    if measure is None:
        find_gpus()
        measure = _measure
    candidates: list[Candidate] = []
    reports: dict[str, BuildReport] = {}
    with TemporaryDirectory(prefix="agp-edge-auto-") as folder:
        plans = {}
        for index, (file, precision) in enumerate(
            [(source, "fp16"), *((path, "int8") for path in refusals)]
        ):
            name = file if precision == "int8" else f"{file} as fp16"
            loss, refusal = refusals.get(file, (None, None))
            milliseconds = None
            if refusal is None:
                plans[name] = Path(folder) / f"{index}.plan"
                reports[name] = build(file, plans[name], precision)
                milliseconds = measure(plans[name])
            candidates.append(
                Candidate(
                    name=name,
                    precision=precision,
                    milliseconds=milliseconds,
                    loss=loss,
                    refusal=refusal,
                )
            )
        choice = choose(candidates)
        with write_aside(plan_path) as aside:
            shutil.copyfile(plans[choice.chosen.name], aside)
    return reports[choice.chosen.name], choice


def _refusal(source: str, path: str, budget: float | None) -> tuple[float | None, str | None]:
    """What an INT8 file lost, and why it is left out; None: it is not.

    Raises:
        ModelError: it is not an INT8 file made from `source`.
    """
    from agp_edge.calibration.graph.model_digest import graph_sha256  # noqa: PLC0415

    manifest = read_manifest(path)
    record = manifest.get("quantisation")
    if manifest["precision"]["asked"] != "int8" or not isinstance(record, dict):
        raise ModelError(
            f"'{path}' holds no record of its quantisation: make it with `agp-edge quantize`"
        )
    if record.get("model") != f"sha256:{graph_sha256(source)}":
        raise ModelError(
            f"'{path}' was quantised from another model than '{source}': quantise this one"
        )
    loss = float(record["loss"])
    if budget is None:
        if record["budget"] is None or not record["within_budget"]:
            return loss, "it does not keep a budget of its own (quantise with --budget)"
        return loss, None
    if loss <= budget:
        return loss, None
    return loss, f"it loses more than {budget:g}"


def _measure(plan: Path) -> float:
    from agp_edge.detector import Detector  # noqa: PLC0415  (the compiled part)

    # a model without a threshold is measured all the same: its verdicts are not used
    with Detector(plan, threshold=0.0) as detector:
        return median_milliseconds(detector, self_test_frame(detector.manifest, 1))
