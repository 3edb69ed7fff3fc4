// The kernels of cpp/src/*/*_cuda.cu, compiled as C++ and run on the CPU: for tests, and for the
// fake driver. Threads of a block are fibers that change at __syncthreads(); blocks run one after
// the other.
//
// Threads  calls take turns.
// Blocks   run() returns when every block is done.
#pragma once

#include <cstddef>
#include <string>

namespace cuda_on_cpu {

// Threads of a block between two barriers in the order of their numbers, or the other way round: a
// kernel in which a barrier is missing gives two results.
enum class Order { kForward, kBackward };
void set_order(Order order);

struct Kernel {
  const char* name;
  const std::size_t* parameter_bytes;  // of each parameter, in order
  int parameters;

  // A whole launch. `parameters`: address of each one, as cuLaunchKernel takes them; the addresses
  // in them are ordinary pointers. Ends the program when there are no threads, more than a GPU
  // takes, more shared memory than it has, or a barrier that some threads of a block never reach.
  void (*run)(const unsigned* grid, const unsigned* block, unsigned shared_bytes,
              void** parameters);
};

// All of them, or the one of that name; null where there is none.
struct Kernels {
  const Kernel* first;
  const Kernel* last;  // behind the last one

  const Kernel* begin() const { return first; }
  const Kernel* end() const { return last; }
};
Kernels kernels();
const Kernel* find(const std::string& name);

}  // namespace cuda_on_cpu
