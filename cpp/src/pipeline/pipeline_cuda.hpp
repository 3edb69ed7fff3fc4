// The whole frame on the GPU: camera memory to result block in one CUDA graph.
#pragma once

#include <memory>

#include "agp_edge/pipeline.hpp"
#include "pipeline/frame_path.hpp"

namespace agp_edge {

// The first frame of a geometry runs in stream order and is then recorded; later ones replay the
// recording, and only a new frame address is written into it. No allocation, one wait a frame.
//
// Owns     context, stream, tensors, and a FrameGraph per geometry; shares the engine.
// Borrows  the frame for the length of score().
// Threads  not re-entrant; from any thread.
// Blocks   score() until the result is there.
//
// The engine is in device memory and the library has kernels. Throws ModelError, FrameError,
// DeviceError.
std::unique_ptr<FramePath> make_cuda_path(std::shared_ptr<Engine> engine,
                                          const PreprocessRecipe& preprocess,
                                          const PostprocessRecipe& postprocess,
                                          const PipelineOptions& options);

}  // namespace agp_edge
