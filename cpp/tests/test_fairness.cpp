// Who is served how often, counted in turns: detectors that share one GPU, threads that submit to
// one queue, threads that score with one pipeline. Nothing here looks at a clock.
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "agp_edge/detector.hpp"
#include "check.hpp"
#include "gated_engine.hpp"
#include "pipeline/slots.hpp"
#include "pipeline/submission_queue.hpp"

namespace {

using namespace agp_edge;

// One accelerator: whoever comes stands in line, and the test serves the first.
class Turns {
 public:
  void pass(int who) {
    std::unique_lock<std::mutex> lock(mutex_);
    const std::size_t mine = arrived_++;
    line_.push_back(who);
    changed_.notify_all();
    changed_.wait(lock, [&] { return served_ > mine || open_; });
  }
  void wait_until(std::size_t standing) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return line_.size() >= standing; });
    CHECK(line_.size() == standing);  // bounded: there are never more
  }
  int serve() {
    const std::lock_guard<std::mutex> lock(mutex_);
    const int who = line_.front();
    line_.pop_front();
    ++served_;
    changed_.notify_all();
    return who;
  }
  void open() {
    const std::lock_guard<std::mutex> lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<int> line_;
  std::size_t arrived_ = 0;
  std::size_t served_ = 0;
  bool open_ = false;
};

std::shared_ptr<Engine> engine_of(Turns& turns, int who, bool has_clones) {
  // The gate stands open; the turn is waited for inside.
  return std::make_shared<gated::Engine>(std::make_shared<gated::Gate>(), has_clones,
                                         [&turns, who](float) { turns.pass(who); });
}

template <typename Waiting>
void wait_until(int count, const Waiting& waiting) {
  while (waiting() != count) std::this_thread::yield();
}

// Of each `many` turns everybody has one.
void check_equal_turns(const std::vector<int>& order, int many) {
  const auto period = static_cast<std::size_t>(many);
  for (std::size_t begin = 0; begin + period <= order.size(); begin += period) {
    for (int who = 0; who < many; ++who) {
      const auto first = order.begin() + static_cast<std::ptrdiff_t>(begin);
      CHECK(std::count(first, first + many, who) == 1);
    }
  }
}

constexpr int kTurns = 60;

}  // namespace

// However many frames wait at the greedy one: only those in flight stand before a frame of the
// other.
TEST(two_detectors_on_one_gpu) {
  constexpr int kGreedyInFlight = 3;
  const Manifest manifest = Manifest::parse(models::manifest().dump(), "test");
  const gated::Grey grey(50);
  Turns turns;
  DetectorOptions options;
  options.in_flight = kGreedyInFlight;
  Detector greedy(manifest, engine_of(turns, 0, true), options);
  Detector modest(manifest, engine_of(turns, 1, true));
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 2 * kGreedyInFlight; ++i) {
    threads.emplace_back([&] {
      while (!stop) greedy.score(grey.frame());
    });
  }
  threads.emplace_back([&] {
    while (!stop) modest.score(grey.frame());
  });
  int since_modest = 0;
  int served_modest = 0;
  for (int turn = 0; turn < kTurns; ++turn) {
    turns.wait_until(kGreedyInFlight + 1);
    if (turns.serve() == 1) {
      CHECK(served_modest == 0 || since_modest == kGreedyInFlight);
      since_modest = 0;
      ++served_modest;
    } else {
      CHECK(++since_modest <= kGreedyInFlight);
    }
  }
  CHECK(served_modest == kTurns / (kGreedyInFlight + 1));
  stop = true;
  turns.open();
  for (std::thread& thread : threads) thread.join();
}

TEST(threads_that_submit_to_one_queue) {
  constexpr int kThreads = 3;
  for (const int in_flight : {1, kThreads}) {
    Turns turns;
    const gated::Grey greys[kThreads] = {gated::Grey(0), gated::Grey(1), gated::Grey(2)};
    SubmissionQueue queue(in_flight, {},
                          [&](const Frame& frame, SubmissionQueue::Clock::time_point) {
                            turns.pass(frame.data[0]);
                            return Result();
                          });
    std::atomic<bool> stop{false};
    std::vector<std::thread> threads;
    for (const gated::Grey& grey : greys) {
      threads.emplace_back([&] {
        while (!stop) queue.push(grey.frame(), [](Answer&&) {}, std::nullopt);
      });
    }
    std::vector<int> order;
    for (int round = 0; round < kTurns / in_flight; ++round) {
      // As many are in as may be, and all three want in.
      turns.wait_until(static_cast<std::size_t>(in_flight));
      wait_until(kThreads, [&] { return queue.waiting(); });
      // Answers keep the order of submission, so that one alone might wait for the others.
      for (int i = 0; i < in_flight; ++i) order.push_back(turns.serve());
    }
    // Those that were in before all three stood in line came as they came.
    order.erase(order.begin(), order.begin() + in_flight);
    check_equal_turns(order, kThreads);
    stop = true;
    turns.open();
    for (std::thread& thread : threads) thread.join();
  }
}

TEST(threads_that_score_with_one_pipeline) {
  constexpr int kThreads = 4;
  const Manifest manifest = Manifest::parse(models::manifest().dump(), "test");
  const gated::Grey grey(50);
  Turns turns;
  std::atomic<int> scoring{0};
  const auto engine = std::make_shared<gated::Engine>(std::make_shared<gated::Gate>(), false,
                                                      [&](float) { turns.pass(scoring); });
  Slots slots;
  slots.add(std::make_unique<Pipeline>(engine, manifest.preprocess, manifest.postprocess));
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int who = 0; who < kThreads; ++who) {
    threads.emplace_back([&, who] {
      while (!stop) {
        const Slots::Hold slot = slots.take();
        scoring = who;
        slot.pipeline().score(grey.frame(), Decision{});
      }
    });
  }
  std::vector<int> order;
  for (int turn = 0; turn < kTurns; ++turn) {
    turns.wait_until(1);
    wait_until(kThreads - 1, [&] { return slots.waiting(); });
    order.push_back(turns.serve());
  }
  check_equal_turns(order, kThreads);
  stop = true;
  turns.open();
  for (std::thread& thread : threads) thread.join();
}

CHECK_MAIN()
