"""Names of the ways that `--against` knows, and how they are opened."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agp_edge.bench.against.anomalib import open_anomalib
from agp_edge.bench.against.plain import (
    onnxruntime_opencv,
    onnxruntime_scipy,
    openvino_opencv,
    openvino_opencv_fp32,
)
from agp_edge.bench.formats import bgr_decoder
from agp_edge.engines import is_plan
from agp_edge.errors import DependencyError, Error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from agp_edge.bench.against.way import Way

__all__ = ["NAMES", "open_ways"]

PLAIN = {
    "onnxruntime": (onnxruntime_opencv, onnxruntime_scipy),
    "openvino": (openvino_opencv, openvino_opencv_fp32),
}
NAMES = ("all", *PLAIN, "trtexec", "anomalib")


def open_ways(
    model: str | os.PathLike[str],
    manifest: Mapping[str, Any],
    names: Sequence[str],
    *,
    models: Sequence[str | os.PathLike[str]] = (),
    threads: int = 0,
    format: str | None = None,
) -> tuple[list[Way], list[str]]:
    """Opens the ways that score frames in this process.

    Args:
        model: our own.
        manifest: what it says.
        names: of `NAMES`; "all" takes what is installed and fits.
        models: files of anomalib's, for "anomalib".
        threads: of each; 0: each one's own choice.
        format: of the frames; what is not BGR or mono goes through OpenCV's conversion first.

    Returns:
        The ways, and a sentence for each that "all" had to leave out.

    Raises:
        DependencyError: a way that was named is not installed.
        Error: an unknown name; "anomalib" without a model; a plan, which these do not run.
    """
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        raise Error(f"unknown ways {unknown}: expected some of {', '.join(NAMES)}")
    if "anomalib" in names and not models:
        raise Error("anomalib has no model to score with: name its files with --against-model")
    every = "all" in names
    ways: list[Way] = []
    left_out: list[str] = []
    for name, openers in PLAIN.items():
        if not every and name not in names:
            continue
        if is_plan(os.fspath(model)):
            sentence = f"{name} does not run a TensorRT plan"
            if not every:
                raise Error(f"{sentence}: give the .onnx file")
            left_out.append(sentence)
            continue
        for opener in openers:
            try:
                ways.append(opener(os.fspath(model), manifest, threads=threads))
            except DependencyError as error:
                if not every:
                    raise
                left_out.append(str(error))
    ways.extend(open_anomalib(path, threads=threads) for path in models)
    return [_after(bgr_decoder(format or "bgr8"), way) for way in ways], left_out


def _after(decode: Callable[[NDArray[Any]], NDArray[np.uint8]], way: Way) -> Way:
    return replace(way, score=lambda frame: way.score(decode(frame)))
