"""Where torch computes: a name -> a device that works."""

from __future__ import annotations

import torch

from agp_edge.errors import DeviceError

__all__ = ["torch_device"]


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
