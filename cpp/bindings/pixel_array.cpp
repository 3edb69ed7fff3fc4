#include "pixel_array.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#include "agp_edge/error.hpp"
#include "dlpack.hpp"
#include "frame.hpp"

namespace agp_edge::bindings {
namespace {

namespace py = pybind11;

// CUDA's name of the legacy default stream: it comes after what every blocking stream was given.
Stream legacy_stream() { return reinterpret_cast<Stream>(std::uintptr_t{1}); }

std::string type_name(const py::object& object) {
  return py::str(py::type::of(object).attr("__module__")).cast<std::string>() + "." +
         py::str(py::type::of(object).attr("__qualname__")).cast<std::string>();
}

void set_c_order(PixelArray& pixels) {
  pixels.strides.resize(pixels.shape.size());
  py::ssize_t stride = pixels.itemsize;
  for (std::size_t axis = pixels.shape.size(); axis-- > 0;) {
    pixels.strides[axis] = stride;
    stride *= pixels.shape[axis];
  }
}

// https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html, versions 2 and 3.
PixelArray from_cuda_interface(const py::object& image, const py::dict& interface) {
  PixelArray pixels;
  pixels.memory = Memory::kDevice;
  pixels.device = -1;
  pixels.owner = image;
  try {
    const auto type = interface["typestr"].cast<std::string>();
    pixels.is_unsigned = type.size() == 3 && type[1] == 'u';
    pixels.is_big_endian = !type.empty() && type[0] == '>';
    pixels.itemsize = type.size() >= 3 ? std::stoi(type.substr(2)) : 0;
    pixels.dtype = py::str(py::dtype(type)).cast<std::string>();
    pixels.shape = interface["shape"].cast<std::vector<py::ssize_t>>();
    const auto data = interface["data"].cast<py::tuple>();  // (address, read-only): both are fine
    pixels.data = reinterpret_cast<const void*>(data[0].cast<std::uintptr_t>());
    if (interface.contains("strides") && !interface["strides"].is_none()) {
      pixels.strides = interface["strides"].cast<std::vector<py::ssize_t>>();
    } else {
      set_c_order(pixels);
    }
    const int version = interface["version"].cast<int>();
    if (version < 3) {
      // It knows no stream: right for who works on the default stream, or has waited.
      pixels.stream = legacy_stream();
    } else if (interface.contains("stream") && !interface["stream"].is_none()) {
      const auto stream = interface["stream"].cast<std::uintptr_t>();
      if (stream == 0) {
        throw FrameError(
            "the frame's __cuda_array_interface__ names the stream 0, which is ambiguous; 1 "
            "(legacy "
            "default), 2 (default of each thread), a stream's address or None is expected");
      }
      pixels.stream = reinterpret_cast<Stream>(stream);
    }
  } catch (const py::builtin_exception& error) {
    throw FrameError("the frame's __cuda_array_interface__ cannot be read (" +
                     std::string(error.what()) + "): version 2 or 3 of it is expected");
  } catch (const py::error_already_set& error) {
    throw FrameError("the frame's __cuda_array_interface__ cannot be read (" +
                     std::string(error.what()) + "): version 2 or 3 of it is expected");
  } catch (const std::logic_error& error) {
    throw FrameError("the frame's __cuda_array_interface__ has no usable typestr (" +
                     std::string(error.what()) + "): \"|u1\" or \"<u2\" is expected");
  }
  if (interface.contains("mask") && !interface["mask"].is_none()) {
    throw FrameError("the frame has a mask (__cuda_array_interface__), none is expected");
  }
  if (pixels.strides.size() != pixels.shape.size()) {
    throw FrameError("the frame's __cuda_array_interface__ has " +
                     std::to_string(pixels.strides.size()) + " strides and " +
                     std::to_string(pixels.shape.size()) + " sides, as many are expected");
  }
  return pixels;
}

// Takes the structure out of its capsule; it is given back through its own deleter.
template <typename ManagedTensor>
std::shared_ptr<void> take(PyObject* capsule, const char* name, const char* used_name,
                           dlpack::Tensor ManagedTensor::* member, dlpack::Tensor& tensor) {
  auto* const managed = static_cast<ManagedTensor*>(PyCapsule_GetPointer(capsule, name));
  if (managed == nullptr) throw py::error_already_set();
  if (PyCapsule_SetName(capsule, used_name) != 0) throw py::error_already_set();
  std::shared_ptr<void> owned(managed, [](void* pointer) {
    auto* const given = static_cast<ManagedTensor*>(pointer);
    if (given->deleter != nullptr) given->deleter(given);
  });
  if constexpr (std::is_same_v<ManagedTensor, dlpack::ManagedVersioned>) {
    if (managed->major != dlpack::kMajor) {
      throw FrameError("the frame comes as DLPack " + std::to_string(managed->major) + "." +
                       std::to_string(managed->minor) + ", version 1 is expected");
    }
  }
  tensor = managed->*member;
  return owned;
}

py::object capsule_of(const py::object& image, const py::object& stream) {
  const py::object method = image.attr("__dlpack__");
  try {
    return method(py::arg("stream") = stream, py::arg("max_version") = py::make_tuple(1, 0));
  } catch (const py::error_already_set& error) {
    if (!error.matches(PyExc_TypeError)) throw;
  }
  return method(py::arg("stream") = stream);  // of before version 1
}

PixelArray from_dlpack(const py::object& image) {
  const py::tuple place = image.attr("__dlpack_device__")();
  const int type = py::int_(place[0]).cast<int>();
  const bool on_host = type == dlpack::kCpu || type == dlpack::kCudaHost;
  if (!on_host && type != dlpack::kCuda && type != dlpack::kCudaManaged) {
    throw FrameError("the frame, a " + type_name(image) + ", lies on a device of DLPack's type " +
                     std::to_string(type) + ", memory of the host or of an NVIDIA GPU is expected");
  }
  // A GPU's producer makes the legacy default stream wait for its own; what we record there comes
  // after it, whichever of the detector's streams takes the frame.
  const py::object stream = on_host ? py::object(py::none()) : py::object(py::int_(1));
  const py::object capsule = capsule_of(image, stream);
  if (!PyCapsule_CheckExact(capsule.ptr())) {
    throw FrameError("the frame's __dlpack__ returned a " + type_name(capsule) +
                     ", a capsule is expected");
  }
  dlpack::Tensor tensor{};
  PixelArray pixels;
  pixels.owner = image;
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned") != 0) {
    pixels.capsule = take<dlpack::ManagedVersioned>(capsule.ptr(), "dltensor_versioned",
                                                    "used_dltensor_versioned",
                                                    &dlpack::ManagedVersioned::tensor, tensor);
  } else if (PyCapsule_IsValid(capsule.ptr(), "dltensor") != 0) {
    pixels.capsule = take<dlpack::Managed>(capsule.ptr(), "dltensor", "used_dltensor",
                                           &dlpack::Managed::tensor, tensor);
  } else {
    throw FrameError("the frame's DLPack capsule was used before, a fresh one is expected");
  }
  pixels.memory = on_host ? Memory::kHost : Memory::kDevice;
  pixels.device = tensor.device_id;
  if (!on_host) pixels.stream = legacy_stream();
  pixels.is_unsigned = tensor.code == dlpack::kUnsigned && tensor.lanes == 1;
  pixels.itemsize = tensor.bits / 8;
  const char* const kind = tensor.code == 0   ? "int"
                           : tensor.code == 1 ? "uint"
                           : tensor.code == 2 ? "float"
                                              : "type ";
  pixels.dtype = kind + std::to_string(tensor.bits);
  pixels.shape.assign(tensor.shape, tensor.shape + tensor.ndim);
  if (tensor.strides != nullptr) {
    for (int axis = 0; axis < tensor.ndim; ++axis) {
      pixels.strides.push_back(static_cast<py::ssize_t>(tensor.strides[axis]) * pixels.itemsize);
    }
  } else {
    set_c_order(pixels);
  }
  pixels.data = static_cast<const char*>(tensor.data) + tensor.byte_offset;
  return pixels;
}

}  // namespace

