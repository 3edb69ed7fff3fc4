#include "pipeline/slots.hpp"

#include <utility>

#include "agp_edge/error.hpp"

namespace agp_edge {

void Slots::add(std::unique_ptr<Pipeline> pipeline) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    slots_.push_back({std::move(pipeline), {}});
  }
  free_.give();
}

int Slots::size() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return static_cast<int>(slots_.size());
}

Slots::Hold Slots::take() {
  const std::thread::id self = std::this_thread::get_id();
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const Slot& slot : slots_) {
      if (slot.holder == self) {
        throw ModelError(
            "score() was called by its own engine's function, which has to return first: give that "
            "function a detector of its own");
      }
    }
  }
  free_.take();
  const std::lock_guard<std::mutex> lock(mutex_);
  std::size_t index = 0;
  while (slots_[index].holder != std::thread::id()) ++index;  // the permit says that there is one
  slots_[index].holder = self;
  return {*this, index, *slots_[index].pipeline};
}

void Slots::give_back(std::size_t index) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    slots_[index].holder = {};
  }
  free_.give();
}

}  // namespace agp_edge
