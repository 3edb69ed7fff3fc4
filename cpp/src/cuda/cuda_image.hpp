// The compiled kernels (*_cuda.cu) as bytes of the library.
#pragma once

#include "cuda/cuda_module.hpp"

namespace agp_edge::cuda {

// A fatbin for cuModuleLoadData; null when the library was built without nvcc.
const void* image_of(KernelSet set) noexcept;

// Of the compiler, as the driver counts: 13000 is 13.0; 0 without one.
int compiler_version() noexcept;

}  // namespace agp_edge::cuda
