// The kernels of cpp/src/*.cu, compiled as C++ and run on the CPU: for tests, and for the fake
// driver. Threads of a block are fibers that change at __syncthreads(); blocks run one after the
// other.
//
// Threads  one run() at a time in a process.
// Blocks   run() returns when every block is done.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace cuda_on_cpu {

struct Kernel {
  std::string name;
  std::vector<std::size_t> parameter_bytes;  // of each parameter, in order
  void (*call)(void** parameters);           // one thread
};

// Null where there is none of that name.
const Kernel* find(const std::string& name);

// `parameters`: address of each one, as cuLaunchKernel takes them; addresses inside are ordinary
// pointers. Throws std::invalid_argument: no threads, or more than a GPU takes.
void run(const Kernel& kernel, const unsigned grid[3], const unsigned block[3],
         unsigned shared_bytes, void** parameters);

}  // namespace cuda_on_cpu
