// A NumPy image borrowed as a Frame.
//
// Owns     a reference to the array; made and destroyed with the GIL held.
// Borrows  its pixels, which stay where they are while this lives.
#pragma once

#include <pybind11/numpy.h>

#include <optional>
#include <string>

#include "agp_edge/frame.hpp"

namespace agp_edge::bindings {

class BorrowedFrame {
 public:
  // uint8 (height, width, 3), BGR unless `format` says "rgb8"; uint8 (height, width), mono unless
  // it names a bayer pattern, or (height * 3 / 2, width) for "nv12"; uint16 (height, width), whose
  // format has to be named. Rows may be any distance apart; pixels that are not side by side are
  // copied, once. Throws FrameError.
  BorrowedFrame(const pybind11::object& image, const std::optional<std::string>& format);

  const Frame& frame() const noexcept { return frame_; }

 private:
  pybind11::array array_;
  Frame frame_;
};

// (x, y, width, height) in frame pixels.
Rect rect_from(const pybind11::tuple& tuple, const char* what);
pybind11::tuple tuple_from(const Rect& rect);

}  // namespace agp_edge::bindings
