"""What nvcc makes of the CUDA kernels: registers, spills and code size for every architecture.

Compiled, not run: no time and no bandwidth is measured here.

    python benchmarks/cuda_kernels.py [--nvcc FILE] [--output NAME]
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from provenance import write_result
from tqdm import tqdm

SOURCES = Path(__file__).parents[1] / "cpp/src"
FILES = ("preprocess/preprocess_cuda.cu", "postprocess/postprocess_cuda.cu")
OLDEST = 75  # compute capability 7.5
_KERNEL = re.compile(
    r"Compiling entry function '(?:agp_edge_)?(\w+)'.*?"
    r"(\d+) bytes stack frame, (\d+) bytes spill stores.*?Used (\d+) registers",
    re.DOTALL,
)


def compiled(nvcc: str, file: str, architecture: int, folder: Path) -> dict[str, Any]:
    """Registers and spills of each kernel of one file, and the size of its cubin."""
    cubin = folder / "kernels.cubin"
    done = subprocess.run(
        [nvcc, "-std=c++17", "-cubin", f"-arch=sm_{architecture}", "-Xptxas", "-v",
         "-Werror", "all-warnings", f"-I{SOURCES}", str(SOURCES / file), "-o", str(cubin)],
        check=True,
        capture_output=True,
        text=True,
    )  # fmt: skip
    kernels = {
        name: {"registers": int(registers), "stack": int(stack), "spilled": int(spilled)}
        for name, stack, spilled, registers in _KERNEL.findall(done.stderr)
    }
    return {"bytes": cubin.stat().st_size, "kernels": kernels}


def main() -> None:
    """Compiles everything and writes benchmarks/results/cuda_kernels.json."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nvcc", default=shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc")
    parser.add_argument("--output", default="cuda_kernels")
    args = parser.parse_args()
    version = subprocess.run([args.nvcc, "--version"], check=True, capture_output=True, text=True)
    known = subprocess.run(
        [args.nvcc, "--list-gpu-arch"], check=True, capture_output=True, text=True
    )
    architectures = sorted(
        number
        for number in map(int, re.findall(r"compute_(\d+)", known.stdout))
        if number >= OLDEST
    )
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for architecture in tqdm(architectures, unit="architecture"):
            results[f"sm_{architecture}"] = {
                file: compiled(args.nvcc, file, architecture, Path(folder)) for file in FILES
            }
    for name, files in results.items():
        kernels = {k: v for file in files.values() for k, v in file["kernels"].items()}
        registers = ", ".join(f"{k} {v['registers']}" for k, v in kernels.items())
        size = sum(file["bytes"] for file in files.values())
        spilled = sum(v["spilled"] for v in kernels.values())
        print(f"{name}: {size // 1024} KiB, {spilled} bytes spilled; registers: {registers}")
    (release,) = re.findall(r"release [\d.]+, V([\d.]+)", version.stdout)
    write_result(args.output, {"nvcc": release, "state": "compiled, not run", "results": results})


if __name__ == "__main__":
    main()
