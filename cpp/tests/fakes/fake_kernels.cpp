// The kernels of cpp/src/*/*_cuda.cu, compiled as C++, behind the fake driver's modules and
// launches.
#include "fake_kernels.hpp"

#include <cstdlib>

#include "run_kernel.hpp"

namespace fake_cuda {

bool find_kernel(const std::string& name, std::vector<std::size_t>& parameter_bytes) {
  const cuda_on_cpu::Kernel* const kernel = cuda_on_cpu::find(name);
  if (kernel == nullptr) return false;
  parameter_bytes.assign(kernel->parameter_bytes, kernel->parameter_bytes + kernel->parameters);
  return true;
}

void run_kernel(Launch& launch) {
  const cuda_on_cpu::Kernel* const kernel = cuda_on_cpu::find(launch.kernel->name);
  if (kernel == nullptr) std::abort();
  std::vector<void*> parameters;
  for (std::vector<char>& value : launch.parameters) parameters.push_back(value.data());
  kernel->run(launch.grid, launch.block, launch.shared_bytes, parameters.data());
}

}  // namespace fake_cuda
