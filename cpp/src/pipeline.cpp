#include "agp_edge/pipeline.hpp"

#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>
#include <utility>

#include "agp_edge/error.hpp"
#include "execution.hpp"
#include "tensor_text.hpp"

namespace agp_edge {
namespace {

using Clock = std::chrono::steady_clock;

double milliseconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

// Who is inside score(): a second call of the same thread would wait for itself for ever.
class Turn {
 public:
  Turn(std::mutex& mutex, std::atomic<std::thread::id>& owner) : owner_(owner) {
    if (owner_ == std::this_thread::get_id()) {
      throw ModelError(
          "score() was called by its own engine's function, which has to return first: give that "
          "function a detector of its own");
    }
    lock_ = std::unique_lock<std::mutex>(mutex);
    owner_ = std::this_thread::get_id();
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;
  ~Turn() { owner_ = std::thread::id(); }

 private:
  std::atomic<std::thread::id>& owner_;
  std::unique_lock<std::mutex> lock_;
};

// One tensor of that role, of the type and shape that the recipe needs.
void check_tensor(const Engine& engine, const std::vector<TensorSpec>& tensors, const char* role,
                  const std::vector<std::int64_t>& shape) {
  if (tensors.size() != 1) {
    throw ModelError("the model in " + engine.name() + " has " + std::to_string(tensors.size()) +
                     " " + role + "s, one is expected: export it again");
  }
  const TensorSpec& tensor = tensors.front();
  if (tensor.dtype == DType::kFloat16) {
    throw ModelError("the model in " + engine.name() + " has the " + role + " " +
                     to_string(tensor) + ", float32 " + to_string(shape) +
                     " is expected also where its layers are float16: make it of the float32 model "
                     "with `agp-edge build --precision fp16`, which keeps inputs and outputs");
  }
  if (tensor.dtype != DType::kFloat32 || tensor.shape != shape) {
    throw ModelError("the model in " + engine.name() + " has the " + role + " " +
                     to_string(tensor) + ", its manifest says float32 " + to_string(shape) +
                     ": export it again");
  }
}

}  // namespace

struct Pipeline::Impl {
  Impl(std::shared_ptr<Engine> used, const PreprocessRecipe& pre, const PostprocessRecipe& post,
       int threads)
      : engine(std::move(used)), preprocessor(pre, threads), postprocessor(post) {
    check_tensor(*engine, engine->inputs(), "input", {1, 3, pre.height, pre.width});
    check_tensor(*engine, engine->outputs(), "output", {1, 1, post.grid_height, post.grid_width});
    execution = make_execution(engine);
  }

  std::mutex mutex;
  std::atomic<std::thread::id> owner{std::thread::id()};
  std::shared_ptr<Engine> engine;
  Preprocessor preprocessor;
  Postprocessor postprocessor;
  std::unique_ptr<Execution> execution;
};

Pipeline::Pipeline(std::shared_ptr<Engine> engine, const PreprocessRecipe& preprocess,
                   const PostprocessRecipe& postprocess, int threads) {
  if (!engine) throw ModelError("the pipeline was given no engine, open one first");
  impl_ = std::make_unique<Impl>(std::move(engine), preprocess, postprocess, threads);
}

Pipeline::~Pipeline() = default;

Result Pipeline::score(const Frame& frame, const Decision& decision) {
  const auto start = Clock::now();
  const Turn turn(impl_->mutex, impl_->owner);
  Result result;

  const auto preprocess_start = Clock::now();
  impl_->preprocessor.run(frame, impl_->execution->input());

  const auto execute_start = Clock::now();
  impl_->execution->run();

  const auto postprocess_start = Clock::now();
  const Rect& roi = impl_->preprocessor.recipe().roi;
  const Rect view = roi.empty() ? Rect{0, 0, frame.width, frame.height} : roi;
  impl_->postprocessor.run(impl_->execution->output(), view, decision, result);

  const auto end = Clock::now();
  result.latency.preprocess_ms = milliseconds(preprocess_start, execute_start);
  result.latency.execute_ms = milliseconds(execute_start, postprocess_start);
  result.latency.postprocess_ms = milliseconds(postprocess_start, end);
  result.latency.total_ms = milliseconds(start, end);
  return result;
}

const Engine& Pipeline::engine() const noexcept { return *impl_->engine; }

}  // namespace agp_edge
