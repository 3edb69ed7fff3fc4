// An engine that is one C function pointer: ONNX Runtime, TensorRT's Python bindings, a torch
// model, a test that injects a fault.
//
// Borrows  `user` until destruction; `release` (may be null) is then called with it, once.
// Threads  as Engine: one call at a time, from whichever thread scores.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "agp_edge/engine.hpp"

namespace agp_edge {

// Returns 0, or non-zero after writing one NUL-terminated sentence into `error` (at most
// `error_bytes` with the NUL); the pipeline throws it as ModelError.
using EnqueueFunction = int (*)(void* user, Stream stream, const void* const* in, void* const* out,
                                char* error, std::size_t error_bytes);

class CallableEngine final : public Engine {
 public:
  CallableEngine(std::string name, std::vector<TensorSpec> inputs, std::vector<TensorSpec> outputs,
                 EnqueueFunction function, void* user, void (*release)(void*) = nullptr,
                 Memory memory = Memory::kHost, int device = 0);
  ~CallableEngine() override;

  std::string name() const override { return name_; }
  const std::vector<TensorSpec>& inputs() const override { return inputs_; }
  const std::vector<TensorSpec>& outputs() const override { return outputs_; }
  Memory memory() const noexcept override { return memory_; }
  int device() const noexcept override { return device_; }
  void enqueue(Stream stream, const void* const* in, void* const* out) override;

 private:
  std::string name_;
  std::vector<TensorSpec> inputs_;
  std::vector<TensorSpec> outputs_;
  EnqueueFunction function_;
  void* user_;
  void (*release_)(void*);
  Memory memory_;
  int device_;
};

}  // namespace agp_edge
