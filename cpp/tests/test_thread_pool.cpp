#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <vector>

#include "check.hpp"
#include "cpu/thread_pool.hpp"

using agp_edge::ThreadPool;

TEST(every_chunk_is_done_once) {
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    CHECK(pool.threads() == threads);
    for (int round = 0; round < 200; ++round) {
      const int chunks = round % 40;
      std::vector<std::atomic<int>> done(static_cast<std::size_t>(chunks));
      std::atomic<bool> worker_in_range{true};
      pool.run(chunks, [&](int chunk, int worker) {
        done[static_cast<std::size_t>(chunk)].fetch_add(1);
        if (worker < 0 || worker >= threads) worker_in_range = false;
      });
      for (const auto& count : done) CHECK(count.load() == 1);
      CHECK(worker_in_range.load());
    }
  }
}

TEST(a_forked_child_works_alone_and_ends) {
  ThreadPool* pool = new ThreadPool(3);
  std::atomic<int> sum{0};
  pool->run(10, [&](int chunk, int) { sum += chunk; });
  CHECK(sum.load() == 45);
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);  // a deadlock ends as a signal
    std::atomic<int> mine{0};
    pool->run(10, [&](int chunk, int) { mine += chunk; });
    delete pool;
    _exit(mine.load() == 45 ? 0 : 1);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  delete pool;
}

TEST(this_process_has_at_least_one_core) { CHECK(agp_edge::usable_cores() >= 1); }

CHECK_MAIN()
