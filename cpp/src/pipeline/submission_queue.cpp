#include "pipeline/submission_queue.hpp"

#include <unistd.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <future>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "agp_edge/error.hpp"
#include "cpu/fair_semaphore.hpp"

#if defined(__linux__)
#include <pthread.h>
#endif

namespace agp_edge {
namespace {

void name_this_thread(int worker) {
#if defined(__linux__)
  // At most 15 characters; shown by top -H, and in /proc.
  pthread_setname_np(pthread_self(), ("agp_edge " + std::to_string(worker)).c_str());
#else
  static_cast<void>(worker);
#endif
}

// A deadline of that much later, or more, would overflow the clock: it is none.
constexpr std::chrono::hours kForEver(24 * 365);

constexpr const char* kClosed = "the detector is closed: open the model again";

std::string full(int capacity, bool is_own_thread, std::chrono::nanoseconds timeout) {
  const std::string what =
      "the detector has " + std::to_string(capacity) + " frames in flight, as many as it may have";
  if (is_own_thread) {
    return what +
           ", and one of its own threads cannot wait for room: hand frames in from another thread";
  }
  const auto waited = std::chrono::duration_cast<std::chrono::milliseconds>(timeout);
  return what + ", and none was answered within " + std::to_string(waited.count()) +
         " ms: wait longer, leave this frame out, or allow more in flight (in_flight)";
}

}  // namespace

struct SubmissionQueue::State {
  struct Item {
    Frame frame;
    Clock::time_point entered;
    Answered done;
  };

  State(int in_flight, Score function)
      : capacity(in_flight), room(in_flight), score(std::move(function)) {}

  const int capacity;
  const pid_t owner = getpid();
  FairSemaphore room;
  const Score score;
  std::vector<std::thread> workers;

  std::mutex mutex;
  std::condition_variable work;  // a frame, or the end
  std::condition_variable turn;  // `answered` or `scoring` moved
  std::deque<Item> items;
  std::uint64_t taken = 0;
  std::uint64_t answered = 0;
  int scoring = 0;
  bool closed = false;
  bool cancelled = false;

  static thread_local const State* of_this_thread;

