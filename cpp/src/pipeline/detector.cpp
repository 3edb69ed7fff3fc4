#include "agp_edge/detector.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <mutex>
#include <utility>

#include "agp_edge/error.hpp"
#include "agp_edge/openvino_engine.hpp"
#include "agp_edge/tensorrt_engine.hpp"
#include "engine/engine_in_turns.hpp"
#include "model/model_file.hpp"
#include "pipeline/slots.hpp"
#include "pipeline/submission_queue.hpp"

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
  pipeline.device_times = options.device_times;
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

int checked_in_flight(int in_flight) {
  if (in_flight < 0 || in_flight > kMaxInFlight) {
    throw Error(std::to_string(in_flight) + " frames in flight were asked for, 1 to " +
                std::to_string(kMaxInFlight) + " are expected, or 0 to have it chosen");
  }
  return in_flight;
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
  openvino.streams = std::max(1, checked_in_flight(options.in_flight));
  openvino.cpus = options.placement.cpus;
  return open_openvino(path, openvino);
}

// What the first frame that failed threw, with its place.
[[noreturn]] void rethrow(const std::exception_ptr& error, std::size_t index) {
  const std::string where = "frame " + std::to_string(index) + " of the batch: ";
  try {
    std::rethrow_exception(error);
  } catch (const ModelError& own) {
    throw ModelError(where + own.what());
  } catch (const FrameError& own) {
    throw FrameError(where + own.what());
  } catch (const DeviceError& own) {
    throw DeviceError(where + own.what());
  } catch (const Error& own) {
    throw Error(where + own.what());
  }
}

}  // namespace

struct Detector::Impl {
  Impl(Manifest read, std::shared_ptr<Engine> used, const DetectorOptions& options);

  std::unique_ptr<Pipeline> new_pipeline(std::shared_ptr<Engine> context) const;
  // Made once; throws what an engine's context, a pipeline or a thread throws, and may be tried
  // again.
  SubmissionQueue& queue();
  bool is_own_thread();
  Result score(const Frame& frame, SubmissionQueue::Clock::time_point entered);

  Manifest manifest;
  Decision decision;
  std::optional<CalibrationTail> calibration_tail;
  PreprocessRecipe recipe;
  PipelineOptions pipeline;
  int in_flight;
  ThreadPlacement placement;
  std::shared_ptr<Engine> engine;
  std::shared_ptr<Engine> first_context;  // `engine`; on the host, with its calls in turns
  Slots slots;
  std::atomic<bool> closed{false};
  std::mutex queue_mutex;
  std::unique_ptr<SubmissionQueue> submissions;  // last: its threads use the rest
};

Detector::Impl::Impl(Manifest read, std::shared_ptr<Engine> used, const DetectorOptions& options)
    : manifest(std::move(read)),
      decision(decision_from(manifest, options)),
      calibration_tail(tail_from(manifest, options)),
      recipe(recipe_from(manifest, options)),
      pipeline(pipeline_options(options)),
      in_flight(checked_in_flight(options.in_flight)),
      placement(options.placement),
      engine(std::move(used)) {
  if (!engine) throw ModelError("the detector was given no engine, open one first");
  first_context =
      engine->memory() == Memory::kHost ? std::make_shared<EngineInTurns>(engine) : engine;
  slots.add(new_pipeline(first_context));
  check_name(*engine, engine->inputs(), manifest.input_name, "input");
  check_name(*engine, engine->outputs(), manifest.output_name, "output");
  const bool at_once = in_flight > 0 || !placement.empty();
  if (in_flight == 0) in_flight = kDefaultInFlight;
  if (at_once) queue();
}

std::unique_ptr<Pipeline> Detector::Impl::new_pipeline(std::shared_ptr<Engine> context) const {
  return std::make_unique<Pipeline>(std::move(context), recipe, manifest.postprocess, pipeline);
}

SubmissionQueue& Detector::Impl::queue() {
  const std::lock_guard<std::mutex> lock(queue_mutex);
  if (submissions) return *submissions;
  if (closed) throw Error("the detector is closed: open the model again");
  while (slots.size() < in_flight) {
    std::shared_ptr<Engine> context = engine->clone();
    if (!context) {
      // Work that one context puts on two streams would run at once, in the same memory.
      if (engine->memory() == Memory::kDevice) break;
      context = first_context;
    }
    slots.add(new_pipeline(std::move(context)));
  }
  submissions = std::make_unique<SubmissionQueue>(
      in_flight, placement, [this](const Frame& frame, SubmissionQueue::Clock::time_point entered) {
        return score(frame, entered);
      });
  return *submissions;
}

