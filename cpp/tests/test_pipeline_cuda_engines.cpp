// Engines on the GPU that fail, write nothing, or cannot be recorded, on the fake driver.
#include <string>
#include <vector>

#include "agp_edge/error.hpp"
#include "agp_edge/tensorrt_engine.hpp"
#include "check.hpp"
#include "cuda/cuda_driver.hpp"
#include "cuda_pipeline.hpp"

namespace {

using namespace cuda_pipeline;

// What the library logs until the end of the scope.
class Log {
 public:
  Log() {
    set_tensorrt_log([this](LogLevel level, const std::string& message) {
      if (level == LogLevel::kWarning) lines.push_back(message);
    });
  }
  ~Log() { set_tensorrt_log(nullptr); }
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;
  std::vector<std::string> lines;
};

TEST(engine_that_writes_nothing_is_refused) {
  BlockMean mean;
  const auto pipeline = pipeline_of(mean, Memory::kDevice);
  mean.behaviour = BlockMean::kWritesNothing;
  for (int i = 0; i < 2; ++i) {
    CHECK_THROWS(pipeline->score(picture().frame(), kDecision), ModelError, "finite");
  }
  mean.behaviour = BlockMean::kGood;
  for (int i = 0; i < 2; ++i) check_score(*pipeline, picture(), picture().frame());
}

TEST(engine_that_fails_leaves_nothing_at_work) {
  {
    BlockMean mean;
    const auto pipeline = pipeline_of(mean, Memory::kDevice);
    mean.behaviour = BlockMean::kThrows;
    CHECK_THROWS(pipeline->score(picture().frame(), kDecision), ModelError, "told to fail");
    mean.behaviour = BlockMean::kGood;
    check_score(*pipeline, picture(), picture().frame());
  }  // the fake driver aborts when a stream with work left is destroyed
  CHECK(fake_cuda::live() == 0);
}

TEST(engine_that_cannot_be_recorded_is_called_for_each_frame) {
  for (const auto behaviour : {BlockMean::kSynchronises, BlockMean::kThrowsSecond}) {
    const Log log;
    BlockMean mean;
    mean.behaviour = behaviour;
    const auto pipeline = pipeline_of(mean, Memory::kDevice);
    for (int i = 0; i < 3; ++i) check_score(*pipeline, picture(), picture().frame());
    const Picture other(44, 44, PixelFormat::kMono8, 3);
    check_score(*pipeline, other, other.frame());
    CHECK(log.lines.size() == 1);
    CHECK(log.lines[0].find("the work of block mean cannot be recorded as a CUDA graph (") == 0);
    CHECK(mean.calls == 5);  // each frame, and the one attempt
    fake_cuda::forget_calls();
    pipeline->score(picture().frame(), kDecision);
    CHECK(fake_cuda::calls("cuGraphLaunch") == 0);
    CHECK(fake_cuda::calls("cuMemAlloc_v2") == 0);
  }
  CHECK(fake_cuda::live() == 0);
}

// Its work is done when it returns, and nothing of it would be in a graph.
TEST(engine_beside_the_stream_is_called_for_each_frame) {
  const Log log;
  struct Beside {
    static int enqueue(void* user, Stream stream, const void* const* in, void* const* out,
                       char* error, std::size_t error_bytes) {
      using Ask = int(Stream, int*);
      int capturing = 0;
      fake_cuda::function<Ask>("cuStreamIsCapturing")(stream, &capturing);
      if (capturing != 0) return 0;
      const int failed = BlockMean::enqueue(user, stream, in, out, error, error_bytes);
      return failed != 0 ? failed : fake_cuda::function<int(Stream)>("cuStreamSynchronize")(stream);
    }
  };
  BlockMean mean;
  const auto named = engine_of(mean, Memory::kDevice);
  const auto engine =
      std::make_shared<CallableEngine>("beside", named->inputs(), named->outputs(),
                                       &Beside::enqueue, &mean, nullptr, Memory::kDevice);
  const Recipes recipes;
  Pipeline pipeline(engine, recipes.preprocess, recipes.postprocess);
  for (int i = 0; i < 3; ++i) check_score(pipeline, picture(), picture().frame());
  CHECK(log.lines.size() == 1);
  CHECK(log.lines[0].find("puts nothing into the stream") != std::string::npos);
}

}  // namespace

CHECK_MAIN()
