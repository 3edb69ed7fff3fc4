#!/usr/bin/env bash
# What has to be run where a GPU is: tests marked `gpu`, parity, memory checks, bandwidth, whole-frame
# times. Options are those of gpu_check.py; --dry-run says what would be run on this machine.
#
#   bash benchmarks/gpu_check.sh [--dry-run] [--strict] [--model MODEL.onnx] [--frames N]
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python}" benchmarks/gpu_check.py "$@"
