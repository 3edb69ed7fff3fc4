#include "frame.hpp"

#include <limits>

#include "agp_edge/error.hpp"

namespace agp_edge::bindings {
namespace {

namespace py = pybind11;

constexpr const char* kExpected =
    "uint8 (height, width, 3) BGR or (height, width) mono is expected";

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

PixelFormat format_of(const py::array& array, const std::optional<std::string>& format) {
  const bool is_uint8 = array.dtype().kind() == 'u' && array.itemsize() == 1;
  const bool is_mono = array.ndim() == 2;
  const bool is_colour = array.ndim() == 3 && array.shape(2) == 3;
  if (!is_uint8 || (!is_mono && !is_colour)) {
    throw FrameError("the frame is " + described(array) + ", " + kExpected);
  }
  if (!format) return is_mono ? PixelFormat::kMono8 : PixelFormat::kBgr8;
  const PixelFormat named = pixel_format_from(*format);
  if ((bytes_per_pixel(named) == 1) != is_mono) {
    throw FrameError("the frame is " + described(array) + " but its format is given as '" +
                     *format + "', which has " + (is_mono ? "three channels" : "one channel"));
  }
  return named;
}

// Whether each row's pixels lie side by side and rows follow each other without overlap.
bool rows_are_packed(const py::array& array) {
  const py::ssize_t channels = array.ndim() == 3 ? array.shape(2) : 1;
  const py::ssize_t height = array.shape(0);
  const py::ssize_t width = array.shape(1);
  const bool pixels = array.ndim() == 2 || array.strides(2) == 1;
  const bool row = width == 1 || array.strides(1) == channels;
  const bool rows = height == 1 || array.strides(0) >= width * channels;
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
  const auto row_bytes = static_cast<std::size_t>(frame_.width) *
                         static_cast<std::size_t>(bytes_per_pixel(frame_.format));
  if (array_.size() > 0 && !rows_are_packed(array_)) {
    array_ = py::array::ensure(array_, py::array::c_style);
    if (!array_) throw py::error_already_set();
  }
  // A single row's stride says nothing; NumPy may leave any number there.
  frame_.row_pitch = frame_.height > 1 ? static_cast<std::size_t>(array_.strides(0)) : row_bytes;
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
