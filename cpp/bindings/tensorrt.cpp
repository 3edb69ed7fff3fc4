#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "agp_edge/tensorrt_engine.hpp"
#include "bytes.hpp"
#include "module.hpp"

namespace agp_edge::bindings {
namespace {

namespace py = pybind11;

// logging's numbers.
int python_level(LogLevel level) {
  switch (level) {
    case LogLevel::kError:
      return 40;
    case LogLevel::kWarning:
      return 30;
    case LogLevel::kInfo:
      return 20;
    default:
      return 10;
  }
}

void set_log(const py::object& log) {
  std::function<void(LogLevel, const std::string&)> function;
  if (!log.is_none()) {
    // Copied and dropped on TensorRT's threads, so only the last owner touches Python.
    const std::shared_ptr<py::object> owner(new py::object(log), [](py::object* object) {
      const py::gil_scoped_acquire acquire;
      delete object;
    });
    function = [owner](LogLevel level, const std::string& message) {
      const py::gil_scoped_acquire acquire;
      try {
        (*owner)(python_level(level), py::bytes(message));
      } catch (py::error_already_set& error) {
        error.discard_as_unraisable("agp_edge.tensorrt log");
      }
    };
  }
  const py::gil_scoped_release release;
  set_tensorrt_log(std::move(function));
}

}  // namespace

void register_tensorrt(py::module_& module) {
  module.def("tensorrt_modules", [] {
    std::vector<std::string> titles;
    for (const TensorRtFlavour flavour : tensorrt_modules())
      titles.emplace_back(to_string(flavour));
    return titles;
  });
  module.def("set_tensorrt_log", &set_log, py::arg("log"));
  module.def(
      "open_tensorrt",
      [](const std::string& path, const std::vector<std::string>& library_folders, int device,
         const std::optional<py::buffer>& content) {
        const BorrowedBytes bytes(content);
        TensorRtOptions options;
        options.content = bytes.view();
        options.library_folders = library_folders;
        options.device = device;
        const py::gil_scoped_release release;
        return open_tensorrt(path, options);
      },
      py::arg("path"), py::kw_only(), py::arg("library_folders") = std::vector<std::string>{},
      py::arg("device") = 0, py::arg("content") = py::none());
}

}  // namespace agp_edge::bindings
