#include "thread_pool.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace agp_edge {
namespace {

long process_id() noexcept {
#if defined(__unix__) || defined(__APPLE__)
  return static_cast<long>(getpid());
#else
  return 0;
#endif
}

}  // namespace

struct ThreadPool::State {
  std::mutex mutex;
  std::condition_variable wake;
  std::condition_variable done;
  std::vector<std::thread> workers;
  const long owner = process_id();
  std::uint64_t generation = 0;  // of the loop; a worker joins each at most once
  bool stop = false;
  int active = 0;  // workers inside the current loop
  Call call = nullptr;
  void* body = nullptr;
  int chunks = 0;
  std::atomic<int> next{0};

  void work(int worker) noexcept {
    for (int chunk = next.fetch_add(1, std::memory_order_relaxed); chunk < chunks;
         chunk = next.fetch_add(1, std::memory_order_relaxed)) {
      call(body, chunk, worker);
    }
  }

  void loop(int worker) {
    std::uint64_t seen = 0;
    std::unique_lock<std::mutex> lock(mutex);
    while (true) {
      wake.wait(lock, [&] { return stop || generation != seen; });
      if (stop) return;
      seen = generation;
      if (call == nullptr) continue;  // the caller finished it alone
      ++active;
      lock.unlock();
      work(worker);
      lock.lock();
      if (--active == 0) done.notify_one();
    }
  }
};

ThreadPool::ThreadPool(int threads) : threads_(std::max(threads, 1)), state_(new State) {
  state_->workers.reserve(static_cast<std::size_t>(threads_ - 1));
  try {
    for (int worker = 1; worker < threads_; ++worker) {
      state_->workers.emplace_back([state = state_.get(), worker] { state->loop(worker); });
    }
  } catch (const std::system_error&) {
    // The system gives no more threads: fewer workers do the same loop.
  }
}

ThreadPool::~ThreadPool() {
  if (state_->owner != process_id()) {
    // After fork() the workers exist in the parent only: joining them, or destroying what they
    // wait on, would wait for ever.
    static_cast<void>(state_.release());
    return;
  }
  {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    state_->stop = true;
  }
  state_->wake.notify_all();
  for (std::thread& worker : state_->workers) worker.join();
}

void ThreadPool::run_erased(int chunks, Call call, void* body) {
  State& state = *state_;
  if (chunks <= 1 || state.workers.empty() || state.owner != process_id()) {
    for (int chunk = 0; chunk < chunks; ++chunk) call(body, chunk, 0);
    return;
  }
  {
    const std::lock_guard<std::mutex> lock(state.mutex);
    state.call = call;
    state.body = body;
    state.chunks = chunks;
    state.next.store(0, std::memory_order_relaxed);
    ++state.generation;
  }
  state.wake.notify_all();
  state.work(0);
  std::unique_lock<std::mutex> lock(state.mutex);
  state.done.wait(lock, [&] { return state.active == 0; });
  state.call = nullptr;
}

int usable_cores() noexcept {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace agp_edge
