"""Opens our detector and the others, and makes the table."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agp_edge.bench.against.side_by_side import SideBySide, side_by_side
from agp_edge.bench.against.trtexec import run_trtexec
from agp_edge.bench.against.ways import open_ways
from agp_edge.bench.benchmark import decision_threshold
from agp_edge.detector import Detector
from agp_edge.engines import is_plan
from agp_edge.errors import DependencyError, Error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from agp_edge.bench.frames import Frames

__all__ = ["run_against"]


def run_against(
    model: str | os.PathLike[str],
    frames: Frames,
    names: Sequence[str],
    *,
    models: Sequence[str | os.PathLike[str]] = (),
    duration_s: float = 30.0,
    device: str = "auto",
    engine: str | None = None,
    threads: int = 0,
) -> SideBySide:
    """Times other ways to score the same frames, interleaved with ours.

    Args:
        model: an ONNX file or a plan.
        frames: what is scored.
        names: of `agp_edge.bench.against.NAMES`.
        models: files of anomalib's.
        duration_s: of the interleaved run.
        device: as for `agp_edge.Detector`.
        engine: as for `agp_edge.Detector`.
        threads: of ours and of each other way.

    Raises:
        DependencyError: a way that was named is not installed.
        Error: nothing is left to compare with, or as for `open_ways`.
    """
    with Detector(
        model, device=device, engine=engine, threads=threads, threshold=decision_threshold(model)
    ) as detector:
        ways, left_out = open_ways(
            model,
            detector.manifest,
            names,
            models=models,
            threads=threads,
            format=frames.format,
        )
        timed = _trtexec(model, names, duration_s, left_out)
        if not ways and timed is None:
            raise Error(f"nothing to compare with: {'; '.join(left_out)}")

        def ours(frame: NDArray[Any]) -> float:
            return detector.score(frame, format=frames.format).score

        table = side_by_side(
            ours,
            ways,
            frames.arrays,
            duration_s=duration_s,
            rest=threads != 1,
            name=f"agp_edge, {detector.engine_name}",
        )
    return replace(table, left_out=tuple(left_out), trtexec=timed)


def _trtexec(
    model: str | os.PathLike[str], names: Sequence[str], duration_s: float, left_out: list[str]
) -> dict[str, Any] | None:
    if "trtexec" not in names and "all" not in names:
        return None
    try:
        if not is_plan(os.fspath(model)):
            raise Error(f"trtexec needs a TensorRT plan, and '{model}' is none")
        return run_trtexec(model, duration_s=duration_s)
    except (DependencyError, Error) as error:
        if "trtexec" in names:
            raise
        left_out.append(str(error))
        return None
