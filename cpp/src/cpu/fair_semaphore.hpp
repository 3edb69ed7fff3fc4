// Permits that go to whoever has waited longest.
//
// Owns     nothing but its count; those who wait stand in a list of their own stack frames.
// Threads  any; destroyed only when nobody waits.
// Blocks   take() until there is a permit, the deadline passes, or close().
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>

namespace agp_edge {

class FairSemaphore {
 public:
  using Clock = std::chrono::steady_clock;
  enum class Taken : std::uint8_t { kYes, kTimedOut, kClosed };

  explicit FairSemaphore(int permits) : free_(permits) {}
  FairSemaphore(const FairSemaphore&) = delete;
  FairSemaphore& operator=(const FairSemaphore&) = delete;

  // No deadline: waits for as long as it takes. One that has passed: takes a permit or leaves.
  Taken take(std::optional<Clock::time_point> deadline = std::nullopt);
  void give(int permits = 1);
  int waiting() const;  // in take()
  // Everyone who waits, or comes later, is told kClosed.
  void close();

 private:
  struct Waiter {
    std::condition_variable wake;
    bool has_permit = false;
    Waiter* previous = nullptr;
    Waiter* next = nullptr;
  };
  void join(Waiter& waiter) noexcept;
  void leave(Waiter& waiter) noexcept;

  mutable std::mutex mutex_;
  int free_;  // 0 as long as somebody waits
  bool closed_ = false;
  Waiter* first_ = nullptr;
  Waiter* last_ = nullptr;
};

}  // namespace agp_edge
