"""Where torch computes, and in how many processes: names and numbers -> a device, a Fabric."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from agp_edge.errors import DependencyError, DeviceError

if TYPE_CHECKING:
    import numpy as np
    from lightning_fabric import Fabric
    from numpy.typing import NDArray

__all__ = ["open_fabric", "own_share", "torch_device"]

_PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def torch_device(name: str) -> torch.device:
    """The device of that name; "auto" takes a GPU where torch sees one.

    Raises:
        DeviceError: there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DeviceError(f"device '{name}' cannot be used ({reason}); give cpu or auto") from error
    return device


def open_fabric(device: str, processes: int, precision: str) -> Fabric:
    """This process's part of a training by one process or several.

    Under torchrun its processes are taken as they are; else Fabric starts `processes` - 1 more of
    the running program, one per GPU, which run the same lines.

    Args:
        device: as `torch_device` takes it.
        processes: on this machine; under torchrun it says how many there are.
        precision: "fp32", "bf16" or "fp16".

    Raises:
        DeviceError: the device does not exist, there are fewer GPUs than processes, or it cannot
            compute in this precision.
        DependencyError: lightning-fabric is not installed.
    """
    try:
        from lightning_fabric import Fabric  # noqa: PLC0415  (heavy)
    except ImportError as error:
        raise DependencyError(
            "training needs lightning-fabric: pip install 'agp-edge[train]'"
        ) from error
    on = torch_device(device)
    if precision == "fp16" and on.type != "cuda":
        raise DeviceError(
            f"precision fp16 needs a GPU, the device is '{on}'; train with fp32, or bf16"
        )
    nodes = 1
    if "TORCHELASTIC_RUN_ID" in os.environ:
        processes = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // processes
    if processes < 1 or (on.type == "cuda" and processes > torch.cuda.device_count()):
        raise DeviceError(
            f"{processes} processes were asked for; expected at least 1 and at most as many as "
            f"there are GPUs ({torch.cuda.device_count()}), or device cpu"
        )
    alone = processes * nodes == 1
    fabric = Fabric(
        accelerator=on.type,
        devices=[on.index] if alone and on.index is not None else processes,
        num_nodes=nodes,
        strategy="auto" if alone else "ddp",
        precision=_PRECISIONS[precision],  # type: ignore[arg-type]  # a Literal there
    )
    fabric.launch()
    return fabric


def own_share(fabric: Fabric, indices: NDArray[np.intp]) -> tuple[NDArray[np.intp], float]:
    """This process's images of a batch, and the weight of their mean loss.

    Gradients are averaged over the processes as if all had as many images; the weight makes up for
    it, so that the sum is the whole batch's gradient. A process that gets none works on the first
    image with weight 0, since all must take part.
    """
    own = indices[fabric.global_rank :: fabric.world_size]
    if len(own) == 0:
        return indices[:1], 0.0
    return own, len(own) * fabric.world_size / len(indices)
