"""The compute capabilities that a plan is compiled for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agp_edge.errors import DeviceError, Error
from agp_edge.gpu import find_gpus

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["RTX_TARGETS", "chosen_targets", "has_gpu", "set_targets"]

# Ampere, Ada and Blackwell desktops: one plan for the three has the bytes of a plan for one. Turing
# (75) can be asked for, but TensorRT for RTX has no FP32 matrix product there.
RTX_TARGETS = (86, 89, 120)


def has_gpu() -> bool:
    """Whether an NVIDIA GPU can be used here."""
    try:
        return bool(find_gpus())
    except DeviceError:
        return False


def chosen_targets(trt: Any, flavour: str, targets: Sequence[int]) -> list[int]:
    """The compute capabilities that are compiled for, e.g. [86, 89]."""
    if flavour == "tensorrt":
        major, minor = find_gpus()[0].compute_capability
        return [10 * major + minor]
    known = _rtx_capabilities(trt)
    chosen = list(targets)
    if not chosen and has_gpu():
        major, minor = find_gpus()[0].compute_capability
        chosen = [10 * major + minor] if 10 * major + minor in known else []
    chosen = chosen or list(RTX_TARGETS)
    unknown = [target for target in chosen if target not in known]
    if unknown:
        raise Error(
            f"TensorRT for RTX {trt.__version__} cannot compile for compute capability {unknown}: "
            f"expected some of {sorted(known)}"
        )
    return chosen


def _rtx_capabilities(trt: Any) -> dict[int, Any]:
    return {
        int(name[2:]): value
        for name, value in trt.ComputeCapability.__members__.items()
        if name.startswith("SM")
    }


def set_targets(trt: Any, config: Any, chosen: Sequence[int]) -> None:
    """Tells TensorRT for RTX what to compile for, e.g. [86, 89]."""
    known = _rtx_capabilities(trt)
    config.num_compute_capabilities = len(chosen)
    for index, target in enumerate(chosen):
        config.set_compute_capability(known[target], index)
