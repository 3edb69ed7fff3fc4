"""The engines that gpu_check puts between the stages, all of them in the GPU's memory.

plan    a real plan: the model given, else AGPNet on EfficientNet-Lite0 with random weights,
        which computes as much; compiled by TensorRT, or by TensorRT for RTX
torch   a small torch model, called while the graph is recorded
copy    copies a part of its input: what the path costs without a model
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["ENGINES", "Opened", "is_played", "missing_for", "open_engine"]

ENGINES = ("plan", "torch", "copy")
STRIDE = 4  # of "torch" and "copy"


@dataclass(frozen=True)
class Opened:
    """An engine, the manifest that fits it, and the plan's file where it has one."""

    engine: Any
    manifest: str
    plan: Path | None = None


def is_played() -> bool:
    """Whether the CUDA driver is the one of the tests, which runs on the CPU."""
    driver = os.environ.get("AGP_EDGE_CUDA_DRIVER")
    if not driver:
        return False
    try:
        return hasattr(ctypes.CDLL(driver), "fake_cuda_live")
    except OSError:  # what is wrong with it is said where a GPU is looked for
        return False


def missing_for(name: str, model: Path | None) -> str | None:
    """Why the engine cannot be opened on this machine; None where it can."""
    if name == "copy":
        return None
    if is_played():
        return "the CUDA driver is played on the CPU"
    if name == "torch":
        return _torch_missing()
    return _plan_missing(model)


def _torch_missing() -> str | None:
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed (pip install torch)"
    import torch  # noqa: PLC0415  (only where it is asked for)

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    return None if torch.cuda.is_available() else "torch sees no GPU"


def _plan_missing(model: Path | None) -> str | None:
    from agp_edge.engines.tensorrt import FLAVOURS  # noqa: PLC0415

    if all(FLAVOURS[name].find_module() is None for name in ("tensorrt", "rtx")):
        return (
            "neither TensorRT nor TensorRT for RTX is installed (pip install 'agp-edge[tensorrt]', "
            "or 'agp-edge[rtx]' for an RTX desktop GPU)"
        )
    if model is None and any(importlib.util.find_spec(name) is None for name in ("torch", "timm")):
        return "without torch and timm there is no model to compile: give --model MODEL.onnx"
    return None


def open_engine(name: str, model: Path | None, folder: Path, side: int) -> Opened:
    """Open one of `ENGINES`.

    Args:
        name: which.
        model: an .onnx file of ours for "plan"; None: random weights.
        folder: for the plan.
        side: of the input, pixels; a multiple of 4. A model that is given has its own.
    """
    if name == "plan":
        return _open_plan(model, folder, side)
    from agp_edge import _core  # noqa: PLC0415

    grid = side // STRIDE
    inputs = [("image", "float32", (1, 3, side, side))]
    outputs = [("distance", "float32", (1, 1, grid, grid))]
    function = _TorchEngine(side) if name == "torch" else _CopyEngine(side)
    engine = _core.CallableEngine(function.title, inputs, outputs, function, memory="device")
    return Opened(engine, manifest(side))


def _open_plan(model: Path | None, folder: Path, side: int) -> Opened:
    from agp_edge import _core  # noqa: PLC0415
    from agp_edge.engines import tensorrt  # noqa: PLC0415
    from agp_edge.plan.build import plan_from_onnx  # noqa: PLC0415

    if model is None:
        from plan_size import export  # noqa: PLC0415  (needs torch and timm)

        model = folder / "lite0.onnx"
        export("tf_efficientnet_lite0", "random", side, model)
    plan = folder / "model.plan"
    plan_from_onnx(model, plan, precision="fp16")
    return Opened(tensorrt.open_plan(str(plan)), _core.read_manifest_json(str(plan)), plan)


def manifest(side: int) -> str:
    """Of a model with the inputs and outputs of "torch" and "copy"."""
    return json.dumps(
        {
            "agp_edge_manifest": "1.0",
            "name": "gpu_check",
            "backbone": "none",
            "input": {
                "name": "image",
                "height": side,
                "width": side,
                "mean": [118.0, 120.0, 122.0],
                "std": [57.0, 57.0, 57.0],
                "dtype": "float32",
                "channels": "rgb",
                "resize": "antialias",
                "roi": None,
            },
            "output": {
                "name": "distance",
                "height": side // STRIDE,
                "width": side // STRIDE,
                "dtype": "float32",
            },
            "postprocess": {"sigma": 4.0, "score": "max", "top_share": 0.01},
            "setup": "one-class",
            "classes": [],
            "threshold": None,
            "precision": {"asked": "fp32", "built": None},
            "opset": 18,
            "versions": {},
            "hashes": {},
            "created": "2026-01-01T00:00:00+00:00",
            "self_test": None,
        }
    )


class _CopyEngine:
    """Copies the beginning of its input to its output, on the pipeline's stream."""

    title = "copy"

    def __init__(self, side: int) -> None:
        self._bytes = 4 * (side // STRIDE) ** 2
        library = ctypes.CDLL(os.environ.get("AGP_EDGE_CUDA_DRIVER") or "libcuda.so.1")
        self._copy = library.cuMemcpyDtoDAsync_v2
        self._copy.argtypes = [ctypes.c_uint64, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p]

    def __call__(self, stream: int, inputs: list[int], outputs: list[int]) -> None:
        status = self._copy(outputs[0], inputs[0], self._bytes, stream)
        if status != 0:
            raise RuntimeError(f"cuMemcpyDtoDAsync_v2 returned {status}")


class _Address:
    """float32 device memory of the pipeline, as torch takes it."""

    def __init__(self, address: int, shape: tuple[int, ...]) -> None:
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": "<f4",
            "data": (address, False),
            "version": 2,
        }


class _TorchEngine:
    """A torch model that works on the pipeline's stream and memory."""

    def __init__(self, side: int) -> None:
        self._side = side
        import torch  # noqa: PLC0415  (the rest needs none)

        self.torch = torch
        self.title = f"torch {torch.__version__}"
        self.model = (
            torch.nn.Sequential(
                torch.nn.Conv2d(3, 64, 5, stride=4, padding=2),
                torch.nn.ReLU(),
                torch.nn.Conv2d(64, 64, 3, padding=1),
                torch.nn.ReLU(),
                torch.nn.Conv2d(64, 1, 1),
            )
            .cuda()
            .eval()
        )
        # What is recorded keeps its addresses: no other work may get this memory.
        self.pool = torch.cuda.MemPool()

    def __call__(self, stream: int, inputs: list[int], outputs: list[int]) -> None:
        """Puts one run on the stream."""
        torch = self.torch
        with (
            torch.inference_mode(),
            torch.cuda.use_mem_pool(self.pool),
            torch.cuda.stream(torch.cuda.ExternalStream(stream)),
        ):
            image = torch.as_tensor(
                _Address(inputs[0], (1, 3, self._side, self._side)), device="cuda"
            )
            distance = torch.as_tensor(
                _Address(outputs[0], (1, 1, *2 * (self._side // STRIDE,))), device="cuda"
            )
            distance.copy_(self.model(image))
