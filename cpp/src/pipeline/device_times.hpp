// When the GPU was done with each part of a frame's work: CUDA events between the parts.
//
// Owns     the events.
// Threads  not re-entrant. The context is current in every call.
// Blocks   never; put() throws DeviceError.
#pragma once

#include <array>
#include <cstddef>
#include <memory>

#include "agp_edge/engine.hpp"
#include "cuda/cuda_driver.hpp"

namespace agp_edge {

class DeviceTimes {
 public:
  enum Mark : std::size_t { kBegun, kUploaded, kPreprocessed, kExecuted, kPostprocessed, kEnded };

  explicit DeviceTimes(const std::shared_ptr<const cuda::Context>& context)
      : events_{{Event(context), Event(context), Event(context), Event(context), Event(context),
                 Event(context)}} {}

  // `recording`: the stream is being recorded as a graph, of which the mark becomes a node.
  void put(Mark mark, Stream stream, bool recording) { events_[mark].mark(stream, recording); }

  // Milliseconds of the GPU, from one mark to a later one; the work is done.
  double between(Mark from, Mark to) const { return events_[to].milliseconds_since(events_[from]); }

 private:
  using Event = cuda::TimedEvent;
  std::array<Event, 6> events_;
};

}  // namespace agp_edge
