#include "agp_edge/frame.hpp"

#include <string>

#include "agp_edge/error.hpp"

namespace agp_edge {

int bytes_per_pixel(PixelFormat format) noexcept { return format == PixelFormat::kMono8 ? 1 : 3; }

const char* to_string(PixelFormat format) noexcept {
  switch (format) {
    case PixelFormat::kBgr8:
      return "bgr8";
    case PixelFormat::kRgb8:
      return "rgb8";
    case PixelFormat::kMono8:
      return "mono8";
  }
  return "unknown";
}

PixelFormat pixel_format_from(const std::string& name) {
  for (PixelFormat format : {PixelFormat::kBgr8, PixelFormat::kRgb8, PixelFormat::kMono8}) {
    if (name == to_string(format)) return format;
  }
  throw FrameError("the frame's pixel format is \"" + name +
                   "\"; expected \"bgr8\", \"rgb8\" or \"mono8\"");
}

void Frame::validate() const {
  if (height <= 0 || width <= 0) {
    throw FrameError(
        "the frame is " + std::to_string(width) + " x " + std::to_string(height) +
        " pixels; expected both sides to be at least 1: check the camera's image size");
  }
  if (data == nullptr) {
    throw FrameError("the frame of " + std::to_string(width) + " x " + std::to_string(height) +
                     " pixels has no data (null pointer); expected the address of its first row");
  }
  const std::size_t row = static_cast<std::size_t>(width) * bytes_per_pixel(format);
  if (row_pitch < row) {
    throw FrameError("the frame's row pitch is " + std::to_string(row_pitch) +
                     " bytes; expected at least " + std::to_string(row) + " for " +
                     std::to_string(width) + " pixels of " + to_string(format) +
                     ": give the pitch in bytes, not in pixels");
  }
}

}  // namespace agp_edge