bool Detector::Impl::is_own_thread() {
  const std::lock_guard<std::mutex> lock(queue_mutex);
  return submissions && submissions->is_own_thread();
}

Result Detector::Impl::score(const Frame& frame, SubmissionQueue::Clock::time_point entered) {
  const Slots::Hold slot = slots.take();
  const std::chrono::duration<double, std::milli> wait = SubmissionQueue::Clock::now() - entered;
  Result result = slot.pipeline().score(frame, decision);
  result.latency.wait_ms += wait.count();
  result.latency.total_ms += wait.count();
  if (calibration_tail) result.p_value = calibration_tail->p_value(result.score);
  return result;
}

Detector::Detector(const std::string& model, const DetectorOptions& options) {
  std::string json;
  std::shared_ptr<Engine> engine;
  // An engine's own threads are placed as the thread that starts them.
  run_placed(options.placement, [&] { engine = open_model(model, options, json); });
  impl_ = std::make_unique<Impl>(Manifest::parse(json, model), std::move(engine), options);
}

Detector::Detector(Manifest manifest, std::shared_ptr<Engine> engine,
                   const DetectorOptions& options)
    : impl_(std::make_unique<Impl>(std::move(manifest), std::move(engine), options)) {}

Detector::~Detector() = default;
Detector::Detector(Detector&&) noexcept = default;
Detector& Detector::operator=(Detector&&) noexcept = default;

Result Detector::score(const Frame& frame) {
  const auto entered = SubmissionQueue::Clock::now();
  if (impl_->closed) throw Error("the detector is closed: open the model again");
  if (impl_->placement.empty() || impl_->is_own_thread()) return impl_->score(frame, entered);
  return submit(frame).get();
}

std::future<Result> Detector::submit(const Frame& frame,
                                     std::optional<std::chrono::nanoseconds> timeout) {
  auto promise = std::make_shared<std::promise<Result>>();
  std::future<Result> future = promise->get_future();
  submit(
      frame,
      [promise](Answer&& answer) {
        if (answer.error) {
          promise->set_exception(std::move(answer.error));
        } else {
          promise->set_value(std::move(answer.result));
        }
      },
      timeout);
  return future;
}

void Detector::submit(const Frame& frame, Answered done,
                      std::optional<std::chrono::nanoseconds> timeout) {
  frame.validate();
  impl_->queue().push(frame, std::move(done), timeout);
}

std::vector<Result> Detector::score_batch(const std::vector<Frame>& frames) {
  if (is_own_thread()) {
    throw Error(
        "score_batch() was called by a function given to submit(), for whose end its "
        "frames would wait: call it in another thread");
  }
  std::vector<Result> results(frames.size());
  std::vector<std::exception_ptr> errors(frames.size());
  std::mutex mutex;
  std::condition_variable changed;
  std::size_t answered = 0;
  bool failed = false;
  const auto has_failed = [&] {
    const std::lock_guard<std::mutex> lock(mutex);
    return failed;
  };
  std::size_t begun = 0;
  for (; begun < frames.size() && !has_failed(); ++begun) {
    const std::size_t index = begun;
    try {
      submit(frames[index], [&, index](Answer&& answer) {
        const std::lock_guard<std::mutex> lock(mutex);
        results[index] = std::move(answer.result);
        errors[index] = std::move(answer.error);
        failed = failed || errors[index];
        ++answered;
        changed.notify_one();
      });
    } catch (...) {
      errors[index] = std::current_exception();
      break;
    }
  }
  std::unique_lock<std::mutex> lock(mutex);
  changed.wait(lock, [&] { return answered == begun; });
  for (std::size_t index = 0; index < frames.size(); ++index) {
    if (errors[index]) rethrow(errors[index], index);
  }
  return results;
}

bool Detector::is_own_thread() const noexcept { return impl_->is_own_thread(); }

void Detector::close(bool drain) {
  SubmissionQueue* submissions = nullptr;
  {
    const std::lock_guard<std::mutex> lock(impl_->queue_mutex);
    impl_->closed = true;
    submissions = impl_->submissions.get();
  }
  if (submissions != nullptr) submissions->close(drain);
}

const Manifest& Detector::manifest() const noexcept { return impl_->manifest; }
const Engine& Detector::engine() const noexcept { return *impl_->engine; }
const Decision& Detector::decision() const noexcept { return impl_->decision; }

}  // namespace agp_edge
