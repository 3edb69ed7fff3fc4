// Places of several arrays in one allocation.
#pragma once

#include <cstddef>

namespace agp_edge {

class DeviceLayout {
 public:
  // Where the next array begins, aligned for any load.
  std::size_t add(std::size_t bytes) {
    const std::size_t at = size_;
    size_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return at;
  }
  std::size_t size() const noexcept { return size_; }

 private:
  static constexpr std::size_t kAlignment = 256;
  std::size_t size_ = 0;
};

}  // namespace agp_edge
