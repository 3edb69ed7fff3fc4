#include "engine/execution.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>

#include "cpu/aligned_buffer.hpp"
#include "cuda/cuda_driver.hpp"

namespace agp_edge {
namespace {

// An engine that returns without writing must not repeat the last frame's verdict: its output is
// filled with this before each run, and postprocessing refuses it.
constexpr float kUnwritten = std::numeric_limits<float>::quiet_NaN();

class HostExecution final : public Execution {
 public:
  explicit HostExecution(std::shared_ptr<Engine> engine)
      : engine_(std::move(engine)),
        input_(engine_->inputs().front().elements()),
        output_(engine_->outputs().front().elements()) {}

  float* input() noexcept override { return input_.data(); }
  const float* output() const noexcept override { return output_.data(); }

  void run() override {
    std::fill_n(output_.data(), output_.size(), kUnwritten);
    const void* const in[] = {input_.data()};
    void* const out[] = {output_.data()};
    engine_->enqueue(nullptr, in, out);
  }

 private:
  std::shared_ptr<Engine> engine_;
  AlignedBuffer input_;
  AlignedBuffer output_;
};

class DeviceExecution final : public Execution {
 public:
  explicit DeviceExecution(std::shared_ptr<Engine> engine)
      : context_(std::make_shared<cuda::Context>(engine->device())),
        engine_(std::move(engine)),
        device_input_(context_, bytes(engine_->inputs())),
        device_output_(context_, bytes(engine_->outputs())),
        input_(context_, device_input_.bytes()),
        output_(context_, device_output_.bytes()),
        stream_(context_) {
    std::memcpy(&unwritten_, &kUnwritten, sizeof(unwritten_));
  }

  float* input() noexcept override { return static_cast<float*>(input_.data()); }
  const float* output() const noexcept override {
    return static_cast<const float*>(output_.data());
  }

  void run() override {
    const cuda::Current current(*context_);
    try {
      stream_.upload(device_input_.address(), input_.data(), input_.bytes());
      stream_.fill(device_output_, unwritten_);
      const void* const in[] = {device_input_.pointer()};
      void* const out[] = {device_output_.pointer()};
      engine_->enqueue(stream_.get(), in, out);
      stream_.download(output_.data(), device_output_.address(), output_.bytes());
    } catch (...) {
      stream_.drain();  // what was enqueued still reads and writes the buffers
      throw;
    }
    stream_.synchronize();
  }

 private:
  static std::size_t bytes(const std::vector<TensorSpec>& tensors) {
    return tensors.front().elements() * sizeof(float);
  }

  // In creation order: the stream goes first and waits, then the buffers, the engine, the context.
  std::shared_ptr<const cuda::Context> context_;
  std::shared_ptr<Engine> engine_;
  cuda::DeviceBuffer device_input_;
  cuda::DeviceBuffer device_output_;
  cuda::PinnedBuffer input_;
  cuda::PinnedBuffer output_;
  cuda::OwnedStream stream_;
  std::uint32_t unwritten_ = 0;
};

}  // namespace

std::unique_ptr<Execution> make_execution(std::shared_ptr<Engine> engine) {
  if (engine->memory() == Memory::kHost) return std::make_unique<HostExecution>(std::move(engine));
  return std::make_unique<DeviceExecution>(std::move(engine));
}

}  // namespace agp_edge
