// A model file and a frame in, a verdict out.
//
// Owns     manifest and pipeline.
// Borrows  the frame for the length of score().
// Threads  score() may be called from any thread; calls take turns.
// Blocks   until the result is there.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agp_edge/calibration.hpp"
#include "agp_edge/engine.hpp"
#include "agp_edge/manifest.hpp"
#include "agp_edge/pipeline.hpp"

namespace agp_edge {

struct DetectorOptions {
  std::optional<float> threshold;       // none: the manifest's
  std::optional<float> mask_threshold;  // none: `threshold` if given, else the manifest's
  std::optional<Rect> roi;              // none: the manifest's; frame pixels
  // None: the manifest's, unless `roi` or `ignored` make scores that it was not made of.
  std::optional<CalibrationTail> calibration_tail;
  int min_area = 0;              // anomaly-map pixels
  std::vector<Polygon> ignored;  // don't-care areas, frame pixels; see Decision
  std::uint8_t outputs = kAll;
  int threads = 0;          // of the CPU stages and the engine; 0: chosen
  Wait wait = Wait::kSpin;  // for a GPU
  int geometries = 4;       // see PipelineOptions
};

class Detector {
 public:
  // Opens an .onnx file with the OpenVINO engine, a plan with TensorRT on GPU 0.
  // Throws ModelError, DependencyError, DeviceError.
  explicit Detector(const std::string& model, const DetectorOptions& options = {});
  // Any engine, e.g. a CallableEngine.
  Detector(Manifest manifest, std::shared_ptr<Engine> engine, const DetectorOptions& options = {});
  ~Detector();
  Detector(Detector&&) noexcept;
  Detector& operator=(Detector&&) noexcept;

  Result score(const Frame& frame);

  const Manifest& manifest() const noexcept;
  const Engine& engine() const noexcept;
  const Decision& decision() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace agp_edge