  void loop();
  // False: closed, and nothing is left.
  bool next(Item& item, std::uint64_t& number, bool& is_cancelled);
  Answer answer(const Item& item, bool is_cancelled);
  void wait_for_turn(std::uint64_t number);
  void end_turn();
};

thread_local const SubmissionQueue::State* SubmissionQueue::State::of_this_thread = nullptr;

bool SubmissionQueue::State::next(Item& item, std::uint64_t& number, bool& is_cancelled) {
  std::unique_lock<std::mutex> lock(mutex);
  work.wait(lock, [&] { return !items.empty() || closed; });
  if (items.empty()) return false;
  item = std::move(items.front());
  items.pop_front();
  number = taken++;
  is_cancelled = cancelled;
  if (!is_cancelled) ++scoring;
  return true;
}

Answer SubmissionQueue::State::answer(const Item& item, bool is_cancelled) {
  Answer answer;
  if (is_cancelled) {
    answer.error = std::make_exception_ptr(
        Error("the detector was closed before this frame's turn came, and it was not scored: close "
              "it with drain to have every frame answered"));
    return answer;
  }
  try {
    answer.result = score(item.frame, item.entered);
  } catch (...) {
    answer.error = std::current_exception();
  }
  const std::lock_guard<std::mutex> lock(mutex);
  --scoring;
  turn.notify_all();
  return answer;
}

void SubmissionQueue::State::wait_for_turn(std::uint64_t number) {
  std::unique_lock<std::mutex> lock(mutex);
  turn.wait(lock, [&] { return answered == number; });
}

void SubmissionQueue::State::end_turn() {
  const std::lock_guard<std::mutex> lock(mutex);
  ++answered;
  turn.notify_all();
}

void SubmissionQueue::State::loop() {
  of_this_thread = this;
  Item item;
  std::uint64_t number = 0;
  bool is_cancelled = false;
  while (next(item, number, is_cancelled)) {
    {
      Answer answered_with = answer(item, is_cancelled);
      wait_for_turn(number);
      // Before the answer: who has it may hand in the next frame at once.
      room.give();
      try {
        item.done(std::move(answered_with));
      } catch (...) {  // nothing here hangs on it, and a thread that throws ends the process
      }
      item.done = nullptr;
    }  // whatever the frame and its answer held is gone when close() returns
    end_turn();
  }
}

SubmissionQueue::SubmissionQueue(int in_flight, const ThreadPlacement& placement, Score score)
    : state_(std::make_shared<State>(in_flight, std::move(score))) {
  try {
    for (int worker = 0; worker < in_flight; ++worker) {
      std::promise<void> started;
      std::future<void> ready = started.get_future();
      state_->workers.emplace_back(
          [state = state_, worker, placement, started = std::move(started)]() mutable {
            try {
              name_this_thread(worker);
              place_this_thread(placement);
            } catch (...) {
              started.set_exception(std::current_exception());
              return;
            }
            started.set_value();
            state->loop();
          });
      ready.get();
    }
  } catch (const std::system_error& error) {
    end();
    throw Error("no " + std::to_string(in_flight) +
                " threads for the frames in flight can be started (" + error.what() +
                "): ask for fewer frames in flight");
  } catch (...) {
    end();
    throw;
  }
}

SubmissionQueue::~SubmissionQueue() { end(); }

void SubmissionQueue::end() {
  State& state = *state_;
  if (state.owner != getpid()) {
    // After fork() the threads exist in the parent only: what they wait on cannot be destroyed.
    static_cast<void>(new std::shared_ptr<State>(state_));
    return;
  }
  close(false);
  if (!is_own_thread()) {
    for (std::thread& worker : state.workers) worker.join();
    return;
  }
  // Inside a `done`: the threads end by themselves, and none calls `score` from here on.
  std::unique_lock<std::mutex> lock(state.mutex);
  state.turn.wait(lock, [&] { return state.scoring == 0; });
  for (std::thread& worker : state.workers) worker.detach();
}

void SubmissionQueue::push(const Frame& frame, Answered done,
                           std::optional<std::chrono::nanoseconds> timeout) {
  const Clock::time_point entered = Clock::now();
  State& state = *state_;
  if (state.owner != getpid()) {
    throw Error(
        "this process was forked from the one that opened the detector, whose threads did not come "
        "along: open the model here");
  }
  const bool own = is_own_thread();
  if (own) timeout = std::chrono::nanoseconds(0);
  std::optional<Clock::time_point> deadline;
  if (timeout && *timeout < kForEver) deadline = entered + *timeout;
  switch (state.room.take(deadline)) {
    case FairSemaphore::Taken::kYes:
      break;
    case FairSemaphore::Taken::kTimedOut:
      throw BusyError(full(state.capacity, own, *timeout));
    case FairSemaphore::Taken::kClosed:
      throw Error(kClosed);
  }
  const std::lock_guard<std::mutex> lock(state.mutex);
  if (state.closed) {
    state.room.give();
    throw Error(kClosed);
  }
  state.items.push_back({frame, entered, std::move(done)});
  state.work.notify_one();
}

int SubmissionQueue::waiting() const { return state_->room.waiting(); }

bool SubmissionQueue::is_own_thread() const noexcept {
  return State::of_this_thread == state_.get();
}

void SubmissionQueue::close(bool drain) {
  State& state = *state_;
  if (state.owner != getpid()) return;
  {
    const std::lock_guard<std::mutex> lock(state.mutex);
    state.closed = true;
    state.cancelled = state.cancelled || !drain;
  }
  state.room.close();
  state.work.notify_all();
  if (is_own_thread()) return;
  std::unique_lock<std::mutex> lock(state.mutex);
  state.turn.wait(lock, [&] { return state.items.empty() && state.answered == state.taken; });
}

}  // namespace agp_edge
