#include <cstring>
#include <exception>

#include "agp_edge/error.hpp"
#include "module.hpp"

namespace agp_edge::bindings {
namespace {

namespace py = pybind11;

void raise(const char* name, const Error& error) {
  const py::object type = py::module_::import("agp_edge.errors").attr(name);
  // Messages quote names out of files, which need not be UTF-8.
  const char* const text = error.what();
  const auto message = py::reinterpret_steal<py::object>(
      PyUnicode_DecodeUTF8(text, static_cast<py::ssize_t>(std::strlen(text)), "backslashreplace"));
  if (!message) throw py::error_already_set();
  py::set_error(type, message);
}

void translate(std::exception_ptr pointer) {
  try {
    if (pointer) std::rethrow_exception(pointer);
  } catch (const ModelError& error) {
    raise("ModelError", error);
  } catch (const FrameError& error) {
    raise("FrameError", error);
  } catch (const DeviceError& error) {
    raise("DeviceError", error);
  } catch (const DataError& error) {
    raise("DataError", error);
  } catch (const DependencyError& error) {
    raise("DependencyError", error);
  } catch (const BusyError& error) {
    raise("BusyError", error);
  } catch (const Error& error) {
    raise("Error", error);
  }
}

}  // namespace

void register_errors() { pybind11::register_local_exception_translator(translate); }

}  // namespace agp_edge::bindings
