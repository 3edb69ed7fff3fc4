// Frame -> network input on the GPU: one kernel, the twin of Preprocessor (preprocess_cpu.cpp).
// Region of interest, demosaic, antialiased resize, channel order, normalise, NCHW, FP32 or FP16.
//
// Owns     the tables of one frame geometry in device memory, and the loaded kernels.
// Borrows  frame and output between enqueue() and the end of the stream's work.
// Threads  not re-entrant.
// Blocks   prepare() until the tables are on the device; enqueue() never.
#pragma once

#include <cstddef>
#include <memory>

#include "agp_edge/frame.hpp"
#include "agp_edge/preprocess.hpp"
#include "agp_edge/tensor.hpp"
#include "cuda/cuda_driver.hpp"

namespace agp_edge {

class PreprocessCuda {
 public:
  // Throws ModelError (recipe), FrameError (region of interest), DeviceError.
  PreprocessCuda(std::shared_ptr<const cuda::Context> context, const PreprocessRecipe& recipe,
                 DType output);
  ~PreprocessCuda();
  PreprocessCuda(const PreprocessCuda&) = delete;
  PreprocessCuda& operator=(const PreprocessCuda&) = delete;

  // Tables for frames of this height, width, row_pitch and format; `data` is not looked at. True
  // when they changed: a graph that was captured before must not run again. One object per cached
  // graph, then, where geometries alternate. Outside of any capture; the context is current.
  // Throws FrameError, DeviceError.
  bool prepare(const Frame& geometry, Stream stream);

  // The launch that enqueue() makes, for a graph's kernel node: its first parameter is the frame's
  // address, an Address. Points into this object, until the next call of either.
  const cuda::LaunchParams& launch(cuda::Address frame_data, cuda::Address out);

  // `frame_data`: device (or mapped) memory of the prepared geometry. `out`: (3, height, width) of
  // the type given to the constructor. Allocates nothing; a stream may be capturing.
  void enqueue(Stream stream, cuda::Address frame_data, cuda::Address out);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace agp_edge
