#include <utility>

#include "agp_edge/error.hpp"
#include "engine/execution.hpp"
#include "pipeline/frame_path.hpp"

namespace agp_edge {
namespace {

class CpuPath final : public FramePath {
 public:
  CpuPath(std::shared_ptr<Engine> engine, const PreprocessRecipe& preprocess,
          const PostprocessRecipe& postprocess, int threads)
      : engine_(engine),
        preprocessor_(preprocess, threads),
        postprocessor_(postprocess),
        execution_(make_execution(std::move(engine))) {}

  void score(const Frame& frame, const Decision& decision, Result& result) override {
    if (frame.memory == Memory::kDevice) {
      const std::string gpu = frame.device < 0 ? "a GPU" : "GPU " + std::to_string(frame.device);
      throw FrameError("the frame is in the memory of " + gpu + ", and the frames of " +
                       engine_->name() +
                       (engine_->memory() == Memory::kHost
                            ? " are read by the CPU: copy it to host memory, or open a plan"
                            : " are read by the CPU in this build, which has no CUDA kernels: copy "
                              "it to host memory, or install a build with them"));
    }
    const auto start = Clock::now();
    preprocessor_.run(frame, execution_->input());
    const auto execute = Clock::now();
    execution_->run();
    const auto postprocess = Clock::now();
    postprocessor_.run(execution_->output(), view_of(frame, preprocessor_.recipe()), decision,
                       result);
    result.latency.preprocess_ms = milliseconds(start, execute);
    result.latency.execute_ms = milliseconds(execute, postprocess);
    result.latency.postprocess_ms = milliseconds(postprocess, Clock::now());
  }

 private:
  std::shared_ptr<Engine> engine_;
  Preprocessor preprocessor_;
  Postprocessor postprocessor_;
  std::unique_ptr<Execution> execution_;
};

}  // namespace

std::unique_ptr<FramePath> make_cpu_path(std::shared_ptr<Engine> engine,
                                         const PreprocessRecipe& preprocess,
                                         const PostprocessRecipe& postprocess, int threads) {
  return std::make_unique<CpuPath>(std::move(engine), preprocess, postprocess, threads);
}

}  // namespace agp_edge
