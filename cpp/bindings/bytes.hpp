// The bytes of a Python object with the buffer protocol: bytes, mmap.
//
// Borrows  the object's memory until the end of the scope; made and dropped with the GIL held.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>
#include <string_view>

namespace agp_edge::bindings {

class BorrowedBytes {
 public:
  // None: an empty view.
  explicit BorrowedBytes(const std::optional<pybind11::buffer>& object) {
    if (object) info_ = object->request();
  }

  std::string_view view() const noexcept {
    return {static_cast<const char*>(info_.ptr),
            static_cast<std::size_t>(info_.size * info_.itemsize)};
  }

 private:
  pybind11::buffer_info info_;
};

}  // namespace agp_edge::bindings
