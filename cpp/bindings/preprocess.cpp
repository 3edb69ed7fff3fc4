#include "agp_edge/preprocess.hpp"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <mutex>

#include "frame.hpp"
#include "module.hpp"

namespace agp_edge::bindings {
namespace {

namespace py = pybind11;
using Output = py::array_t<float, py::array::c_style>;

// run() with the GIL released is open to other threads, and a Preprocessor is not re-entrant.
struct SharedPreprocessor {
  Preprocessor preprocessor;
  std::mutex mutex;

  SharedPreprocessor(const PreprocessRecipe& recipe, int threads) : preprocessor(recipe, threads) {}
};

Output checked_output(const std::optional<py::array>& out, const PreprocessRecipe& recipe) {
  const py::ssize_t height = recipe.height;
  const py::ssize_t width = recipe.width;
  if (!out) return Output({py::ssize_t{3}, height, width});
  const bool fits = py::isinstance<Output>(*out) && out->ndim() == 3 && out->shape(0) == 3 &&
                    out->shape(1) == height && out->shape(2) == width && out->writeable();
  if (!fits) {
    throw py::value_error("out is " + py::str(out->dtype()).cast<std::string>() + " " +
                          py::str(out->attr("shape")).cast<std::string>() +
                          ", a writeable C-contiguous float32 (3, " + std::to_string(height) +
                          ", " + std::to_string(width) + ") is expected");
  }
  return py::reinterpret_borrow<Output>(*out);
}

Output run(SharedPreprocessor& self, const py::object& image,
           const std::optional<std::string>& format, const std::optional<py::array>& out) {
  const BorrowedFrame borrowed(image, format);
  Output output = checked_output(out, self.preprocessor.recipe());
  float* const data = output.mutable_data();
  {
    const py::gil_scoped_release release;
    const std::lock_guard<std::mutex> lock(self.mutex);
    self.preprocessor.run(borrowed.frame(), data);
  }
  return output;
}

}  // namespace

void register_preprocess(py::module_& module) {
  py::class_<SharedPreprocessor>(module, "Preprocessor")
      .def(
          py::init([](int height, int width, const std::array<float, 3>& mean,
                      const std::array<float, 3>& stddev, const std::string& channels,
                      const std::string& resize, const std::optional<py::tuple>& roi, int threads) {
            PreprocessRecipe recipe;
            recipe.height = height;
            recipe.width = width;
            recipe.mean = mean;
            recipe.stddev = stddev;
            recipe.channels = channel_order_from(channels);
            recipe.resize = resize_rule_from(resize);
            if (roi) recipe.roi = rect_from(*roi, "roi");
            return std::make_unique<SharedPreprocessor>(recipe, threads);
          }),
          py::kw_only(), py::arg("height"), py::arg("width"), py::arg("mean"), py::arg("std"),
          py::arg("channels") = "rgb", py::arg("resize") = "antialias", py::arg("roi") = py::none(),
          py::arg("threads") = 0)
      .def("run", run, py::arg("frame"), py::arg("format") = py::none(),
           py::arg("out") = py::none());
}

}  // namespace agp_edge::bindings
