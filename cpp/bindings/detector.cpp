#include "agp_edge/detector.hpp"

#include <pybind11/stl.h>

#include <utility>
#include <vector>

#include "bytes.hpp"
#include "frame.hpp"
#include "module.hpp"
#include "result.hpp"

namespace agp_edge::bindings {
namespace {

namespace py = pybind11;

std::unique_ptr<Detector> open(const std::string& manifest_json, const std::string& source,
                               std::shared_ptr<Engine> engine, std::optional<float> threshold,
                               std::optional<float> mask_threshold,
                               const std::optional<py::tuple>& roi, int min_area,
                               std::uint8_t outputs, int threads,
                               const std::vector<std::vector<std::pair<double, double>>>& ignored,
                               const std::optional<std::pair<int, std::vector<float>>>& tail) {
  DetectorOptions options;
  if (tail) options.calibration_tail = CalibrationTail{tail->first, tail->second};
  options.threshold = threshold;
  options.mask_threshold = mask_threshold;
  if (roi) options.roi = rect_from(*roi, "roi");
  options.min_area = min_area;
  options.outputs = outputs;
  options.threads = threads;
  for (const auto& corners : ignored) {
    Polygon& polygon = options.ignored.emplace_back();
    for (const auto& [x, y] : corners) polygon.push_back(Point{x, y});
  }
  return std::make_unique<Detector>(Manifest::parse(manifest_json, source), std::move(engine),
                                    options);
}

NativeResult score(Detector& self, const py::object& image,
                   const std::optional<std::string>& format) {
  const BorrowedFrame borrowed(image, format);
  Result result;
  {
    // Other threads run, and may call this too: the pipeline locks inside.
    const py::gil_scoped_release release;
    result = self.score(borrowed.frame());
  }
  return NativeResult(std::move(result));
}

}  // namespace

void register_detector(py::module_& module) {
  module.def(
      "read_manifest_json",
      [](const std::string& path, const std::optional<py::buffer>& content) {
        const BorrowedBytes bytes(content);
        const py::gil_scoped_release release;
        return content ? read_manifest_json(bytes.view(), path) : read_manifest_json(path);
      },
      py::arg("path"), py::arg("content") = py::none());
  module.def(
      "refuse_external_data",
      [](const std::string& path, const std::optional<py::buffer>& content) {
        const BorrowedBytes bytes(content);
        const py::gil_scoped_release release;
        return content ? refuse_external_data(bytes.view(), path) : refuse_external_data(path);
      },
      py::arg("path"), py::arg("content") = py::none());
  module.def("manifest_extent", &manifest_extent, py::arg("path"),
             py::call_guard<py::gil_scoped_release>());
  module.def(
      "check_manifest_json",
      [](const std::string& text, const std::string& source) { Manifest::parse(text, source); },
      py::arg("text"), py::arg("source"));
  module.def(
      "p_value",
      [](int n, std::vector<float> scores, float score) {
        const CalibrationTail tail{n, std::move(scores)};
        tail.check();
        return tail.p_value(score);
      },
      py::arg("n"), py::arg("scores"), py::arg("score"));
  py::class_<Detector>(module, "Detector")
      .def(py::init(&open), py::arg("manifest_json"), py::arg("source"), py::arg("engine"),
           py::kw_only(), py::arg("threshold") = py::none(), py::arg("mask_threshold") = py::none(),
           py::arg("roi") = py::none(), py::arg("min_area") = 0,
           py::arg("outputs") = static_cast<std::uint8_t>(kAll), py::arg("threads") = 0,
           py::arg("ignored") = std::vector<std::vector<std::pair<double, double>>>{},
           py::arg("calibration_tail") = py::none())
      .def("score", &score, py::arg("frame"), py::arg("format") = py::none())
      .def_property_readonly("threshold",
                             [](const Detector& self) { return self.decision().threshold; })
      .def_property_readonly("mask_threshold",
                             [](const Detector& self) { return self.decision().mask_threshold; })
      .def_property_readonly("engine_name",
                             [](const Detector& self) { return self.engine().name(); });
}

}  // namespace agp_edge::bindings
