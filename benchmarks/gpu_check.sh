#!/usr/bin/env bash
# What has to be run where a GPU is: tests marked `gpu`, parity, memory checks, whole-frame times.
#
#   bash benchmarks/gpu_check.sh [FRAMES]     default 100000 frames; writes results/gpu_check.json
set -euo pipefail
cd "$(dirname "$0")/.."
frames="${1:-100000}"
python -c 'from agp_edge.gpu import find_gpus; find_gpus()' 2>/dev/null || {
  echo "gpu_check: no NVIDIA GPU can be used here, nothing was checked" >&2
  exit 1
}
export AGP_EDGE_REQUIRE_GPU=1
python -m pytest -m gpu tests
if command -v compute-sanitizer > /dev/null; then
  for tool in memcheck racecheck; do
    compute-sanitizer --tool "$tool" --error-exitcode 1 --target-processes all \
      python -m pytest -m gpu tests/parity
  done
else
  echo "gpu_check: compute-sanitizer was not found, memory was not checked" >&2
fi
python benchmarks/gpu_check.py --frames "$frames"
