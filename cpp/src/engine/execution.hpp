// The engine's part of a frame: its tensors, wherever they live, and one run.
//
// Owns     the input and output tensors and, for an engine in device memory, their pinned staging,
//          the device's context and the stream; shares the engine. Allocated once.
// Threads  not re-entrant; run() may be called from any thread.
// Blocks   run() returns when the output is in host memory.
#pragma once

#include <memory>

#include "agp_edge/engine.hpp"

namespace agp_edge {

class Execution {
 public:
  Execution() = default;
  Execution(const Execution&) = delete;
  Execution& operator=(const Execution&) = delete;
  virtual ~Execution() = default;

  virtual float* input() noexcept = 0;               // host memory, written before run()
  virtual const float* output() const noexcept = 0;  // host memory, read after run()

  // Throws ModelError or DeviceError; nothing of the failed run is still at work afterwards.
  virtual void run() = 0;
};

// The engine has one float32 input and one float32 output. Throws DeviceError.
std::unique_ptr<Execution> make_execution(std::shared_ptr<Engine> engine);

}  // namespace agp_edge
