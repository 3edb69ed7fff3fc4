// Frames that were handed in, and the threads that score them.
//
// Owns     its threads, one per frame that may be in flight.
// Borrows  a frame until its `done` is called.
// Threads  push() and close() from any. `done` runs in one of the queue's own threads, one at a
//          time, in the order of push().
// Blocks   push() while as many frames are in flight as may be; who waits longest is next. close()
//          until every frame is answered.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>

#include "agp_edge/frame.hpp"
#include "agp_edge/result.hpp"
#include "agp_edge/thread_placement.hpp"

namespace agp_edge {

class SubmissionQueue {
 public:
  using Clock = std::chrono::steady_clock;
  // Called by several threads at once.
  using Score = std::function<Result(const Frame&, Clock::time_point entered)>;

  // Throws Error: the placement, or the system gives no more threads.
  SubmissionQueue(int in_flight, const ThreadPlacement& placement, Score score);
  // As close(false).
  ~SubmissionQueue();
  SubmissionQueue(const SubmissionQueue&) = delete;
  SubmissionQueue& operator=(const SubmissionQueue&) = delete;

  // `done` must not throw: what it throws is dropped. Throws BusyError: no room in time, or none
  // and the caller is one of the queue's own threads. Throws Error: closed, or another process.
  void push(const Frame& frame, Answered done, std::optional<std::chrono::nanoseconds> timeout);

  int waiting() const;  // in push(), for room

  // Whether the caller is inside a `done`.
  bool is_own_thread() const noexcept;

  // Pushes are refused from now on. `drain`: frames that wait are scored; else answered with an
  // Error. From one of the queue's own threads it returns at once.
  void close(bool drain);

 private:
  struct State;
  void end();
  std::shared_ptr<State> state_;  // a thread that destroys its own queue needs it to the end
};

}  // namespace agp_edge
