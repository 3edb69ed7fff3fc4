// A model file and a frame in, a verdict out.
//
// Owns     manifest and pipelines, one for each frame in flight, and the threads of submit().
// Borrows  a frame for the length of score() and score_batch(); after submit() until it is
// answered. Threads  every call from any thread; frames take their turn in order of arrival. Blocks
// score() and score_batch() until the results are there; submit() while as many frames are
//          in flight as may be. After fork() a detector is the parent's: open another in the child.
#pragma once

#include <chrono>
#include <cstdint>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agp_edge/calibration.hpp"
#include "agp_edge/engine.hpp"
#include "agp_edge/manifest.hpp"
#include "agp_edge/pipeline.hpp"
#include "agp_edge/thread_placement.hpp"

namespace agp_edge {

constexpr int kDefaultInFlight = 2;
constexpr int kMaxInFlight = 64;

struct DetectorOptions {
  std::optional<float> threshold;       // none: the manifest's
  std::optional<float> mask_threshold;  // none: `threshold` if given, else the manifest's
  std::optional<Rect> roi;              // none: the manifest's; frame pixels
  // None: the manifest's, unless `roi` or `ignored` make scores that it was not made of.
  std::optional<CalibrationTail> calibration_tail;
  int min_area = 0;              // anomaly-map pixels
  std::vector<Polygon> ignored;  // don't-care areas, frame pixels; see Decision
  std::uint8_t outputs = kAll;
  int threads = 0;            // of the CPU stages and the engine; 0: chosen
  Wait wait = Wait::kSpin;    // for a GPU
  int geometries = 4;         // see PipelineOptions
  bool device_times = false;  // see PipelineOptions
  // Frames that submit() works on at a time, each with buffers of its own. 0: kDefaultInFlight,
  // made by the first submit(); else made at once, and a CPU engine opened for throughput.
  int in_flight = 0;
  // Of the threads that work on frames. If set, score() hands its frame to one of them.
  ThreadPlacement placement;
};

class Detector {
 public:
  // Opens an .onnx file with the OpenVINO engine, a plan with TensorRT on GPU 0.
  // Throws ModelError, DependencyError, DeviceError; Error: a wrong or forbidden option.
  explicit Detector(const std::string& model, const DetectorOptions& options = {});
  // Any engine, e.g. a CallableEngine.
  Detector(Manifest manifest, std::shared_ptr<Engine> engine, const DetectorOptions& options = {});
  // As close(false). In a function given to submit(), it does not wait for it.
  ~Detector();
  Detector(Detector&&) noexcept;
  Detector& operator=(Detector&&) noexcept;

  Result score(const Frame& frame);

  // Scores beside others. Throws BusyError when there is no room within `timeout` (none: waits),
  // Error when closed; all that happens later arrives through the future.
  std::future<Result> submit(const Frame& frame,
                             std::optional<std::chrono::nanoseconds> timeout = std::nullopt);
  // The same with a call at the end, in a thread of the detector's: one at a time, in the order of
  // submit(). It must not throw. submit() inside it waits for nothing.
  void submit(const Frame& frame, Answered done,
              std::optional<std::chrono::nanoseconds> timeout = std::nullopt);

  // Results in the frames' order, several frames in flight. Throws what the first frame that failed
  // threw, with its index ("frame 3 of the batch: ..."), when no frame is borrowed any more.
  std::vector<Result> score_batch(const std::vector<Frame>& frames);

  // Whether the caller is a function given to submit(), which must not wait for other frames.
  bool is_own_thread() const noexcept;

  // Takes no more frames, and waits for those that it has. `drain`: all are scored; else those that
  // nobody works on yet are answered with an Error. Again: nothing.
  void close(bool drain = true);

  const Manifest& manifest() const noexcept;
  const Engine& engine() const noexcept;
  const Decision& decision() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace agp_edge
