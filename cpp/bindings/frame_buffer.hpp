// A FrameBuffer as a NumPy array.
#pragma once

#include <pybind11/numpy.h>

#include <string>

#include "agp_edge/engine.hpp"

namespace agp_edge::bindings {

// Writable and C-contiguous, as `format` asks for; the memory lives as long as the array and its
// views, whatever becomes of detector and engine. Throws FrameError, DeviceError.
pybind11::array frame_buffer(const Engine& engine, int height, int width,
                             const std::string& format);

}  // namespace agp_edge::bindings
