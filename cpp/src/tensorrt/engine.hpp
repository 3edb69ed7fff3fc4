// One plan in one TensorRT: compiled once per major, against its own headers.
//
// Owns     runtime, engine and context, released in the reverse order; clones share the first two;
//          TensorRT's library stays.
// Borrows  the plan's bytes for the length of the constructor.
// Threads  not re-entrant: one enqueue() at a time, under the CUDA context of the construction.
// Blocks   the constructor loads the weights; enqueue() returns before the GPU finishes.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "module.h"

namespace agp_edge::tensorrt {

// Stays inside the module, which turns it into a status and a text.
class Failure : public std::runtime_error {
 public:
  Failure(agp_edge_tensorrt_status status, const std::string& details)
      : std::runtime_error(details), status_(status) {}
  agp_edge_tensorrt_status status() const noexcept { return status_; }

 private:
  agp_edge_tensorrt_status status_;
};

// TensorRT's library, opened on demand and never closed: it keeps threads and CUDA state.
class Library {
 public:
  // Throws Failure: not found, or of a version that these headers do not fit.
  // `version` is set as soon as it is known.
  Library(const char* file, std::int32_t& version);

  // Null when TensorRT gives none.
  std::unique_ptr<nvinfer1::IRuntime> create_runtime(nvinfer1::ILogger& logger) const;

 private:
  void* (*create_runtime_)(void* logger, std::int32_t version) = nullptr;
};

class Engine {
 public:
  Engine(const Library& library, const void* plan, std::size_t plan_bytes);

  // Another context of the same weights.
  std::unique_ptr<Engine> clone() const;

  const char* name() const noexcept { return engine_->getName(); }
  const std::vector<agp_edge_tensorrt_tensor>& tensors() const noexcept { return tensors_; }

  void enqueue(CUstream_st* stream, const void* const* in, void* const* out);

 private:
  // Throws Failure unless it is linear float memory on the device, of a static shape.
  agp_edge_tensorrt_tensor describe(const char* tensor) const;

  Engine() = default;
  void make_context();

  std::shared_ptr<nvinfer1::IRuntime> runtime_;  // in creation order
  std::shared_ptr<nvinfer1::ICudaEngine> engine_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  std::vector<agp_edge_tensorrt_tensor> tensors_;
  std::vector<const void*> bound_;  // addresses of the last enqueue, one per tensor
};

}  // namespace agp_edge::tensorrt
