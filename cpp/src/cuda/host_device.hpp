// A function that CPU code and kernels share.
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define AGP_EDGE_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define AGP_EDGE_HOST_DEVICE inline __attribute__((always_inline))
#endif
