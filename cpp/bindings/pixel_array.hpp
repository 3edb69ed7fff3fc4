// Pixels of somebody else's, whatever offers them: NumPy and the buffer protocol, CUDA's array
// interface, DLPack. Never a copy.
//
// Owns     a reference to the pixels' owner; made and destroyed with the GIL held.
// Borrows  the pixels, which stay where they are while this lives.
#pragma once

#include <pybind11/numpy.h>

#include <memory>
#include <string>
#include <vector>

#include "agp_edge/memory.hpp"

namespace agp_edge::bindings {

struct PixelArray {
  const void* data = nullptr;
  Memory memory = Memory::kHost;
  int device = 0;  // -1: the driver knows
  Stream stream = nullptr;
  bool is_unsigned = false;
  bool is_big_endian = false;
  pybind11::ssize_t itemsize = 0;
  std::vector<pybind11::ssize_t> shape;
  std::vector<pybind11::ssize_t> strides;  // bytes
  std::string dtype;                       // for messages
  pybind11::object owner;
  std::shared_ptr<void> capsule;  // DLPack's, given back at the end

  pybind11::ssize_t axes() const { return static_cast<pybind11::ssize_t>(shape.size()); }
  bool empty() const;
  std::string text() const;  // "uint8 (480, 640, 3)"
  // Whether each row's pixels lie side by side and rows follow each other without overlap.
  bool rows_are_packed() const;
};

PixelArray pixels_of(const pybind11::array& array);

// Throws FrameError: an object that offers none of these, or offers them wrongly.
PixelArray pixels_of(const pybind11::object& image);

}  // namespace agp_edge::bindings