bool PixelArray::empty() const {
  return std::any_of(shape.begin(), shape.end(), [](py::ssize_t side) { return side == 0; });
}

std::string PixelArray::text() const {
  std::string sides;
  for (const py::ssize_t side : shape) {
    sides += (sides.empty() ? "" : ", ") + std::to_string(side);
  }
  return dtype + " (" + sides + (axes() == 1 ? ",)" : ")");
}

bool PixelArray::rows_are_packed() const {
  const py::ssize_t channels = axes() == 3 ? shape[2] : 1;
  const py::ssize_t pixel = channels * itemsize;
  const bool colours = axes() == 2 || channels == 1 || strides[2] == itemsize;
  const bool row = shape[1] == 1 || strides[1] == pixel;
  const bool rows = shape[0] == 1 || strides[0] >= shape[1] * pixel;
  return colours && row && rows;
}

PixelArray pixels_of(const py::array& array) {
  PixelArray pixels;
  pixels.data = array.data();
  pixels.is_unsigned = array.dtype().kind() == 'u';
  pixels.is_big_endian = array.dtype().byteorder() == '>';
  pixels.itemsize = array.itemsize();
  pixels.shape.assign(array.shape(), array.shape() + array.ndim());
  pixels.strides.assign(array.strides(), array.strides() + array.ndim());
  pixels.dtype = py::str(array.dtype()).cast<std::string>();
  pixels.owner = array;
  return pixels;
}

PixelArray pixels_of(const py::object& image) {
  if (py::isinstance<py::array>(image)) return pixels_of(py::reinterpret_borrow<py::array>(image));
  // Only what is a view of pixels: a list would be walked and copied, a PIL image is RGB unasked.
  if (PyObject_CheckBuffer(image.ptr()) != 0) {
    const py::array array = py::array::ensure(image);
    if (array) return pixels_of(array);
    PyErr_Clear();
  }
  // First DLPack, whose producers say on which stream they worked; CUDA's interface of version 2,
  // which torch has too, does not.
  if (py::hasattr(image, "__dlpack__") && py::hasattr(image, "__dlpack_device__")) {
    return from_dlpack(image);
  }
  if (py::hasattr(image, "__cuda_array_interface__")) {
    const py::object interface = image.attr("__cuda_array_interface__");
    if (py::isinstance<py::dict>(interface)) {
      return from_cuda_interface(image, py::reinterpret_borrow<py::dict>(interface));
    }
  }
  throw FrameError("the frame is a " + std::string(Py_TYPE(image.ptr())->tp_name) +
                   ", a NumPy array of " + kExpectedFrame +
                   ", or an array on a GPU (__dlpack__ or __cuda_array_interface__)");
}

}  // namespace agp_edge::bindings
