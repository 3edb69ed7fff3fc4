// The kernels that the fake driver runs.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "fake_cuda_state.hpp"

namespace fake_cuda {

// Sizes of the parameters; false where there is no kernel of that name.
bool find_kernel(const std::string& name, std::vector<std::size_t>& parameter_bytes);

void run_kernel(Launch& launch);

}  // namespace fake_cuda
