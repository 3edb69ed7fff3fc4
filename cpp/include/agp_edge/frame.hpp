// One camera frame as the camera left it: a borrowed view, never a copy.
//
// Borrows  `data`; the caller keeps it alive and unchanged until the call that took it returns.
// Units    height and width in pixels, row_pitch in bytes (at least width * bytes per pixel).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace agp_edge {

enum class PixelFormat : std::uint8_t { kBgr8, kRgb8, kMono8 };

// Bytes that one pixel takes in memory.
int bytes_per_pixel(PixelFormat format) noexcept;

// "bgr8", "rgb8", "mono8".
const char* to_string(PixelFormat format) noexcept;

// Throws FrameError that lists the known names.
PixelFormat pixel_format_from(const std::string& name);

struct Frame {
  const std::uint8_t* data = nullptr;
  int height = 0;
  int width = 0;
  std::size_t row_pitch = 0;
  PixelFormat format = PixelFormat::kBgr8;

  // Throws FrameError: null data, a side of zero or less, a pitch shorter than a row.
  void validate() const;
};

// A rectangle in frame pixels; the right and bottom edges are x + width and y + height, exclusive.
struct Rect {
  int x = 0;
  int y = 0;
  int width = 0;
  int height = 0;

  bool empty() const noexcept { return width <= 0 || height <= 0; }
};

struct Point {
  double x = 0;
  double y = 0;

  bool operator==(const Point& other) const noexcept { return x == other.x && y == other.y; }
};

// A closed outline in frame pixels, at least three corners; edges may cross.
using Polygon = std::vector<Point>;

}  // namespace agp_edge
