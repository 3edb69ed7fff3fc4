"""What a detector is given, checked: options, regions of interest, CPUs, frames."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from agp_edge.errors import Error, FrameError

if TYPE_CHECKING:
    from typing import SupportsIndex

    from numpy.typing import NDArray

    from agp_edge.site_document import Site

    # Also whatever has `__dlpack__` or `__cuda_array_interface__`.
    FrameLike = NDArray[np.uint8] | NDArray[np.uint16] | Any

__all__ = ["as_pixels", "checked_cpus", "checked_roi", "native_settings", "output_bits"]

# The bits of agp_edge::Outputs.
OUTPUT_BITS = {"map": 1, "mask": 2, "regions": 4}


def native_settings(
    site: Site | None,
    *,
    threshold: float | None,
    roi: tuple[int, int, int, int] | None,
    min_area: int | None,
) -> dict[str, Any]:
    """The native detector's options: what the caller gave, else what the site file says."""
    if site is None:
        return {"threshold": threshold, "roi": roi, "min_area": min_area or 0}
    tail = site.calibration_tail
    mask_threshold = None
    if threshold is None:  # a given one counts for the mask as well
        threshold = site.threshold
        mask_threshold = site.mask_threshold
    return {
        "threshold": threshold,
        "mask_threshold": mask_threshold,
        "roi": roi if roi is not None or not site.rois else site.rois[0],
        "min_area": (site.min_area or 0) if min_area is None else min_area,
        "ignored": site.dont_care,
        "calibration_tail": None if tail is None or roi is not None else (tail.n, tail.scores),
    }


def output_bits(outputs: Iterable[str]) -> int:
    """The bits of "map", "mask", "regions"; an Error where a name is another."""
    names = {outputs} if isinstance(outputs, str) else set(outputs)
    unknown = sorted(names - set(OUTPUT_BITS))
    if unknown:
        raise Error(f"unknown outputs {unknown}: expected some of {list(OUTPUT_BITS)}")
    return sum(OUTPUT_BITS[name] for name in names)


def as_pixels(frame: object) -> FrameLike:
    """A NumPy array, or what C++ asks for its address: DLPack, CUDA's array interface."""
    if isinstance(frame, np.ndarray):
        return frame
    if hasattr(frame, "__dlpack__") or hasattr(frame, "__cuda_array_interface__"):
        return frame
    with suppress(TypeError):
        return np.asarray(memoryview(frame))  # type: ignore[arg-type]  # asks the buffer protocol
    raise FrameError(
        f"the frame is a {type(frame).__module__}.{type(frame).__qualname__}, expected a NumPy "
        "array, uint8 (H, W, 3) BGR or (H, W) mono: convert it with np.asarray(frame) and name "
        "its format (PIL images are 'rgb8')"
    )


def checked_roi(roi: Iterable[SupportsIndex]) -> tuple[int, int, int, int]:
    """x, y, width, height as integers, or a FrameError."""
    try:
        x, y, width, height = map(operator.index, roi)
    except (TypeError, ValueError):
        raise FrameError(
            f"the region of interest is {roi!r}: expected four integers, x, y, width, height, in "
            "frame pixels"
        ) from None
    return x, y, width, height


def checked_cpus(cpu: int | Iterable[int] | None) -> list[int]:
    """The numbers of the CPUs; [] for None."""
    if cpu is None:
        return []
    try:
        if isinstance(cpu, Iterable):
            cpus = [operator.index(each) for each in cpu]
        else:
            cpus = [operator.index(cpu)]
    except TypeError:
        cpus = []
    if not cpus:
        raise Error(f"cpu is {cpu!r}: expected the number of a CPU, or several: cpu=[2, 3]")
    return cpus
