// A few worker threads that wait for one loop at a time.
//
// Owns     its threads.
// Threads  run() from one thread at a time.
// Blocks   run() returns when every chunk is done; the caller works too.
#pragma once

#include <memory>
#include <type_traits>

namespace agp_edge {

class ThreadPool {
 public:
  // `threads` work in all, the caller among them: threads - 1 workers are started.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const noexcept { return threads_; }

  // Calls body(chunk, worker) for every chunk < chunks, each once, in any order; worker <
  // threads(). The body must not throw. Allocates nothing.
  template <typename Body>
  void run(int chunks, Body&& body) {
    run_erased(
        chunks,
        [](void* erased, int chunk, int worker) noexcept {
          (*static_cast<std::remove_reference_t<Body>*>(erased))(chunk, worker);
        },
        &body);
  }

 private:
  using Call = void (*)(void*, int, int) noexcept;
  void run_erased(int chunks, Call call, void* body);

  struct State;
  int threads_;
  std::unique_ptr<State> state_;
};

// Cores that this process may run on (its affinity mask), at least 1.
int usable_cores() noexcept;

}  // namespace agp_edge
