#include "agp_edge/postprocess.hpp"

#include <pybind11/stl.h>

#include <limits>
#include <mutex>

#include "frame.hpp"
#include "module.hpp"
#include "recipe.hpp"
#include "result.hpp"

namespace agp_edge::bindings {
namespace {

namespace py = pybind11;
using Grid = py::array_t<float, py::array::c_style>;

struct SharedPostprocessor {
  Postprocessor postprocessor;
  std::mutex mutex;

  explicit SharedPostprocessor(const PostprocessRecipe& recipe) : postprocessor(recipe) {}
};

// `values` becomes the array's own memory.
template <typename T>
py::object handed_over(std::vector<T> values, int height, int width, const py::dtype& dtype) {
  if (values.empty()) return py::none();
  auto owner = std::make_unique<std::vector<T>>(std::move(values));
  const T* const data = owner->data();
  const py::capsule capsule(owner.get(),
                            [](void* vector) { delete static_cast<std::vector<T>*>(vector); });
  owner.release();  // the capsule's now
  return py::array(dtype, {height, width}, {}, data, capsule);
}

NativeResult run(SharedPostprocessor& self, const py::array& grid,
                 const std::optional<py::tuple>& view, std::optional<float> threshold,
                 std::optional<float> mask_threshold, int min_area, std::uint8_t outputs) {
  const PostprocessRecipe& recipe = self.postprocessor.recipe();
  if (!py::isinstance<py::array_t<float>>(grid) || grid.ndim() != 2 ||
      grid.shape(0) != recipe.grid_height || grid.shape(1) != recipe.grid_width) {
    throw py::value_error("grid is " + py::str(grid.dtype()).cast<std::string>() + " " +
                          py::str(grid.attr("shape")).cast<std::string>() + ", float32 (" +
                          std::to_string(recipe.grid_height) + ", " +
                          std::to_string(recipe.grid_width) + ") is expected");
  }
  const Grid packed = Grid::ensure(grid);
  if (!packed) throw py::error_already_set();
  Decision decision;
  decision.threshold = threshold.value_or(std::numeric_limits<float>::infinity());
  decision.mask_threshold = mask_threshold.value_or(decision.threshold);
  decision.min_area = min_area;
  decision.outputs = outputs;
  const Rect covered =
      view ? rect_from(*view, "view") : Rect{0, 0, recipe.map_width, recipe.map_height};
  const float* const data = packed.data();
  Result result;
  {
    const py::gil_scoped_release release;
    const std::lock_guard<std::mutex> lock(self.mutex);
    self.postprocessor.run(data, covered, decision, result);
  }
  result.view = covered;
  return NativeResult(std::move(result));
}

void register_result(py::module_& module) {
  py::class_<Region>(module, "NativeRegion")
      .def_property_readonly("box", [](const Region& self) { return tuple_from(self.box); })
      .def_readonly("area", &Region::area)
      .def_readonly("frame_area", &Region::frame_area)
      .def_readonly("peak", &Region::peak)
      .def_property_readonly("peak_position", [](const Region& self) {
        return py::make_tuple(self.peak_x, self.peak_y);
      });
  py::class_<Latency>(module, "NativeLatency")
      .def_readonly("wait_ms", &Latency::wait_ms)
      .def_readonly("copy_ms", &Latency::copy_ms)
      .def_readonly("copy_back_ms", &Latency::copy_back_ms)
      .def_readonly("preprocess_ms", &Latency::preprocess_ms)
      .def_readonly("execute_ms", &Latency::execute_ms)
      .def_readonly("postprocess_ms", &Latency::postprocess_ms)
      .def_readonly("total_ms", &Latency::total_ms);
  py::class_<NativeResult>(module, "NativeResult")
      .def_readonly("score", &NativeResult::score)
      .def_readonly("threshold", &NativeResult::threshold)
      .def_readonly("is_anomalous", &NativeResult::is_anomalous)
      .def_readonly("p_value", &NativeResult::p_value)
      .def_readonly("anomaly_map", &NativeResult::anomaly_map)
      .def_readonly("mask", &NativeResult::mask)
      .def_readonly("regions", &NativeResult::regions)
      .def_property_readonly("view", [](const NativeResult& self) { return tuple_from(self.view); })
      .def_readonly("latency", &NativeResult::latency);
}

}  // namespace

NativeResult::NativeResult(Result result)
    : score(result.score),
      threshold(result.threshold),
      is_anomalous(result.is_anomalous),
      p_value(result.p_value),
      view(result.view),
      anomaly_map(handed_over(std::move(result.anomaly_map), result.map_height, result.map_width,
                              py::dtype::of<float>())),
      // Zeros and ones, one byte each: NumPy's bool.
      mask(handed_over(std::move(result.mask), result.map_height, result.map_width,
                       py::dtype::of<bool>())),
      regions(std::move(result.regions)),
      latency(result.latency) {}

void register_postprocess(py::module_& module) {
  register_result(module);
  py::class_<SharedPostprocessor>(module, "Postprocessor")
      .def(py::init([](int grid_height, int grid_width, int map_height, int map_width, float sigma,
                       const std::string& score, float top_share, int power) {
             return std::make_unique<SharedPostprocessor>(postprocess_recipe(
                 grid_height, grid_width, map_height, map_width, sigma, score, top_share, power));
           }),
           py::kw_only(), py::arg("grid_height"), py::arg("grid_width"), py::arg("map_height"),
           py::arg("map_width"), py::arg("sigma"), py::arg("score") = "max",
           py::arg("top_share") = 0.01F, py::arg("power") = 24)
      .def("run", run, py::arg("grid"), py::kw_only(), py::arg("view") = py::none(),
           py::arg("threshold") = py::none(), py::arg("mask_threshold") = py::none(),
           py::arg("min_area") = 0, py::arg("outputs") = static_cast<std::uint8_t>(kAll));
}

}  // namespace agp_edge::bindings
