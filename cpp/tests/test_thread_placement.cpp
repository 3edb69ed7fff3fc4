// Which CPUs and which priority the threads have that work on frames, asked inside the engine.
#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include "agp_edge/detector.hpp"
#include "agp_edge/error.hpp"
#include "check.hpp"
#include "gated_engine.hpp"

using namespace agp_edge;
using gated::Gate;
using gated::Grey;

namespace {

int cpus_of_this_thread(int& last) {
  cpu_set_t set;
  CPU_ZERO(&set);
  sched_getaffinity(0, sizeof(set), &set);
  for (unsigned cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) last = static_cast<int>(cpu);
  }
  return CPU_COUNT(&set);
}

bool may_be_real_time() {
  bool may = false;
  std::thread([&] {
    sched_param parameters{};
    parameters.sched_priority = 5;
    may = pthread_setschedparam(pthread_self(), SCHED_FIFO, &parameters) == 0;
  }).join();
  return may;
}

// What the engine saw.
struct Seen {
  std::atomic<int> cpus{0};
  std::atomic<int> cpu{-1};
  std::atomic<int> policy{-1};
  std::atomic<int> priority{-1};

  std::shared_ptr<Engine> engine() {
    return std::make_shared<gated::Engine>(std::make_shared<Gate>(), true, [this](float) {
      int last = -1;
      cpus = cpus_of_this_thread(last);
      cpu = last;
      sched_param parameters{};
      int scheduling = 0;
      pthread_getschedparam(pthread_self(), &scheduling, &parameters);
      policy = scheduling;
      priority = parameters.sched_priority;
    });
  }
};

Manifest manifest() { return Manifest::parse(models::manifest().dump(), "test"); }

}  // namespace

TEST(every_frame_is_worked_on_where_it_was_asked_for) {
  int last = -1;
  const int usable = cpus_of_this_thread(last);
  Seen seen;
  DetectorOptions options;
  options.placement.cpus = {last};
  const Grey grey(50);
  Detector detector(manifest(), seen.engine(), options);
  detector.submit(grey.frame()).get();
  CHECK(seen.cpus == 1 && seen.cpu == last);
  seen.cpus = 0;
  detector.score(grey.frame());
  CHECK(seen.cpus == 1 && seen.cpu == last && seen.policy == SCHED_OTHER);
  // The caller's own threads stay as they were.
  CHECK(cpus_of_this_thread(last) == usable);
}

TEST(a_cpu_that_is_not_there) {
  for (const int cpu : {-1, 1000, 100000}) {
    Seen seen;
    DetectorOptions options;
    options.placement.cpus = {0, cpu};
    CHECK_THROWS(Detector(manifest(), seen.engine(), options), Error,
                 "the CPU " + std::to_string(cpu) + " was given for the detector's threads, one");
  }
}

TEST(real_time_priority) {
  Seen seen;
  DetectorOptions options;
  options.placement.priority = 7;
  const Grey grey(50);
  if (may_be_real_time()) {
    Detector detector(manifest(), seen.engine(), options);
    detector.score(grey.frame());
    CHECK(seen.policy == SCHED_FIFO && seen.priority == 7);
  } else {
    CHECK_THROWS(Detector(manifest(), seen.engine(), options), Error,
                 "the real-time priority 7 is not permitted to this process");
  }
  for (const int wrong : {-1, 100}) {
    options.placement.priority = wrong;
    CHECK_THROWS(Detector(manifest(), seen.engine(), options), Error,
                 "the priority " + std::to_string(wrong) +
                     " was given for the detector's threads, 1 to 99 is expected");
  }
}

TEST(work_in_a_placed_thread) {
  int last = -1;
  cpus_of_this_thread(last);
  ThreadPlacement placement;
  const auto self = std::this_thread::get_id();
  run_placed(placement, [&] { CHECK(std::this_thread::get_id() == self); });
  placement.cpus = {last};
  run_placed(placement, [&] {
    int cpu = -1;
    CHECK(cpus_of_this_thread(cpu) == 1 && cpu == last);
    // Threads that it starts are where it is.
    std::thread([&] { CHECK(cpus_of_this_thread(cpu) == 1 && cpu == last); }).join();
  });
  CHECK_THROWS(run_placed(placement, [] { throw ModelError("inside"); }), ModelError, "inside");
}

CHECK_MAIN()
