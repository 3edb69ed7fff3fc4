import json
import subprocess
import sys

import agp_edge

HEAVY_MODULES = {
    "torch", "torchvision", "timm", "onnx", "onnxruntime", "openvino", "cv2", "tqdm", "scipy",
    "sklearn", "matplotlib", "PIL", "tensorrt", "tensorrt_rtx_bindings", "tensorrt_lean_bindings",
}  # fmt: skip
HEAVY_LIBRARIES = (
    "libcuda", "libcudart", "libnvinfer", "libtensorrt", "onnxruntime", "openvino", "libtorch",
    "libc10", "opencv", "libtbb",
)  # fmt: skip

PROBE = """
import json, sys
import agp_edge
import agp_edge._core
import agp_edge.cli
for name in agp_edge.cli.COMMANDS:
    agp_edge.cli._command(name)
print(json.dumps([sorted({name.partition('.')[0] for name in sys.modules}),
                  open('/proc/self/maps').read()]))
"""

COST = """
import time
# This thread's CPU time: neither other processes count, nor the threads that numpy's BLAS starts.
start = time.thread_time()
import numpy  # the runtime's one dependency, and the yardstick: a slow machine slows both
middle = time.thread_time()
import agp_edge
print((time.thread_time() - middle) / (middle - start))
"""


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout


def test_import_loads_no_inference_library():
    modules, maps = json.loads(python(PROBE))
    assert HEAVY_MODULES.isdisjoint(modules), sorted(HEAVY_MODULES & set(modules))
    assert not [fragment for fragment in HEAVY_LIBRARIES if fragment in maps]


def test_import_costs_less_than_numpy_s():
    assert min(float(python(COST)) for _ in range(5)) < 0.8


def test_the_visible_names_are_exactly_the_public_ones():
    visible = {
        name
        for name, value in vars(agp_edge).items()
        if not name.startswith("_") and not isinstance(value, type(sys))
    }
    assert visible | {"__version__"} == set(agp_edge.__all__)
    assert all(getattr(agp_edge, name) is not None for name in agp_edge.__all__)


def test_version_is_the_package_s():
    from importlib.metadata import version

    assert agp_edge.__version__ == version("agp-edge")
