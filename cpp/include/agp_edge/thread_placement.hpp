// Where threads run, and how urgent they are.
#pragma once

#include <functional>
#include <vector>

namespace agp_edge {

struct ThreadPlacement {
  std::vector<int> cpus;  // the only CPUs that the threads may use; none: as the process's
  int priority = 0;       // 1 to 99: SCHED_FIFO of that priority; 0: as the process's

  bool empty() const noexcept { return cpus.empty() && priority == 0; }
};

// The calling thread, and every thread that it starts from now on. Throws Error: not a CPU of this
// process, a priority out of range or not permitted, no such thing on this system.
void place_this_thread(const ThreadPlacement& placement);

// Calls `work` in a thread of that placement and waits for it; where the placement says nothing, in
// the caller's own. Throws what either throws.
void run_placed(const ThreadPlacement& placement, const std::function<void()>& work);

}  // namespace agp_edge
