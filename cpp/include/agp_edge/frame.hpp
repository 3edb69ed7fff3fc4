// One camera frame as the camera left it: a borrowed view, never a copy.
//
// Borrows  `data`; the caller keeps it alive and unchanged until the call that took it returns.
// Units    height and width in pixels, row_pitch in bytes (at least width * bytes per pixel).
//          Two-byte pixels lie on even addresses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "agp_edge/memory.hpp"

namespace agp_edge {

// What lies in memory, by GenICam's names in lower case. The values are brought to 8-bit pixel
// units, which is what PreprocessRecipe's mean and stddev are in, without rounding.
//   bgr8, rgb8       3 bytes a pixel, interleaved
//   mono8            1 byte a pixel
//   mono10 12 16     2 bytes a pixel, little endian, the value in the low bits: value * 255 /
//   (2^bits
//                    - 1). Cameras that put it in the high bits send mono16. Not the packed forms.
//   bayer_*8, *12    1 or 2 bytes (as mono12) a pixel; the four letters are the colours of the
//   first
//                    two pixels of the frame's first two rows. Demosaiced bilinearly, see below.
//   nv12             height rows of Y, then height / 2 rows of interleaved U and V, the same pitch
//                    between all of them. BT.601 limited range, as cv2.COLOR_YUV2RGB_NV12, equal to
//                    it in every bit.
//
// Bilinear demosaicing, before the resize: a pixel keeps its own colour; a missing colour is the
// mean of the nearest neighbours that have it: two beside or above and below, four beside, above
// and below (green), or four on the diagonals. Neighbours outside of the frame are mirrored about
// the edge pixel (index -1 is 1), which keeps the pattern; those outside of a region of interest
// are the frame's real ones.
enum class PixelFormat : std::uint8_t {
  kBgr8,
  kRgb8,
  kMono8,
  kMono10,
  kMono12,
  kMono16,
  kBayerRggb8,
  kBayerGrbg8,
  kBayerGbrg8,
  kBayerBggr8,
  kBayerRggb12,
  kBayerGrbg12,
  kBayerGbrg12,
  kBayerBggr12,
  kNv12,
};

// How the bytes have to be read.
enum class PixelLayout : std::uint8_t { kColour8, kMono8, kMono16, kBayer8, kBayer16, kNv12 };

PixelLayout layout_of(PixelFormat format) noexcept;

// Bytes that one pixel takes in a row; of nv12, in a row of Y.
int bytes_per_pixel(PixelFormat format) noexcept;

// Largest value that a pixel holds: 255, 1023, 4095 or 65535.
int largest_value(PixelFormat format) noexcept;

// Where a bayer pattern has red: column and row of the first red pixel, each 0 or 1.
struct RedPixel {
  int x;
  int y;
};
RedPixel red_pixel(PixelFormat format) noexcept;

// "bgr8", "mono12", "bayer_rggb8", "nv12"...
const char* to_string(PixelFormat format) noexcept;

// Throws FrameError that lists the known names.
PixelFormat pixel_format_from(const std::string& name);

struct Frame {
  const std::uint8_t* data = nullptr;
  int height = 0;
  int width = 0;
  std::size_t row_pitch = 0;
  PixelFormat format = PixelFormat::kBgr8;
  Memory memory = Memory::kHost;  // where `data` points
  int device = 0;                 // kDevice: index of the GPU, or -1: the driver knows
  // kDevice: the stream whose work so far makes the pixels; the GPU waits for it, the caller does
  // not. Null: they are there. CUDA's names of the default streams are 1 (legacy), 2 (per thread).
  Stream stream = nullptr;

  // Throws FrameError: null data, or what validate_geometry() refuses.
  void validate() const;

  // Throws FrameError: a side of zero or less, a pitch shorter than a row, a bayer frame with a
  // side of one pixel (odd sides are fine), nv12 with an odd side, two-byte pixels at an odd pitch.
  void validate_geometry() const;

  // Rows in memory: height, or half as many more for nv12.
  int rows() const noexcept;

  // From the first row's first byte to the last row's last pixel.
  std::size_t bytes() const noexcept;
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
