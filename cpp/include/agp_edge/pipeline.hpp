// Frame -> Preprocess -> Engine -> Postprocess -> Result, with every buffer allocated once.
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

class Pipeline {
 public:
  // Throws ModelError when the engine's tensors do not fit the recipes.
  Pipeline(std::shared_ptr<Engine> engine, const PreprocessRecipe& preprocess,
           const PostprocessRecipe& postprocess, int threads = 0);
  ~Pipeline();
  Pipeline(const Pipeline&) = delete;
  Pipeline& operator=(const Pipeline&) = delete;

  // Throws FrameError, ModelError or DeviceError; the pipeline is usable afterwards.
  Result score(const Frame& frame, const Decision& decision);

  const Engine& engine() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace agp_edge
