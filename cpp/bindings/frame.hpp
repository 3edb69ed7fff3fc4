// An image of Python's borrowed as a Frame: NumPy, the buffer protocol, CUDA's array interface,
// DLPack.
//
// Owns     a reference to the array; made and destroyed with the GIL held.
// Borrows  its pixels, which stay where they are while this lives.
#pragma once

#include <pybind11/numpy.h>

#include <optional>
#include <string>
#include <vector>

#include "agp_edge/frame.hpp"
#include "pixel_array.hpp"

namespace agp_edge::bindings {

inline constexpr const char* kExpectedFrame =
    "uint8 (height, width, 3) BGR or (height, width) mono is expected";

class BorrowedFrame {
 public:
  // uint8 (height, width, 3), BGR unless `format` says "rgb8"; uint8 (height, width), mono unless
  // it names a bayer pattern, or (height * 3 / 2, width) for "nv12"; uint16 (height, width), whose
  // format has to be named. Rows may be any distance apart; pixels of a NumPy array that are not
  // side by side are copied, once. Throws FrameError.
  BorrowedFrame(const pybind11::object& image, const std::optional<std::string>& format);

  const Frame& frame() const noexcept { return frame_; }

 private:
  PixelArray pixels_;
  Frame frame_;
};

// Of an array that holds one frame of the format: "|u1" or "<u2", and its sides.
struct ArrayLayout {
  const char* dtype;
  std::vector<pybind11::ssize_t> shape;
};
ArrayLayout layout_of(const Frame& frame);

// (x, y, width, height) in frame pixels.
Rect rect_from(const pybind11::tuple& tuple, const char* what);
pybind11::tuple tuple_from(const Rect& rect);

}  // namespace agp_edge::bindings
