// The one seam between our code and other people's inference engines.
//
// Owns     whatever the engine needs: model, session, context.
// Borrows  the buffers given to enqueue() until the work on the stream is done.
// Threads  not re-entrant: one enqueue() at a time, which the detector sees to. A clone's may run
//          beside the original's.
// Blocks   CPU engines return when the outputs are written; GPU engines return at once and the
//          outputs are there when the stream is synchronised.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "agp_edge/memory.hpp"
#include "agp_edge/tensor.hpp"

namespace agp_edge {

class Engine {
 public:
  Engine() = default;
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;
  virtual ~Engine() = default;

  // "OpenVINO 2026.1", "ONNX Runtime 1.24": name and version, for doctor and reports.
  virtual std::string name() const = 0;
  virtual const std::vector<TensorSpec>& inputs() const = 0;
  virtual const std::vector<TensorSpec>& outputs() const = 0;

  // kDevice: addresses of the primary context of the CUDA device `device()`, which is current
  // while the pipeline calls enqueue().
  virtual Memory memory() const noexcept { return Memory::kHost; }
  virtual int device() const noexcept { return 0; }

  // `in` and `out` hold one address per inputs() and outputs(), in that order. The pipeline calls
  // with the same addresses every time, so an engine may bind them once and only check afterwards.
  // `stream` is null where memory() is kHost. Where it is kDevice the call may be recorded: the
  // stream captures, and what the call puts there is replayed for later frames without a call. An
  // engine that cannot be recorded throws, or makes a CUDA call that is refused then; it is called
  // for every frame instead.
  // Throws ModelError or DeviceError.
  virtual void enqueue(Stream stream, const void* const* in, void* const* out) = 0;

  // Another context of the same model (an infer request, an execution context): it shares the
  // weights, has buffers of its own, and outlives this one if it has to. Null where the engine has
  // none; then pipelines on the host take turns, and a GPU gets one pipeline. Throws as the
  // opening.
  virtual std::shared_ptr<Engine> clone() { return nullptr; }
};

}  // namespace agp_edge
