// Float storage that starts on a cache line.
//
// Owns     its memory; movable.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

namespace agp_edge {

class AlignedBuffer {
 public:
  // One cache line, and the widest vector register that any of the stages uses.
  static constexpr std::size_t kAlignment = 64;

  explicit AlignedBuffer(std::size_t count) : size_(count) {
    const std::size_t bytes = (count * sizeof(float) + kAlignment - 1) / kAlignment * kAlignment;
    data_.reset(static_cast<float*>(std::aligned_alloc(kAlignment, bytes)));
    if (!data_) throw std::bad_alloc();
  }

  float* data() noexcept { return data_.get(); }
  const float* data() const noexcept { return data_.get(); }
  std::size_t size() const noexcept { return size_; }

 private:
  struct Free {
    void operator()(float* memory) const noexcept { std::free(memory); }
  };
  std::unique_ptr<float[], Free> data_;
  std::size_t size_;
};

}  // namespace agp_edge
