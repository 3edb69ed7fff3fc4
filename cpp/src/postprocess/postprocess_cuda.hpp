// Distance grid -> anomaly map, score, mask on the GPU, regions on the CPU: the twin of
// Postprocessor (postprocess_cpu.cpp).
//
// The device fills one block of memory; its first result_bytes() are downloaded, and finish() makes
// a Result of them. Regions are collected by the CPU's RegionFinder from the downloaded mask: only
// frames with a defect have any, and connected components would cost every frame's graph several
// dependent kernels. Score only: 16 bytes.
//
// Owns     tables, scratch memory and the result block on the device, and the loaded kernels.
// Borrows  the grid between enqueue() and the end of the stream's work.
// Threads  not re-entrant.
// Blocks   prepare() until the tables are on the device; enqueue() and finish() never.
#pragma once

#include <cstddef>
#include <memory>

#include "agp_edge/postprocess.hpp"
#include "agp_edge/result.hpp"
#include "agp_edge/tensor.hpp"
#include "cuda/cuda_driver.hpp"

namespace agp_edge {

class PostprocessCuda {
 public:
  // `grid`: the type of the grid's values. Throws ModelError (recipe), DeviceError.
  PostprocessCuda(std::shared_ptr<const cuda::Context> context, const PostprocessRecipe& recipe,
                  DType grid);
  ~PostprocessCuda();
  PostprocessCuda(const PostprocessCuda&) = delete;
  PostprocessCuda& operator=(const PostprocessCuda&) = delete;

  // Fixes what enqueue() computes. True when it changed: a graph that was captured before must not
  // run again. Outside of any capture; the context is current. Throws FrameError when the
  // don't-care areas leave nothing of the view, DeviceError.
  bool prepare(const Rect& view, const Decision& decision, Stream stream);

  // `grid`: (grid_height, grid_width) in device memory. Allocates nothing; a stream may be
  // capturing.
  void enqueue(Stream stream, cuda::Address grid);

  // The result block: device address, the same for the life of the object, and how much of it the
  // prepared outputs need.
  cuda::Address result() const noexcept;
  std::size_t result_bytes() const noexcept;
  std::size_t most_result_bytes() const noexcept;  // of any outputs: for a pinned buffer

  // `block`: result_bytes() of the block in host memory, aligned to 16 bytes. Reuses the result's
  // memory; latency is left alone. Throws ModelError when the grid held a value that is not finite.
  void finish(const void* block, Result& result);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace agp_edge
