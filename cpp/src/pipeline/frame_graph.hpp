// The work of one frame geometry on a GPU: upload, preprocess, engine, postprocess, download; in
// stream order, or as one graph.
//
// Owns     stages, staging and result memory, and the graph; shares context and engine.
// Borrows  the tensors, `times` (null: none are taken), and the frame until the stream's work is
// done. Threads  not re-entrant. The context is current in every call. Blocks   the constructor and
// record(); enqueue() never.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "agp_edge/engine.hpp"
#include "agp_edge/frame.hpp"
#include "agp_edge/postprocess.hpp"
#include "agp_edge/preprocess.hpp"
#include "cuda/cuda_driver.hpp"
#include "cuda/cuda_graph.hpp"
#include "pipeline/device_times.hpp"
#include "postprocess/postprocess_cuda.hpp"
#include "preprocess/preprocess_cuda.hpp"

namespace agp_edge {

// Where the pixels of a frame are read from.
//   kStaged  pageable host memory: copied into pinned memory first, rows without gaps
//   kPinned  pinned host memory: the GPU takes them from there
//   kDevice  device memory: the kernel reads them where they are
enum class FrameSource : std::uint8_t { kStaged, kPinned, kDevice };

struct FrameGeometry {
  int height = 0;
  int width = 0;
  std::size_t row_pitch = 0;  // kStaged: of the staging memory
  PixelFormat format = PixelFormat::kBgr8;
  FrameSource source = FrameSource::kStaged;

  bool operator==(const FrameGeometry& other) const noexcept;
};

// What all geometries of a pipeline share.
struct FrameTensors {
  FrameTensors(const std::shared_ptr<const cuda::Context>& context, const Engine& engine);
  cuda::DeviceBuffer input;
  cuda::DeviceBuffer output;
};

class FrameGraph {
 public:
  // Throws FrameError (region of interest), DeviceError.
  FrameGraph(std::shared_ptr<const cuda::Context> context, std::shared_ptr<Engine> engine,
             const FrameTensors& tensors, const FrameGeometry& geometry,
             const PreprocessRecipe& preprocess, const PostprocessRecipe& postprocess,
             cuda::OwnedStream& stream, DeviceTimes* times);

  const FrameGeometry& geometry() const noexcept { return geometry_; }
  bool recorded() const noexcept { return graph_.has_value(); }

  // Before enqueue(): what is asked of this frame, and its pixels if they have to be staged.
  void prepare(const Frame& frame, const Decision& decision);

  // The prepared frame's work into the stream: a launch of the graph, or step by step.
  void enqueue();

  // From now on as a graph. What the engine throws while it is recorded comes out; DeviceError.
  void record();

  // The result of the frame whose work is done.
  void finish(Result& result) { postprocess_.finish(block_.data(), result); }

  // Of the frame whose work is done: reads the events; adds what they say to the host's times.
  void read_times();
  void add_times(Latency& latency) const;

 private:
  void put_in_order(bool recording);
  void mark(DeviceTimes::Mark mark, bool recording);
  void run_engine();
  bool read_in_place() const noexcept;

  std::shared_ptr<const cuda::Context> context_;
  std::shared_ptr<Engine> engine_;
  const FrameTensors& tensors_;
  FrameGeometry geometry_;
  PreprocessRecipe recipe_;
  cuda::OwnedStream& stream_;
  DeviceTimes* times_;
  Latency on_gpu_;
  PreprocessCuda preprocess_;
  PostprocessCuda postprocess_;
  std::optional<cuda::PinnedBuffer> staging_;   // kStaged
  std::optional<cuda::DeviceBuffer> uploaded_;  // unless the kernel reads in place
  cuda::PinnedBuffer block_;
  std::optional<cuda::Graph> graph_;
  std::size_t bytes_ = 0;               // of the frame, from the first pixel to the last
  const void* source_ = nullptr;        // what is uploaded next
  cuda::Address read_ = 0;              // what the kernel reads next
  const void* graph_source_ = nullptr;  // and what the graph knows of both
  cuda::Address graph_read_ = 0;
};

}  // namespace agp_edge
