// An engine on the host that several pipelines share: their enqueue() calls take turns.
//
// Owns     a share of the engine.
// Threads  enqueue() from any.
// Blocks   enqueue() while another's runs; not fair, since no more wait than there are pipelines.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "agp_edge/engine.hpp"

namespace agp_edge {

class EngineInTurns final : public Engine {
 public:
  explicit EngineInTurns(std::shared_ptr<Engine> engine) : engine_(std::move(engine)) {}

  std::string name() const override { return engine_->name(); }
  const std::vector<TensorSpec>& inputs() const override { return engine_->inputs(); }
  const std::vector<TensorSpec>& outputs() const override { return engine_->outputs(); }
  Memory memory() const noexcept override { return engine_->memory(); }
  int device() const noexcept override { return engine_->device(); }

  void enqueue(Stream stream, const void* const* in, void* const* out) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    engine_->enqueue(stream, in, out);
  }

 private:
  std::shared_ptr<Engine> engine_;
  std::mutex mutex_;
};

}  // namespace agp_edge
