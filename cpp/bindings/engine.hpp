// Engines as Python holds them.
#pragma once

#include <pybind11/pybind11.h>

#include <exception>
#include <memory>

#include "agp_edge/callable_engine.hpp"

namespace agp_edge::bindings {

// A CallableEngine whose function is a Python one.
//
// Owns     a reference to the function, dropped with the GIL held.
// Threads  enqueue() is called without the GIL and takes it for the function's run.
class PythonEngine final : public Engine {
 public:
  // `clone`: makes another function like `function`, whose calls may run beside its own; null:
  // there is none.
  PythonEngine(std::string name, std::vector<TensorSpec> inputs, std::vector<TensorSpec> outputs,
               pybind11::function function, pybind11::object clone, Memory memory, int device);

  std::string name() const override { return engine_.name(); }
  const std::vector<TensorSpec>& inputs() const override { return engine_.inputs(); }
  const std::vector<TensorSpec>& outputs() const override { return engine_.outputs(); }
  Memory memory() const noexcept override { return engine_.memory(); }
  int device() const noexcept override { return engine_.device(); }
  // What the function raises comes out as it was raised.
  void enqueue(Stream stream, const void* const* in, void* const* out) override;
  // Takes the GIL.
  std::shared_ptr<Engine> clone() override;

 private:
  struct Call;
  Call* call_;  // engine_ releases it
  CallableEngine engine_;
};

}  // namespace agp_edge::bindings
