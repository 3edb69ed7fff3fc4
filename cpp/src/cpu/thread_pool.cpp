#include "cpu/thread_pool.hpp"

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

// A loop in one word, so that a worker claims a chunk of the loop that it looked at or none:
// generation, number of chunks, next chunk.
struct Ticket {
  std::uint64_t bits;

  static constexpr int kBits = 20;
  static constexpr std::uint64_t kMask = (std::uint64_t{1} << kBits) - 1;

  static Ticket first(std::uint64_t generation, int chunks) noexcept {
    return {generation << (2 * kBits) | static_cast<std::uint64_t>(chunks) << kBits};
  }
  std::uint64_t generation() const noexcept { return bits >> (2 * kBits); }
  int chunks() const noexcept { return static_cast<int>(bits >> kBits & kMask); }
  int next() const noexcept { return static_cast<int>(bits & kMask); }
};

inline void pause() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Some tens of microseconds: longer than a chunk that a worker is about to finish, shorter than
// what sleeping and being woken costs.
constexpr int kSpins = 2000;

}  // namespace

struct ThreadPool::State {
  std::mutex mutex;  // only for sleeping and waking
  std::condition_variable wake;
  std::condition_variable done;
  std::vector<std::thread> workers;
  const long owner = process_id();
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> ticket{0};
  std::atomic<int> pending{0};  // chunks that are not done
  std::atomic<Call> call{nullptr};
  std::atomic<void*> body{nullptr};

  Ticket now() const noexcept { return {ticket.load(std::memory_order_acquire)}; }

  // Returns when no chunk is left to claim; others may still be at work on theirs.
  void work(int worker) noexcept {
    Ticket seen = now();
    while (seen.next() < seen.chunks()) {
      // Of this generation, or the exchange fails.
      const Call function = call.load(std::memory_order_relaxed);
      void* const argument = body.load(std::memory_order_relaxed);
      if (!ticket.compare_exchange_weak(seen.bits, seen.bits + 1, std::memory_order_acq_rel,
                                        std::memory_order_acquire)) {
        continue;
      }
      function(argument, seen.next(), worker);
      if (pending.fetch_sub(1, std::memory_order_acq_rel) == 1 && worker != 0) {
        const std::lock_guard<std::mutex> lock(mutex);
        done.notify_one();
      }
      seen = now();
    }
  }

  void loop(int worker) {
    std::uint64_t seen = 0;
    while (true) {
      {
        std::unique_lock<std::mutex> lock(mutex);
        wake.wait(lock, [&] { return stop.load() || now().generation() != seen; });
      }
      if (stop.load()) return;
      seen = now().generation();
      work(worker);
    }
  }

  void wait() {
    for (int spin = 0; spin < kSpins; ++spin) {
      if (pending.load(std::memory_order_acquire) == 0) return;
      pause();
    }
    std::unique_lock<std::mutex> lock(mutex);
    done.wait(lock, [&] { return pending.load(std::memory_order_acquire) == 0; });
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
    state_->stop.store(true);
  }
  state_->wake.notify_all();
  for (std::thread& worker : state_->workers) worker.join();
}

void ThreadPool::run_erased(int chunks, Call call, void* body) {
  State& state = *state_;
  if (chunks <= 1 || static_cast<std::uint64_t>(chunks) > Ticket::kMask || state.workers.empty() ||
      state.owner != process_id()) {
    for (int chunk = 0; chunk < chunks; ++chunk) call(body, chunk, 0);
    return;
  }
  state.call.store(call, std::memory_order_relaxed);
  state.body.store(body, std::memory_order_relaxed);
  state.pending.store(chunks, std::memory_order_relaxed);
  state.ticket.store(Ticket::first(state.now().generation() + 1, chunks).bits,
                     std::memory_order_release);
  {
    // A worker between looking at the ticket and falling asleep holds the mutex.
    const std::lock_guard<std::mutex> lock(state.mutex);
  }
  state.wake.notify_all();
  state.work(0);
  state.wait();
}

int usable_cores() noexcept {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace agp_edge
