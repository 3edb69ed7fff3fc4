#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>
#include <vector>

#include "check.hpp"
#include "cpu/fair_semaphore.hpp"

using agp_edge::FairSemaphore;
using Clock = FairSemaphore::Clock;
using Taken = FairSemaphore::Taken;
using std::chrono::milliseconds;

TEST(permits_are_counted) {
  FairSemaphore semaphore(2);
  const auto now = Clock::now();
  CHECK(semaphore.take() == Taken::kYes);
  CHECK(semaphore.take(now) == Taken::kYes);
  CHECK(semaphore.take(now) == Taken::kTimedOut);
  CHECK(semaphore.take(Clock::now() + milliseconds(5)) == Taken::kTimedOut);
  semaphore.give(2);
  CHECK(semaphore.take(now) == Taken::kYes && semaphore.take(now) == Taken::kYes);
  CHECK(semaphore.take(now) == Taken::kTimedOut);
}

// Threads that come one after the other leave in the same order, whoever gives up between them.
TEST(who_waits_longest_is_next) {
  constexpr int kThreads = 12;
  FairSemaphore semaphore(0);
  std::vector<int> order;
  std::mutex order_mutex;
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    const bool gives_up = i % 3 == 1;
    threads.emplace_back([&, i, gives_up] {
      const auto deadline = Clock::now() + milliseconds(gives_up ? 1 : 60000);
      if (semaphore.take(deadline) != Taken::kYes) return;
      {
        const std::lock_guard<std::mutex> lock(order_mutex);
        order.push_back(i);
      }
      semaphore.give();
    });
    // Long enough to be asleep in take(), also on a busy machine.
    std::this_thread::sleep_for(milliseconds(20));
  }
  semaphore.give();
  for (std::thread& thread : threads) thread.join();
  CHECK((order == std::vector<int>{0, 2, 3, 5, 6, 8, 9, 11}));
}

TEST(closing_wakes_everyone) {
  FairSemaphore semaphore(0);
  std::atomic<int> closed{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] { closed += semaphore.take() == Taken::kClosed ? 1 : 0; });
  }
  std::this_thread::sleep_for(milliseconds(5));
  semaphore.close();
  for (std::thread& thread : threads) thread.join();
  CHECK(closed == 4);
  semaphore.give();
  CHECK(semaphore.take() == Taken::kClosed);
}

TEST(under_load_no_permit_is_lost) {
  FairSemaphore semaphore(3);
  std::atomic<int> inside{0};
  std::atomic<int> most{0};
  std::atomic<int> taken{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 300; ++round) {
        const bool is_patient = (i + round) % 2 == 0;
        const auto deadline = Clock::now() + (is_patient ? milliseconds(60000) : milliseconds(0));
        if (semaphore.take(deadline) != Taken::kYes) continue;
        const int now = ++inside;
        int seen = most;
        while (now > seen && !most.compare_exchange_weak(seen, now)) {
        }
        ++taken;
        --inside;
        semaphore.give();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(most <= 3 && inside == 0 && taken >= 1200);
  for (int i = 0; i < 3; ++i) CHECK(semaphore.take(Clock::now()) == Taken::kYes);
  CHECK(semaphore.take(Clock::now()) == Taken::kTimedOut);
}

CHECK_MAIN()
