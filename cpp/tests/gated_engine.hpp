// An engine on the host whose runs stand still until they are let go: what runs at the same time is
// then no matter of luck. Its clones share gate and counters.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "agp_edge/engine.hpp"
#include "agp_edge/error.hpp"
#include "models.hpp"

namespace gated {

class Gate {
 public:
  void open() { set(true); }
  void shut() { set(false); }

  // By the engine: counts, and stands still while shut.
  void pass() {
    std::unique_lock<std::mutex> lock(mutex_);
    ++running_;
    most_at_once_ = running_ > most_at_once_ ? running_ : most_at_once_;
    ++entered_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return open_; });
    --running_;
  }
  void wait_until_entered(int runs) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return entered_ >= runs; });
  }
  int entered() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return entered_;
  }
  int most_at_once() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return most_at_once_;
  }

 private:
  void set(bool open) {
    const std::lock_guard<std::mutex> lock(mutex_);
    open_ = open;
    changed_.notify_all();
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = true;
  int running_ = 0;
  int entered_ = 0;
  int most_at_once_ = 0;
};

class Engine final : public agp_edge::Engine {
 public:
  // `during` is called in each run with the first value of the input, the red of the pixel at the
  // top left: (red - 10) / 2. It may throw.
  using During = std::function<void(float)>;

  Engine(std::shared_ptr<Gate> gate, bool has_clones, During during = nullptr)
      : gate_(std::move(gate)), has_clones_(has_clones), during_(std::move(during)) {}

  std::string name() const override { return "Gated 1.0"; }
  const std::vector<agp_edge::TensorSpec>& inputs() const override { return inputs_; }
  const std::vector<agp_edge::TensorSpec>& outputs() const override { return outputs_; }

  void enqueue(agp_edge::Stream, const void* const* in, void* const* out) override {
    gate_->pass();
    const float first = *static_cast<const float*>(in[0]);
    if (during_) during_(first);
    auto* const grid = static_cast<float*>(out[0]);
    for (int i = 0; i < models::kGrid * models::kGrid; ++i) grid[i] = first;
  }

  std::shared_ptr<agp_edge::Engine> clone() override {
    return has_clones_ ? std::make_shared<Engine>(gate_, true, during_) : nullptr;
  }

 private:
  std::shared_ptr<Gate> gate_;
  bool has_clones_;
  During during_;
  std::vector<agp_edge::TensorSpec> inputs_{
      {"image", agp_edge::DType::kFloat32, {1, 3, models::kInput, models::kInput}}};
  std::vector<agp_edge::TensorSpec> outputs_{
      {"distance", agp_edge::DType::kFloat32, {1, 1, models::kGrid, models::kGrid}}};
};

// One grey all over: its score is score_of(value).
class Grey {
 public:
  explicit Grey(int value)
      : pixels_(std::size_t{models::kInput} * models::kInput, static_cast<std::uint8_t>(value)) {}
  agp_edge::Frame frame() const {
    return {pixels_.data(), models::kInput, models::kInput, models::kInput,
            agp_edge::PixelFormat::kMono8};
  }

 private:
  std::vector<std::uint8_t> pixels_;
};

inline float score_of(int value) { return static_cast<float>(value - 10) / 2; }

}  // namespace gated
