"""Visual anomaly detection for inline inspection cameras: a model file in, a verdict per frame out.

    import agp_edge

    with agp_edge.Detector("bottle.onnx") as detector:
        result = detector.score(frame)  # uint8 (H, W, 3) BGR or (H, W) mono
        if result.is_anomalous:
            print(result.score, result.regions)

Importing this package loads NumPy and the standard library and nothing heavier; an inference
library is loaded when a model is opened that needs it.
"""

from agp_edge.detector import Detector
from agp_edge.errors import (
    BusyError,
    DataError,
    DependencyError,
    DeviceError,
    Error,
    FrameError,
    ModelError,
)
from agp_edge.manifest import read_manifest
from agp_edge.result import Latency, Region, Result

__all__ = [
    "BusyError",
    "DataError",
    "DependencyError",
    "Detector",
    "DeviceError",
    "Error",
    "FrameError",
    "Latency",
    "ModelError",
    "Region",
    "Result",
    "__version__",
    "read_manifest",
]


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(f"module 'agp_edge' has no attribute '{name}'")
    # Reading package metadata costs tens of milliseconds, so only who asks pays.
    from importlib.metadata import version  # noqa: PLC0415

    return version("agp-edge")
