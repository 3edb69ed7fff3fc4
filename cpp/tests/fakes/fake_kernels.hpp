// The kernels that the fake driver runs: ordinary functions, one call per launch.
#pragma once

#include <cstddef>

#include "fake_cuda_state.hpp"

namespace fake_cuda {

// Does the work of a whole launch. `parameters`: the address of each, as cuLaunchKernel takes them.
using KernelFunction = void (*)(const unsigned* grid, const unsigned* block, unsigned shared_bytes,
                                void** parameters);

// Sizes of the parameters; null where there is no kernel of that name.
const std::vector<std::size_t>* kernel_parameters(const std::string& name);

void run_kernel(const Launch& launch);

}  // namespace fake_cuda
