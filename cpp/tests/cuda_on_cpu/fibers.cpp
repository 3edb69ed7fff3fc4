// Ubuntu's default: its longjmp() ends programs that change stacks.
#undef _FORTIFY_SOURCE
#include "fibers.hpp"

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <vector>

#include "device.hpp"
#include "run_kernel.hpp"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
// swapcontext() asks the kernel for the signal mask each time, _longjmp() does not; sanitizers know
// the first and take the second for an error.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define AGP_EDGE_SWAPS_CONTEXTS
#endif

namespace cuda_on_cpu {

Index thread_index, block_index, block_size, grid_size;

namespace {

constexpr std::size_t kStackBytes = std::size_t{128} << 10U;
constexpr unsigned kMostThreads = 1024;
constexpr unsigned kMostSharedBytes = 48U << 10U;  // without asking for more

struct Fiber {
  ucontext_t context{};
  jmp_buf place{};       // where it left
  bool started = false;  // it has left once, and is in its loop
  void* stack = nullptr;
  void* fake_stack = nullptr;  // AddressSanitizer's
  Index index{};
  bool done = false;
};

struct Machine {
  std::mutex mutex;
  std::vector<Fiber> fibers;
  ucontext_t scheduler{};
  jmp_buf scheduler_place{};
  void* scheduler_fake_stack = nullptr;
  const void* scheduler_stack = nullptr;
  std::size_t scheduler_stack_bytes = 0;
  Fiber* current = nullptr;
  const std::function<void()>* thread = nullptr;
  float* shared = nullptr;
  Order order = Order::kForward;
};

Machine& machine() {
  static auto* const made = new Machine;
  return *made;
}

[[noreturn]] void die(const char* what) {
  std::fprintf(stderr, "cuda_on_cpu: %s\n", what);
  std::abort();
}

void make_context(Fiber& fiber, void (*main)()) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack;
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, main, 0);
}

#if defined(AGP_EDGE_SWAPS_CONTEXTS)

void leave_fiber(Fiber& fiber, [[maybe_unused]] bool for_good) {
  Machine& m = machine();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(for_good ? nullptr : &fiber.fake_stack, m.scheduler_stack,
                                 m.scheduler_stack_bytes);
#endif
  swapcontext(&fiber.context, &m.scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fiber.fake_stack, &m.scheduler_stack, &m.scheduler_stack_bytes);
#endif
}

void enter_fiber(Fiber& fiber) {
  Machine& m = machine();
  m.current = &fiber;
  thread_index = fiber.index;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&m.scheduler_fake_stack, fiber.stack, kStackBytes);
#endif
  swapcontext(&m.scheduler, &fiber.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(m.scheduler_fake_stack, nullptr, nullptr);
#endif
}

void fiber_main() {
  Machine& m = machine();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &m.scheduler_stack, &m.scheduler_stack_bytes);
#endif
  (*m.thread)();
  m.current->done = true;
  leave_fiber(*m.current, true);
  die("a finished thread was resumed");
}

// Each block begins with threads that know nothing of the one before.
void begin(Fiber& fiber) {
  fiber.fake_stack = nullptr;
  make_context(fiber, fiber_main);
}

#else

void leave_fiber(Fiber& fiber, bool /*for_good*/) {
  if (_setjmp(fiber.place) == 0) _longjmp(machine().scheduler_place, 1);
}

void enter_fiber(Fiber& fiber) {
  Machine& m = machine();
  m.current = &fiber;
  thread_index = fiber.index;
  if (_setjmp(m.scheduler_place) != 0) return;
  if (fiber.started) _longjmp(fiber.place, 1);
  fiber.started = true;
  setcontext(&fiber.context);
}

// One thread of block after block.
void fiber_main() {
  Machine& m = machine();
  for (;;) {
    (*m.thread)();
    m.current->done = true;
    leave_fiber(*m.current, false);
  }
}

void begin(Fiber& fiber) {
  if (!fiber.started) make_context(fiber, fiber_main);
}

#endif

void run_block(unsigned count) {
  Machine& m = machine();
  for (unsigned i = 0; i < count; ++i) {
    Fiber& fiber = m.fibers[i];
    fiber.index = {i % block_size.x, i / block_size.x % block_size.y,
                   i / (block_size.x * block_size.y)};
    fiber.done = false;
    begin(fiber);
  }
  for (unsigned done = 0; done < count;) {
    unsigned finished = 0;
    for (unsigned i = 0; i < count; ++i) {
      Fiber& fiber = m.fibers[m.order == Order::kForward ? i : count - 1 - i];
      enter_fiber(fiber);
      finished += fiber.done ? 1 : 0;
    }
    if (finished != 0 && finished != count) die("some threads of a block missed a barrier");
    done = finished;
  }
}

}  // namespace

float* shared_memory() { return machine().shared; }

void barrier() { leave_fiber(*machine().current, false); }

void set_order(Order order) { machine().order = order; }

void launch(const unsigned* grid, const unsigned* block, unsigned shared_bytes,
            const std::function<void()>& thread) {
  Machine& m = machine();
  const std::lock_guard<std::mutex> turn(m.mutex);
  const unsigned count = block[0] * block[1] * block[2];
  if (count == 0 || count > kMostThreads || grid[0] == 0 || grid[1] == 0 || grid[2] == 0) {
    die("a launch without threads, or with more than 1024 in a block");
  }
  if (shared_bytes > kMostSharedBytes) die("a launch with more than 48 KiB of shared memory");
  while (m.fibers.size() < count) {
    Fiber fiber;
    fiber.stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (fiber.stack == MAP_FAILED) die("no memory for a thread's stack");
    m.fibers.push_back(fiber);
  }
  m.thread = &thread;
  grid_size = {grid[0], grid[1], grid[2]};
  block_size = {block[0], block[1], block[2]};
  for (unsigned b = 0; b < grid[0] * grid[1] * grid[2]; ++b) {
    block_index = {b % grid[0], b / grid[0] % grid[1], b / (grid[0] * grid[1])};
    // Of its own for each block: nothing is left of the one before, and AddressSanitizer sees both
    // ends. Not zeroed by a GPU either.
    const std::size_t floats = (shared_bytes + 3) / 4;
    const std::unique_ptr<float, decltype(&std::free)> memory(
        static_cast<float*>(std::aligned_alloc(16, (4 * floats + 15) / 16 * 16)), &std::free);
    std::fill_n(memory.get(), floats, std::numeric_limits<float>::quiet_NaN());
    m.shared = memory.get();
    run_block(count);
  }
  m.shared = nullptr;
}

}  // namespace cuda_on_cpu
