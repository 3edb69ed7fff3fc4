#include "frame.hpp"

#include <cstdint>
#include <limits>
#include <utility>

#include "agp_edge/error.hpp"

namespace agp_edge::bindings {
namespace {

namespace py = pybind11;

constexpr const char* kNameFormat =
    "format='mono10', 'mono12', 'mono16' or a 12-bit bayer format is expected with it, which says "
    "how many bits the camera fills";

// What an array has to be to hold that format.
struct ArrayShape {
  int itemsize;
  int axes;
  const char* text;
};

ArrayShape shape_of(PixelFormat format) {
  switch (layout_of(format)) {
    case PixelLayout::kColour8:
      return {1, 3, "uint8 (height, width, 3)"};
    case PixelLayout::kNv12:
      return {1, 2, "uint8 (height * 3 / 2, width)"};
    case PixelLayout::kMono16:
    case PixelLayout::kBayer16:
      return {2, 2, "uint16 (height, width)"};
    default:
      return {1, 2, "uint8 (height, width)"};
  }
}

PixelFormat format_of(const PixelArray& pixels, const std::optional<std::string>& format) {
  const bool is_colour = pixels.axes() == 3 && pixels.shape[2] == 3;
  if (format) {
    const PixelFormat named = pixel_format_from(*format);
    const ArrayShape expected = shape_of(named);
    if (!pixels.is_unsigned || pixels.itemsize != expected.itemsize ||
        pixels.axes() != expected.axes || (expected.axes == 3 && !is_colour) ||
        pixels.is_big_endian) {
      throw FrameError("the frame is " + pixels.text() + " but its format is given as '" + *format +
                       "', for which " + expected.text + " is expected");
    }
    return named;
  }
  if (pixels.is_unsigned && pixels.itemsize == 2 && pixels.axes() == 2) {
    throw FrameError("the frame is " + pixels.text() + ", " + kNameFormat);
  }
  if (!pixels.is_unsigned || pixels.itemsize != 1 || (pixels.axes() != 2 && !is_colour)) {
    throw FrameError("the frame is " + pixels.text() + ", " + kExpectedFrame);
  }
  return is_colour ? PixelFormat::kBgr8 : PixelFormat::kMono8;
}

int side(py::ssize_t length) {
  if (length > std::numeric_limits<int>::max()) {
    throw FrameError("the frame has a side of " + std::to_string(length) +
                     " pixels, at most 2147483647 are expected");
  }
  return static_cast<int>(length);
}

bool is_misaligned(const PixelArray& pixels) {
  return pixels.itemsize == 2 && (reinterpret_cast<std::uintptr_t>(pixels.data) % 2 != 0 ||
                                  (pixels.shape[0] > 1 && pixels.strides[0] % 2 != 0));
}

// Rows of pixels side by side, copied if need be; that can be done with a NumPy array only.
PixelArray packed(PixelArray pixels) {
  if (pixels.empty() || (!is_misaligned(pixels) && pixels.rows_are_packed())) return pixels;
  if (!py::isinstance<py::array>(pixels.owner)) {
    throw FrameError("the frame is " + pixels.text() +
                     " and the pixels of its rows do not lie side by side: make it contiguous, in "
                     "the order of height, width, channels");
  }
  return pixels_of(py::array(pixels.owner.attr("copy")("C")));
}

}  // namespace

BorrowedFrame::BorrowedFrame(const py::object& image, const std::optional<std::string>& format)
    : pixels_(pixels_of(image)) {
  frame_.format = format_of(pixels_, format);
  frame_.height = side(pixels_.shape[0]);
  frame_.width = side(pixels_.shape[1]);
  const int rows = frame_.height;
  if (frame_.format == PixelFormat::kNv12) {
    if (rows % 3 != 0) {
      throw FrameError("the frame is " + pixels_.text() +
                       " but its format is given as 'nv12', for which height * 3 / 2 rows are "
                       "expected, a multiple of 3");
    }
    frame_.height = rows / 3 * 2;
  }
  pixels_ = packed(std::move(pixels_));
  // A single row's stride says nothing; NumPy may leave any number there.
  frame_.row_pitch = rows > 1 ? static_cast<std::size_t>(pixels_.strides[0])
                              : static_cast<std::size_t>(frame_.width) *
                                    static_cast<std::size_t>(bytes_per_pixel(frame_.format));
  frame_.data = static_cast<const std::uint8_t*>(pixels_.data);
  frame_.memory = pixels_.memory;
  frame_.device = pixels_.device;
  frame_.stream = pixels_.stream;
  frame_.validate();
}

ArrayLayout layout_of(const Frame& frame) {
  std::vector<py::ssize_t> sides = {frame.rows(), frame.width};
  if (shape_of(frame.format).axes == 3) sides.push_back(3);
  return {shape_of(frame.format).itemsize == 2 ? "<u2" : "|u1", sides};
}

Rect rect_from(const py::tuple& tuple, const char* what) {
  if (tuple.size() != 4) {
    throw FrameError(std::string(what) + " has " + std::to_string(tuple.size()) +
                     " numbers, four are expected (x, y, width, height)");
  }
  try {
    return {tuple[0].cast<int>(), tuple[1].cast<int>(), tuple[2].cast<int>(), tuple[3].cast<int>()};
  } catch (const py::cast_error&) {
    throw FrameError(std::string(what) + " is " + py::repr(tuple).cast<std::string>() +
                     ", four integers are expected (x, y, width, height)");
  }
}

py::tuple tuple_from(const Rect& rect) {
  return py::make_tuple(rect.x, rect.y, rect.width, rect.height);
}

}  // namespace agp_edge::bindings
