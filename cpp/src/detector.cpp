#include "agp_edge/detector.hpp"

#include <cmath>
#include <utility>

#include "agp_edge/error.hpp"
#include "agp_edge/openvino_engine.hpp"
#include "agp_edge/tensorrt_engine.hpp"
#include "model_file.hpp"

namespace agp_edge {
namespace {

float finite(float value, const char* what) {
  if (!std::isfinite(value)) {
    throw ModelError(std::string("the ") + what + " " + std::to_string(value) +
                     " was given, a finite number is expected");
  }
  return value;
}

Decision decision_from(const Manifest& manifest, const DetectorOptions& options) {
  Decision decision;
  if (options.threshold) {
    decision.threshold = finite(*options.threshold, "threshold");
    decision.mask_threshold = decision.threshold;
  } else if (manifest.threshold) {
    decision.threshold = *manifest.threshold;
    decision.mask_threshold = manifest.mask_threshold.value_or(decision.threshold);
  } else {
    throw ModelError("the model '" + manifest.name +
                     "' has no default threshold and none was given: give threshold=..., or train "
                     "with held-out good images, which set one");
  }
  if (options.mask_threshold) {
    decision.mask_threshold = finite(*options.mask_threshold, "mask threshold");
  }
  if (options.min_area < 0) {
    throw ModelError("the minimum area " + std::to_string(options.min_area) +
                     " was given, 0 or more pixels of the anomaly map are expected");
  }
  if ((options.outputs & ~kAll) != 0) {
    throw ModelError("the outputs " + std::to_string(options.outputs) +
                     " were asked for, a sum of 1 (map), 2 (mask) and 4 (regions) is expected");
  }
  for (const Polygon& polygon : options.ignored) {
    bool finite_corners = true;
    for (const Point& corner : polygon) {
      finite_corners = finite_corners && std::isfinite(corner.x) && std::isfinite(corner.y);
    }
    if (polygon.size() < 3 || !finite_corners) {
      throw FrameError("a don't-care area of " + std::to_string(polygon.size()) +
                       " corners was given, 3 or more with finite coordinates are expected, in "
                       "frame pixels");
    }
  }
  decision.ignored = options.ignored;
  decision.min_area = options.min_area;
  decision.outputs = options.outputs;
  return decision;
}

std::optional<CalibrationTail> tail_from(const Manifest& manifest, const DetectorOptions& options) {
  if (options.calibration_tail) {
    options.calibration_tail->check();
    return options.calibration_tail;
  }
  const Rect& own = manifest.preprocess.roi;
  const bool other_view =
      options.roi && (options.roi->x != own.x || options.roi->y != own.y ||
                      options.roi->width != own.width || options.roi->height != own.height);
  if (other_view || !options.ignored.empty()) return std::nullopt;
  return manifest.calibration_tail;
}

PreprocessRecipe recipe_from(const Manifest& manifest, const DetectorOptions& options) {
  PreprocessRecipe recipe = manifest.preprocess;
  if (options.roi) {
    const Rect& roi = *options.roi;
    if (roi.empty() || roi.x < 0 || roi.y < 0) {
      throw FrameError("the region of interest (" + std::to_string(roi.x) + ", " +
                       std::to_string(roi.y) + ", " + std::to_string(roi.width) + ", " +
                       std::to_string(roi.height) +
                       ") was given, x and y of 0 or more and a width and height of 1 or more "
                       "are expected, in frame pixels");
    }
    recipe.roi = roi;
  }
  return recipe;
}

PipelineOptions pipeline_options(const DetectorOptions& options) {
  PipelineOptions pipeline;
  pipeline.threads = options.threads;
  pipeline.wait = options.wait;
  pipeline.geometries = options.geometries;
  return pipeline;
}

void check_name(const Engine& engine, const std::vector<TensorSpec>& tensors,
                const std::string& expected, const char* role) {
  // Pipeline refuses any other number of tensors, and says so better.
  if (tensors.size() == 1 && tensors.front().name != expected) {
    throw ModelError("the model in " + engine.name() + " has the " + role + " '" +
                     tensors.front().name + "', its manifest says '" + expected +
                     "': export it again");
  }
}

// `manifest_json` is set from the file.
std::shared_ptr<Engine> open_model(const std::string& path, const DetectorOptions& options,
                                   std::string& manifest_json) {
  ModelFile file = read_model_file(path);
  manifest_json = std::move(file.manifest_json);
  if (file.kind == ModelKind::kPlan) return open_tensorrt(path);
  refuse_external_data(path);
  OpenVinoOptions openvino;
  openvino.threads = options.threads;
  return open_openvino(path, openvino);
}

}  // namespace

struct Detector::Impl {
  Impl(Manifest read, std::shared_ptr<Engine> engine, const DetectorOptions& options)
      : manifest(std::move(read)),
        decision(decision_from(manifest, options)),
        calibration_tail(tail_from(manifest, options)),
        pipeline(std::move(engine), recipe_from(manifest, options), manifest.postprocess,
                 pipeline_options(options)) {
    const Engine& used = pipeline.engine();
    check_name(used, used.inputs(), manifest.input_name, "input");
    check_name(used, used.outputs(), manifest.output_name, "output");
  }

  Manifest manifest;
  Decision decision;
  std::optional<CalibrationTail> calibration_tail;
  Pipeline pipeline;
};

Detector::Detector(const std::string& model, const DetectorOptions& options) {
  std::string json;
  std::shared_ptr<Engine> engine = open_model(model, options, json);
  impl_ = std::make_unique<Impl>(Manifest::parse(json, model), std::move(engine), options);
}

Detector::Detector(Manifest manifest, std::shared_ptr<Engine> engine,
                   const DetectorOptions& options)
    : impl_(std::make_unique<Impl>(std::move(manifest), std::move(engine), options)) {}

Detector::~Detector() = default;
Detector::Detector(Detector&&) noexcept = default;
Detector& Detector::operator=(Detector&&) noexcept = default;

Result Detector::score(const Frame& frame) {
  Result result = impl_->pipeline.score(frame, impl_->decision);
  if (impl_->calibration_tail) result.p_value = impl_->calibration_tail->p_value(result.score);
  return result;
}

const Manifest& Detector::manifest() const noexcept { return impl_->manifest; }
const Engine& Detector::engine() const noexcept { return impl_->pipeline.engine(); }
const Decision& Detector::decision() const noexcept { return impl_->decision; }

}  // namespace agp_edge
