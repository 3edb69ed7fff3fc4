#include "fake_kernels.hpp"

#include <cstdlib>
#include <utility>

#include "run_kernel.hpp"

namespace fake_cuda {
namespace {

struct Entry {
  std::vector<std::size_t> parameters;
  KernelFunction function;
};

std::map<std::string, Entry>& entries() {
  static auto* const made = [] {
    auto* const entries = new std::map<std::string, Entry>;
    for (const cuda_on_cpu::Kernel& kernel : cuda_on_cpu::kernels()) {
      (*entries)[kernel.name] = {
          {kernel.parameter_bytes, kernel.parameter_bytes + kernel.parameters}, kernel.run};
    }
    return entries;
  }();
  return *made;
}

}  // namespace

const std::vector<std::size_t>* kernel_parameters(const std::string& name) {
  const auto found = entries().find(name);
  return found == entries().end() ? nullptr : &found->second.parameters;
}

void run_kernel(const Launch& launch) {
  const auto found = entries().find(launch.kernel->name);
  if (found == entries().end()) std::abort();
  std::vector<std::vector<char>> values = launch.parameters;
  std::vector<void*> parameters;
  for (std::vector<char>& value : values) parameters.push_back(value.data());
  found->second.function(launch.grid, launch.block, launch.shared_bytes, parameters.data());
}

}  // namespace fake_cuda

// From now on, every module has a kernel `name`.
FAKE_API void fake_cuda_add_kernel(const char* name, const std::size_t* parameter_bytes, int count,
                                   fake_cuda::KernelFunction function) {
  FAKE_ENTER;
  fake_cuda::entries()[name] = {{parameter_bytes, parameter_bytes + count}, function};
}
