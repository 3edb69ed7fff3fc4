#include "agp_edge/thread_placement.hpp"

#include <future>
#include <string>

#include "agp_edge/error.hpp"

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>

#include <cerrno>
#include <cstring>
#endif

namespace agp_edge {

#if defined(__linux__)
namespace {

std::string list_of(const cpu_set_t& set) {
  std::string text;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(static_cast<unsigned>(cpu), &set)) {
      text += (text.empty() ? "" : ", ") + std::to_string(cpu);
    }
  }
  return text;
}

void pin(const std::vector<int>& cpus) {
  cpu_set_t before;
  CPU_ZERO(&before);
  sched_getaffinity(0, sizeof(before), &before);
  cpu_set_t wanted;
  CPU_ZERO(&wanted);
  for (const int cpu : cpus) {
    if (cpu >= 0 && cpu < CPU_SETSIZE) CPU_SET(static_cast<unsigned>(cpu), &wanted);
  }
  // The kernel drops those that are not this process's, and refuses when none is left.
  cpu_set_t given;
  CPU_ZERO(&given);
  if (sched_setaffinity(0, sizeof(wanted), &wanted) == 0) {
    sched_getaffinity(0, sizeof(given), &given);
  }
  for (const int cpu : cpus) {
    if (cpu < 0 || cpu >= CPU_SETSIZE || !CPU_ISSET(static_cast<unsigned>(cpu), &given)) {
      throw Error("the CPU " + std::to_string(cpu) +
                  " was given for the detector's threads, one that this process may use is "
                  "expected (" +
                  list_of(before) + ")");
    }
  }
}

void raise(int priority) {
  const int lowest = sched_get_priority_min(SCHED_FIFO);
  const int highest = sched_get_priority_max(SCHED_FIFO);
  if (priority < lowest || priority > highest) {
    throw Error("the priority " + std::to_string(priority) +
                " was given for the detector's threads, " + std::to_string(lowest) + " to " +
                std::to_string(highest) + " is expected (SCHED_FIFO), or 0 for none");
  }
  sched_param parameters{};
  parameters.sched_priority = priority;
  const int status = pthread_setschedparam(pthread_self(), SCHED_FIFO, &parameters);
  if (status == 0) return;
  throw Error("the real-time priority " + std::to_string(priority) +
              " is not permitted to this process (" + std::strerror(status) +
              "): give it CAP_SYS_NICE or raise its limit (`ulimit -r " + std::to_string(priority) +
              "`, rtprio in /etc/security/limits.conf, "
              "LimitRTPRIO= of a systemd service), or leave priority at 0");
}

}  // namespace

void place_this_thread(const ThreadPlacement& placement) {
  if (!placement.cpus.empty()) pin(placement.cpus);
  if (placement.priority != 0) raise(placement.priority);
}
#else
void place_this_thread(const ThreadPlacement& placement) {
  if (!placement.empty()) {
    throw Error(
        "CPUs or a priority were given for the detector's threads, which this system has "
        "no call for: leave them out");
  }
}
#endif

void run_placed(const ThreadPlacement& placement, const std::function<void()>& work) {
  if (placement.empty()) return work();
  std::async(std::launch::async, [&] {
    place_this_thread(placement);
    work();
  }).get();
}

}  // namespace agp_edge
