// Frame -> Preprocess -> Engine -> Postprocess -> Result, with every buffer allocated once.
//
// Where the engine's memory is a GPU's and this library was built with CUDA kernels, all of it runs
// there: the first frame of a geometry is recorded as one CUDA graph, later ones replay it. Else
// both stages run on the CPU.
//
// Owns     the input and output tensors and both stages; shares the engine.
// Borrows  the frame for the length of score().
// Threads  score() may be called from any thread; calls take turns. Not from inside its engine.
// Blocks   until the result is there.
#pragma once

#include <memory>

#include "agp_edge/engine.hpp"
#include "agp_edge/frame.hpp"
#include "agp_edge/postprocess.hpp"
#include "agp_edge/preprocess.hpp"
#include "agp_edge/result.hpp"

namespace agp_edge {

struct PipelineOptions {
  int threads = 0;          // of the CPU stages; 0: chosen
  Wait wait = Wait::kSpin;  // for a GPU
  // Frame geometries (size, pitch, format, kind of memory) whose graphs and buffers are kept on a
  // GPU, the last used ones; 1 or more.
  int geometries = 4;
  // Measure a GPU's parts of the work with CUDA events, for Latency: a few microseconds a frame.
  bool device_times = false;
};

class Pipeline {
 public:
  // Throws ModelError when the engine's tensors do not fit the recipes, DeviceError.
  Pipeline(std::shared_ptr<Engine> engine, const PreprocessRecipe& preprocess,
           const PostprocessRecipe& postprocess, const PipelineOptions& options = {});
  ~Pipeline();
  Pipeline(const Pipeline&) = delete;
  Pipeline& operator=(const Pipeline&) = delete;

  // Throws FrameError, ModelError or DeviceError; the pipeline is usable afterwards, unless the
  // GPU's context broke: then every call says so, and a new pipeline works.
  Result score(const Frame& frame, const Decision& decision);

  const Engine& engine() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace agp_edge
