#include "frame.hpp"

#include <limits>

#include "agp_edge/error.hpp"

namespace agp_edge::bindings {
namespace {

namespace py = pybind11;

constexpr const char* kExpected =
    "uint8 (height, width, 3) BGR or (height, width) mono is expected";
constexpr const char* kNameFormat =
    "format='mono10', 'mono12', 'mono16' or a 12-bit bayer format is expected with it, which says "
    "how many bits the camera fills";

std::string described(const py::array& array) {
  return py::str(array.dtype()).cast<std::string>() + " " +
         py::str(array.attr("shape")).cast<std::string>();
}

py::array as_array(const py::object& image) {
  if (py::isinstance<py::array>(image)) return py::reinterpret_borrow<py::array>(image);
  // Only what is a view of pixels: a list would be walked and copied, a PIL image is RGB unasked.
  if (PyObject_CheckBuffer(image.ptr()) != 0) {
    py::array array = py::array::ensure(image);
    if (array) return array;
    PyErr_Clear();
  }
  throw FrameError("the frame is a " + std::string(Py_TYPE(image.ptr())->tp_name) +
                   ", a NumPy array of " + kExpected);
}

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

PixelFormat format_of(const py::array& array, const std::optional<std::string>& format) {
  const bool is_unsigned = array.dtype().kind() == 'u';
  const bool is_colour = array.ndim() == 3 && array.shape(2) == 3;
  if (format) {
    const PixelFormat named = pixel_format_from(*format);
    const ArrayShape expected = shape_of(named);
    // byteorder: '=' native, '|' does not matter, '<' little endian on a big-endian machine.
    if (!is_unsigned || array.itemsize() != expected.itemsize || array.ndim() != expected.axes ||
        (expected.axes == 3 && !is_colour) || array.dtype().byteorder() == '>') {
      throw FrameError("the frame is " + described(array) + " but its format is given as '" +
                       *format + "', for which " + expected.text + " is expected");
    }
    return named;
  }
  if (is_unsigned && array.itemsize() == 2 && array.ndim() == 2) {
    throw FrameError("the frame is " + described(array) + ", " + kNameFormat);
  }
  if (!is_unsigned || array.itemsize() != 1 || (array.ndim() != 2 && !is_colour)) {
    throw FrameError("the frame is " + described(array) + ", " + kExpected);
  }
  return is_colour ? PixelFormat::kBgr8 : PixelFormat::kMono8;
}

// Whether each row's pixels lie side by side and rows follow each other without overlap.
bool rows_are_packed(const py::array& array) {
  const py::ssize_t channels = array.ndim() == 3 ? array.shape(2) : 1;
  const py::ssize_t height = array.shape(0);
  const py::ssize_t width = array.shape(1);
  const py::ssize_t pixel = channels * array.itemsize();
  const bool pixels = array.ndim() == 2 || array.strides(2) == 1;
  const bool row = width == 1 || array.strides(1) == pixel;
  const bool rows = height == 1 || array.strides(0) >= width * pixel;
  return pixels && row && rows;
}

int side(py::ssize_t length) {
  if (length > std::numeric_limits<int>::max()) {
    throw FrameError("the frame has a side of " + std::to_string(length) +
                     " pixels, at most 2147483647 are expected");
  }
  return static_cast<int>(length);
}

}  // namespace

BorrowedFrame::BorrowedFrame(const py::object& image, const std::optional<std::string>& format)
    : array_(as_array(image)) {
  frame_.format = format_of(array_, format);
  frame_.height = side(array_.shape(0));
  frame_.width = side(array_.shape(1));
  const int rows = frame_.height;
  if (frame_.format == PixelFormat::kNv12) {
    if (rows % 3 != 0) {
      throw FrameError("the frame is " + described(array_) +
                       " but its format is given as 'nv12', for which height * 3 / 2 rows are "
                       "expected, a multiple of 3");
    }
    frame_.height = rows / 3 * 2;
  }
  const auto row_bytes = static_cast<std::size_t>(frame_.width) *
                         static_cast<std::size_t>(bytes_per_pixel(frame_.format));
  const bool misaligned =
      array_.itemsize() == 2 && (reinterpret_cast<std::uintptr_t>(array_.data()) % 2 != 0 ||
                                 (rows > 1 && array_.strides(0) % 2 != 0));
  if (array_.size() > 0 && (misaligned || !rows_are_packed(array_))) {
    array_ = py::array(array_.attr("copy")("C"));  // also where it is only misaligned
  }
  // A single row's stride says nothing; NumPy may leave any number there.
  frame_.row_pitch = rows > 1 ? static_cast<std::size_t>(array_.strides(0)) : row_bytes;
  frame_.data = static_cast<const std::uint8_t*>(array_.data());
  frame_.validate();
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
