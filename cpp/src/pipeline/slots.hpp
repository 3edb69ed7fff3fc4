// The pipelines of one detector: a frame takes one of them for itself.
//
// Owns     the pipelines.
// Threads  any; add() also while others score. Not from inside a pipeline's own engine.
// Blocks   take() until a pipeline is free; who waits longest is next.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "agp_edge/pipeline.hpp"
#include "cpu/fair_semaphore.hpp"

namespace agp_edge {

class Slots {
 public:
  class Hold {
   public:
    Hold(Slots& slots, std::size_t index, Pipeline& pipeline)
        : slots_(slots), index_(index), pipeline_(pipeline) {}
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;
    ~Hold() { slots_.give_back(index_); }
    Pipeline& pipeline() const noexcept { return pipeline_; }

   private:
    Slots& slots_;
    std::size_t index_;
    Pipeline& pipeline_;
  };

  Slots() : free_(0) {}
  void add(std::unique_ptr<Pipeline> pipeline);
  int size() const;
  // The first one that is free, so that one frame at a time always meets the same warm buffers.
  // Throws ModelError in a thread that has one already: it would wait for itself.
  Hold take();
  int waiting() const { return free_.waiting(); }  // in take()

 private:
  struct Slot {
    std::unique_ptr<Pipeline> pipeline;
    std::thread::id holder;  // nobody: the default
  };
  void give_back(std::size_t index);

  FairSemaphore free_;
  mutable std::mutex mutex_;  // of the list; never held while waiting
  std::vector<Slot> slots_;
};

}  // namespace agp_edge
