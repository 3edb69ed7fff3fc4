#include "agp_edge/detector.hpp"

#include <pybind11/stl.h>

#include <chrono>
#include <cmath>
#include <utility>
#include <vector>

#include "agp_edge/error.hpp"
#include "bytes.hpp"
#include "frame.hpp"
#include "frame_buffer.hpp"
#include "module.hpp"
#include "result.hpp"

namespace agp_edge::bindings {
namespace {

namespace py = pybind11;

Wait wait_from(const std::string& name) {
  if (name == "spin") return Wait::kSpin;
  if (name == "block") return Wait::kBlock;
  throw Error("wait is '" + name + "': 'spin' or 'block' is expected");
}

// Its end waits for threads that may want the GIL.
struct DeleteWithoutGil {
  void operator()(Detector* detector) const {
    const py::gil_scoped_release release;
    delete detector;
  }
};
using OwnedDetector = std::unique_ptr<Detector, DeleteWithoutGil>;

OwnedDetector open(const std::string& manifest_json, const std::string& source,
                   std::shared_ptr<Engine> engine, std::optional<float> threshold,
                   std::optional<float> mask_threshold, const std::optional<py::tuple>& roi,
                   int min_area, std::uint8_t outputs, int threads,
                   const std::vector<std::vector<std::pair<double, double>>>& ignored,
                   const std::optional<std::pair<int, std::vector<float>>>& tail, int in_flight,
                   std::vector<int> cpus, int priority, const std::string& wait, int geometries,
                   bool device_times) {
  DetectorOptions options;
  if (tail) options.calibration_tail = CalibrationTail{tail->first, tail->second};
  options.threshold = threshold;
  options.mask_threshold = mask_threshold;
  if (roi) options.roi = rect_from(*roi, "roi");
  options.min_area = min_area;
  options.outputs = outputs;
  options.threads = threads;
  options.wait = wait_from(wait);
  options.geometries = geometries;
  options.device_times = device_times;
  for (const auto& corners : ignored) {
    Polygon& polygon = options.ignored.emplace_back();
    for (const auto& [x, y] : corners) polygon.push_back(Point{x, y});
  }
  options.in_flight = in_flight;
  options.placement.cpus = std::move(cpus);
  options.placement.priority = priority;
  Manifest manifest = Manifest::parse(manifest_json, source);
  // Threads are started, and a CallableEngine asks Python for its contexts.
  const py::gil_scoped_release release;
  return OwnedDetector(new Detector(std::move(manifest), std::move(engine), options));
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

// What a frame in flight holds of Python's; made and destroyed with the GIL held.
struct Submission {
  BorrowedFrame frame;
  py::function done;
};

py::object python_exception(const std::exception_ptr& error) {
  try {
    py::cpp_function([&error] { std::rethrow_exception(error); })();
  } catch (const py::error_already_set& translated) {
    return translated.value();
  }
  return py::none();
}

void answer(const py::function& done, Answer&& answer) {
  try {
    if (answer.error) {
      done(py::none(), python_exception(answer.error));
    } else {
      done(NativeResult(std::move(answer.result)), py::none());
    }
  } catch (py::error_already_set& error) {
    error.discard_as_unraisable(done);
  }
}

void submit(Detector& self, const py::object& image, const std::optional<std::string>& format,
            std::optional<double> timeout, py::function done) {
  const std::shared_ptr<Submission> submission(
      new Submission{BorrowedFrame(image, format), std::move(done)}, [](Submission* ended) {
        const py::gil_scoped_acquire acquire;
        delete ended;
      });
  std::optional<std::chrono::nanoseconds> wait;
  // Longer than the clock can count: for ever.
  if (timeout && !(*timeout < 1e9)) timeout.reset();
  if (timeout) {
    wait = std::chrono::nanoseconds(std::llround(std::max(0.0, *timeout) * 1e9));
  }
  const py::gil_scoped_release release;
  self.submit(
      submission->frame.frame(),
      [submission](Answer&& answered) {
        const py::gil_scoped_acquire acquire;
        answer(submission->done, std::move(answered));
      },
      wait);
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
      "place_this_thread",
      [](std::vector<int> cpus, int priority) { place_this_thread({std::move(cpus), priority}); },
      py::arg("cpus"), py::arg("priority"));
  module.def(
      "p_value",
      [](int n, std::vector<float> scores, float score) {
        const CalibrationTail tail{n, std::move(scores)};
        tail.check();
        return tail.p_value(score);
      },
      py::arg("n"), py::arg("scores"), py::arg("score"));
  py::class_<Detector, OwnedDetector>(module, "Detector")
      .def(py::init(&open), py::arg("manifest_json"), py::arg("source"), py::arg("engine"),
           py::kw_only(), py::arg("threshold") = py::none(), py::arg("mask_threshold") = py::none(),
           py::arg("roi") = py::none(), py::arg("min_area") = 0,
           py::arg("outputs") = static_cast<std::uint8_t>(kAll), py::arg("threads") = 0,
           py::arg("ignored") = std::vector<std::vector<std::pair<double, double>>>{},
           py::arg("calibration_tail") = py::none(), py::arg("in_flight") = 0,
           py::arg("cpus") = std::vector<int>{}, py::arg("priority") = 0, py::arg("wait") = "spin",
           py::arg("geometries") = PipelineOptions().geometries, py::arg("device_times") = false)
      .def("score", &score, py::arg("frame"), py::arg("format") = py::none())
      .def("submit", &submit, py::arg("frame"), py::arg("format"), py::arg("timeout"),
           py::arg("done"))
      .def("close", &Detector::close, py::arg("drain"), py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("is_own_thread", &Detector::is_own_thread)
      .def(
          "frame_buffer",
          [](const Detector& self, int height, int width, const std::string& format) {
            return frame_buffer(self.engine(), height, width, format);
          },
          py::arg("height"), py::arg("width"), py::arg("format"))
      .def_property_readonly("threshold",
                             [](const Detector& self) { return self.decision().threshold; })
      .def_property_readonly("mask_threshold",
                             [](const Detector& self) { return self.decision().mask_threshold; })
      .def_property_readonly("engine_name",
                             [](const Detector& self) { return self.engine().name(); })
      .def_property_readonly("is_on_gpu", [](const Detector& self) {
        return self.engine().memory() == Memory::kDevice;
      });
}

}  // namespace agp_edge::bindings
