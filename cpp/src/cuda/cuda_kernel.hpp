// What the kernels (*.cu) are written in, so that the same text compiles with nvcc, with NVRTC,
// which has no standard headers, and as C++ for the CPU, where the tests run it.
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)

#define AGP_EDGE_KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads)
#define AGP_EDGE_DEVICE __device__ __forceinline__
// Dynamic shared memory of the block, aligned for float4.
#define AGP_EDGE_SHARED(name) extern __shared__ __align__(16) float name[]
#define AGP_EDGE_UNROLL(n) _Pragma("unroll")  // loops of a few, known passes
// So many loads are under way at once.
#define AGP_EDGE_UNROLL_BY_8 _Pragma("unroll 8")
#define AGP_EDGE_UNROLL_BY_4 _Pragma("unroll 4")

namespace agp_edge::kernel {

// Bits of the nearest FP16 number; cuda_fp16.h would have to be found by NVRTC.
AGP_EDGE_DEVICE unsigned short half_bits(float value) {
  unsigned short bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

AGP_EDGE_DEVICE float value_of_half(unsigned short bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

}  // namespace agp_edge::kernel

#else
#include "cuda_on_cpu/device.hpp"
#endif
