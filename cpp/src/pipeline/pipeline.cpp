#include "agp_edge/pipeline.hpp"

#include <atomic>
#include <mutex>
#include <thread>
#include <utility>

#include "agp_edge/error.hpp"
#include "cuda/cuda_module.hpp"
#include "engine/tensor_text.hpp"
#include "pipeline/frame_path.hpp"
#include "pipeline/pipeline_cuda.hpp"

namespace agp_edge {
namespace {

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

// One tensor of that role, of the shape that the recipe needs and of a type that the stages have.
void check_tensor(const Engine& engine, const std::vector<TensorSpec>& tensors, const char* role,
                  const std::vector<std::int64_t>& shape, bool may_be_half) {
  if (tensors.size() != 1) {
    throw ModelError("the model in " + engine.name() + " has " + std::to_string(tensors.size()) +
                     " " + role + "s, one is expected: export it again");
  }
  const TensorSpec& tensor = tensors.front();
  if (tensor.dtype == DType::kFloat16 && !may_be_half) {
    throw ModelError("the model in " + engine.name() + " has the " + role + " " +
                     to_string(tensor) + ", float32 " + to_string(shape) +
                     " is expected where frames are prepared by the CPU, also of a model whose "
                     "layers are float16: make it of the float32 model with `agp-edge build "
                     "--precision fp16`, which keeps inputs and outputs");
  }
  if (tensor.shape != shape) {
    throw ModelError("the model in " + engine.name() + " has the " + role + " " +
                     to_string(tensor) + ", its manifest says float32 " + to_string(shape) +
                     ": export it again");
  }
}

}  // namespace

struct Pipeline::Impl {
  Impl(std::shared_ptr<Engine> used, const PreprocessRecipe& pre, const PostprocessRecipe& post,
       const PipelineOptions& options)
      : engine(std::move(used)), roi(pre.roi) {
    const bool on_gpu = engine->memory() == Memory::kDevice && cuda::has_kernels();
    check_tensor(*engine, engine->inputs(), "input", {1, 3, pre.height, pre.width}, on_gpu);
    check_tensor(*engine, engine->outputs(), "output", {1, 1, post.grid_height, post.grid_width},
                 on_gpu);
    path = on_gpu ? make_cuda_path(engine, pre, post, options)
                  : make_cpu_path(engine, pre, post, options.threads);
  }

  std::mutex mutex;
  std::atomic<std::thread::id> owner{std::thread::id()};
  std::shared_ptr<Engine> engine;
  Rect roi;
  std::unique_ptr<FramePath> path;
};

Pipeline::Pipeline(std::shared_ptr<Engine> engine, const PreprocessRecipe& preprocess,
                   const PostprocessRecipe& postprocess, const PipelineOptions& options) {
  if (!engine) throw ModelError("the pipeline was given no engine, open one first");
  if (options.geometries < 1) {
    throw ModelError("the number of frame geometries to keep is " +
                     std::to_string(options.geometries) + ", 1 or more is expected");
  }
  impl_ = std::make_unique<Impl>(std::move(engine), preprocess, postprocess, options);
}

Pipeline::~Pipeline() = default;

Result Pipeline::score(const Frame& frame, const Decision& decision) {
  const auto start = Clock::now();
  const Turn turn(impl_->mutex, impl_->owner);
  Result result;
  impl_->path->score(frame, decision, result);
  result.view = impl_->roi.empty() ? Rect{0, 0, frame.width, frame.height} : impl_->roi;
  result.latency.total_ms = milliseconds(start, Clock::now());
  return result;
}

const Engine& Pipeline::engine() const noexcept { return *impl_->engine; }

}  // namespace agp_edge
