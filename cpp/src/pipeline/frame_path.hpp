// The way of a frame through one pipeline, on the CPU or on a GPU.
//
// Owns     buffers and stages; shares the engine.
// Borrows  the frame for the length of score().
// Threads  not re-entrant; from any thread.
// Blocks   until the result is there.
#pragma once

#include <chrono>
#include <memory>

#include "agp_edge/engine.hpp"
#include "agp_edge/frame.hpp"
#include "agp_edge/pipeline.hpp"
#include "agp_edge/postprocess.hpp"
#include "agp_edge/preprocess.hpp"
#include "agp_edge/result.hpp"

namespace agp_edge {

class FramePath {
 public:
  FramePath() = default;
  FramePath(const FramePath&) = delete;
  FramePath& operator=(const FramePath&) = delete;
  virtual ~FramePath() = default;

  // Fills all of the result but the latency's total. Throws as Pipeline::score().
  virtual void score(const Frame& frame, const Decision& decision, Result& result) = 0;
};

// Stages on the CPU; the engine where it is. Throws DeviceError.
std::unique_ptr<FramePath> make_cpu_path(std::shared_ptr<Engine> engine,
                                         const PreprocessRecipe& preprocess,
                                         const PostprocessRecipe& postprocess, int threads);

// The part of the frame that the anomaly map covers.
inline Rect view_of(const Frame& frame, const PreprocessRecipe& recipe) {
  return recipe.roi.empty() ? Rect{0, 0, frame.width, frame.height} : recipe.roi;
}

using Clock = std::chrono::steady_clock;

inline double milliseconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

}  // namespace agp_edge
