// What CUDA C++ gives to a kernel, for one thread of one block on the CPU: indices, barrier, shared
// memory, and the functions that our kernels call. Included by cuda_kernel.hpp in place of nvcc's.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "half.hpp"

#define AGP_EDGE_KERNEL(threads) extern "C" void
#define AGP_EDGE_DEVICE inline
#define AGP_EDGE_SHARED(name) float* const name = cuda_on_cpu::shared_memory()
#define AGP_EDGE_UNROLL(n)
#define AGP_EDGE_UNROLL_BY_8
#define AGP_EDGE_UNROLL_BY_4

namespace cuda_on_cpu {

struct Index {
  unsigned x, y, z;
};

// Of the thread that runs; set by run().
extern Index thread_index, block_index, block_size, grid_size;

float* shared_memory();
void barrier();

}  // namespace cuda_on_cpu

namespace agp_edge::kernel {

using std::max;
using std::min;
using std::pow;

struct alignas(16) float4 {
  float x, y, z, w;
};

#define threadIdx cuda_on_cpu::thread_index
#define blockIdx cuda_on_cpu::block_index
#define blockDim cuda_on_cpu::block_size
#define gridDim cuda_on_cpu::grid_size

// Reserved names, because CUDA's are.
inline void __syncthreads() { cuda_on_cpu::barrier(); }

template <typename T>
T __ldg(const T* from) {
  return *from;
}

inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// Byte i of the result is byte (selector's hexadecimal digit i) of the eight bytes of low and high.
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  const std::uint64_t bytes = (static_cast<std::uint64_t>(high) << 32U) | low;
  unsigned result = 0;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned digit = (selector >> (4 * i)) & 7U;
    result |= static_cast<unsigned>((bytes >> (8 * digit)) & 255U) << (8 * i);
  }
  return result;
}

inline unsigned atomicAdd(unsigned* sum, unsigned value) {
  const unsigned before = *sum;
  *sum += value;
  return before;
}

}  // namespace agp_edge::kernel
