#include "agp_edge/frame.hpp"

#include <array>
#include <string>

#include "agp_edge/error.hpp"

namespace agp_edge {
namespace {

struct Entry {
  PixelFormat format;
  const char* name;
  PixelLayout layout;
  int largest;
  RedPixel red;
};

// In the order of the enumeration.
constexpr std::array<Entry, 15> kFormats = {{
    {PixelFormat::kBgr8, "bgr8", PixelLayout::kColour8, 255, {0, 0}},
    {PixelFormat::kRgb8, "rgb8", PixelLayout::kColour8, 255, {0, 0}},
    {PixelFormat::kMono8, "mono8", PixelLayout::kMono8, 255, {0, 0}},
    {PixelFormat::kMono10, "mono10", PixelLayout::kMono16, 1023, {0, 0}},
    {PixelFormat::kMono12, "mono12", PixelLayout::kMono16, 4095, {0, 0}},
    {PixelFormat::kMono16, "mono16", PixelLayout::kMono16, 65535, {0, 0}},
    {PixelFormat::kBayerRggb8, "bayer_rggb8", PixelLayout::kBayer8, 255, {0, 0}},
    {PixelFormat::kBayerGrbg8, "bayer_grbg8", PixelLayout::kBayer8, 255, {1, 0}},
    {PixelFormat::kBayerGbrg8, "bayer_gbrg8", PixelLayout::kBayer8, 255, {0, 1}},
    {PixelFormat::kBayerBggr8, "bayer_bggr8", PixelLayout::kBayer8, 255, {1, 1}},
    {PixelFormat::kBayerRggb12, "bayer_rggb12", PixelLayout::kBayer16, 4095, {0, 0}},
    {PixelFormat::kBayerGrbg12, "bayer_grbg12", PixelLayout::kBayer16, 4095, {1, 0}},
    {PixelFormat::kBayerGbrg12, "bayer_gbrg12", PixelLayout::kBayer16, 4095, {0, 1}},
    {PixelFormat::kBayerBggr12, "bayer_bggr12", PixelLayout::kBayer16, 4095, {1, 1}},
    {PixelFormat::kNv12, "nv12", PixelLayout::kNv12, 255, {0, 0}},
}};

const Entry& entry(PixelFormat format) noexcept {
  return kFormats[static_cast<std::size_t>(format)];
}

std::string size_text(const Frame& frame) {
  return std::to_string(frame.width) + " x " + std::to_string(frame.height) + " pixels";
}

}  // namespace

PixelLayout layout_of(PixelFormat format) noexcept { return entry(format).layout; }

int bytes_per_pixel(PixelFormat format) noexcept {
  switch (layout_of(format)) {
    case PixelLayout::kColour8:
      return 3;
    case PixelLayout::kMono16:
    case PixelLayout::kBayer16:
      return 2;
    default:
      return 1;
  }
}

int largest_value(PixelFormat format) noexcept { return entry(format).largest; }

RedPixel red_pixel(PixelFormat format) noexcept { return entry(format).red; }

const char* to_string(PixelFormat format) noexcept { return entry(format).name; }

PixelFormat pixel_format_from(const std::string& name) {
  std::string known;
  for (const Entry& each : kFormats) {
    if (name == each.name) return each.format;
    known += std::string(known.empty() ? "\"" : ", \"") + each.name + "\"";
  }
  throw FrameError("the frame's pixel format is \"" + name + "\"; expected one of " + known);
}

int Frame::rows() const noexcept {
  return format == PixelFormat::kNv12 ? height + height / 2 : height;
}

std::size_t Frame::bytes() const noexcept {
  const std::size_t row = static_cast<std::size_t>(width) * bytes_per_pixel(format);
  return row_pitch * (static_cast<std::size_t>(rows()) - 1) + row;
}

void Frame::validate() const {
  validate_geometry();
  if (data == nullptr) {
    throw FrameError("the frame of " + size_text(*this) +
                     " has no data (null pointer); expected the address of its first row");
  }
  if (bytes_per_pixel(format) == 2 && reinterpret_cast<std::uintptr_t>(data) % 2 != 0) {
    throw FrameError(std::string("the frame's first row lies on an odd address; expected an even "
                                 "one for the two-byte pixels of ") +
                     to_string(format) + ": align the camera's buffer");
  }
}

void Frame::validate_geometry() const {
  if (height <= 0 || width <= 0) {
    throw FrameError("the frame is " + size_text(*this) +
                     "; expected both sides to be at least 1: check the camera's image size");
  }
  const PixelLayout layout = layout_of(format);
  const bool bayer = layout == PixelLayout::kBayer8 || layout == PixelLayout::kBayer16;
  if (bayer && (height < 2 || width < 2)) {
    throw FrameError("the frame of " + std::string(to_string(format)) + " is " + size_text(*this) +
                     "; expected at least 2 x 2, one pattern of its colours");
  }
  if (layout == PixelLayout::kNv12 && (height % 2 != 0 || width % 2 != 0)) {
    throw FrameError("the frame of nv12 is " + size_text(*this) +
                     "; expected even sides, since 2 x 2 pixels share their colour: set the "
                     "camera's or decoder's image size to even numbers");
  }
  const std::size_t row = static_cast<std::size_t>(width) * bytes_per_pixel(format);
  if (row_pitch < row) {
    throw FrameError("the frame's row pitch is " + std::to_string(row_pitch) +
                     " bytes; expected at least " + std::to_string(row) + " for " +
                     std::to_string(width) + " pixels of " + to_string(format) +
                     ": give the pitch in bytes, not in pixels");
  }
  if (bytes_per_pixel(format) == 2 && row_pitch % 2 != 0) {
    throw FrameError("the frame's row pitch is " + std::to_string(row_pitch) +
                     " bytes; expected an even number for the two-byte pixels of " +
                     to_string(format));
  }
}

}  // namespace agp_edge
