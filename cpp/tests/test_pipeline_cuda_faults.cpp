// The frame's way on the GPU when something fails, on the fake driver: one clear error, nothing
// left behind, and the process goes on.
#include <cmath>
#include <functional>
#include <optional>
#include <string>

#include "agp_edge/error.hpp"
#include "agp_edge/tensorrt_engine.hpp"
#include "check.hpp"
#include "cuda/cuda_driver.hpp"
#include "cuda_pipeline.hpp"

namespace {

using namespace cuda_pipeline;

// A pipeline works, and everything that it took is given back.
void check_works() {
  {
    BlockMean mean;
    const auto pipeline = pipeline_of(mean, Memory::kDevice);
    for (int i = 0; i < 2; ++i) check_score(*pipeline, picture(), picture().frame());
  }
  CHECK(fake_cuda::live() == 0);
}

bool is_reset(const Error& error) {
  return std::string(error.what()).find("was reset after an error") != std::string::npos;
}

// A construction, and of each kind of frame one in order, which is then recorded, and a replay;
// pinned memory at last: what a fault may meet.
void live_a_life(const std::function<void(Pipeline&)>& after_error) {
  BlockMean mean;
  PipelineOptions options;
  options.device_times = true;  // more calls, in the same order
  const auto pipeline = pipeline_of(mean, Memory::kDevice, options);
  Producer producer(picture().bytes());
  try {
    for (int i = 0; i < 2; ++i) check_score(*pipeline, picture(), picture().frame());
    for (int i = 0; i < 2; ++i) check_score(*pipeline, picture(), producer.send(picture()));
    check_score(*pipeline, picture(), picture().at(producer.pinned.data()));
  } catch (const Error& error) {
    // The producer's construction found the context broken, and reset the GPU.
    if (!is_reset(error)) after_error(*pipeline);
    throw;
  }
}

// AddressSanitizer's fibers are slow: every call fails without it, every third one with it.
#if defined(__SANITIZE_ADDRESS__)
constexpr int kStep = 3;
#else
constexpr int kStep = 1;
#endif

// Lives with the n-th call failing, for each n, until none is reached. Returns how many threw.
int with_each_call_failing(bool sticky, const std::function<void(Pipeline&)>& after_error) {
  check_works();  // starts the driver
  int threw = 0;
  const int failures = check::failures();
  for (int call = 1; call < 1000; call += kStep) {
    bool reached = false;
    {
      const fake_cuda::Failing failing("*", call, sticky);
      try {
        live_a_life(after_error);
      } catch (const DeviceError& error) {
        ++threw;
        const std::string text = error.what();
        CHECK(is_reset(error) || text.find("CUDA_ERROR_") != std::string::npos ||
              text.find("is broken since an earlier error") != std::string::npos);
      } catch (const FrameError& error) {  // the answer was about the frame's memory or stream
        ++threw;
        CHECK(std::string(error.what()).find("the frame's ") == 0);
      } catch (const ModelError& error) {  // the engine's function met it
        ++threw;
        CHECK(std::string(error.what()).find("its launch failed") != std::string::npos);
      }
      reached = fake_cuda::calls("*") >= call;
    }
    CHECK(fake_cuda::live() == 0);
    if (check::failures() > failures) {
      std::fprintf(stderr, "with call %d, %s, failing%s\n", call, fake_cuda::failed(),
                   sticky ? ", and all later ones" : "");
      return threw;
    }
    if (call % 10 == 0 || !reached) check_works();
    if (!reached) return threw;
  }
  return threw;
}

TEST(any_one_call_fails) {
  const int threw = with_each_call_failing(false, [](Pipeline& pipeline) {
    // Whatever it was, it is over.
    check_score(pipeline, picture(), picture().frame());
  });
  CHECK(threw > 60 / kStep);
}

TEST(any_call_breaks_the_context) {
  const int threw = with_each_call_failing(true, [](Pipeline& pipeline) {
    CHECK_THROWS(pipeline.score(picture().frame(), kDecision), DeviceError, "open the model again");
    CHECK_THROWS(pipeline.score(picture().frame(), kDecision), DeviceError, "broken");
  });
  CHECK(threw > 60 / kStep);
}

TEST(next_construction_works_while_the_broken_one_is_there) {
  {
    BlockMean mean;
    const auto broken = pipeline_of(mean, Memory::kDevice);
    check_score(*broken, picture(), picture().frame());
    {
      const fake_cuda::Failing failing("cuEventQuery", 1, true);
      CHECK_THROWS(broken->score(picture().frame(), kDecision), DeviceError,
                   "the work on the GPU failed with CUDA_ERROR_ILLEGAL_ADDRESS");
    }
    BlockMean other;
    const auto fresh = pipeline_of(other, Memory::kDevice);
    for (int i = 0; i < 3; ++i) check_score(*fresh, picture(), picture().frame());
    CHECK_THROWS(broken->score(picture().frame(), kDecision), DeviceError, "broken");
    check_score(*fresh, picture(), picture().frame());
  }  // the broken one frees nothing that is not its own any more: the fake would end the program
  check_works();
}

TEST(other_detectors_of_a_reset_gpu_say_so) {
  {
    BlockMean mean;
    const auto broken = pipeline_of(mean, Memory::kDevice);
    BlockMean bystanders;
    const auto bystander = pipeline_of(bystanders, Memory::kDevice);
    check_score(*bystander, picture(), picture().frame());
    {
      const fake_cuda::Failing failing("cuEventRecord", 1, true);
      CHECK_THROWS(broken->score(picture().frame(), kDecision), DeviceError, "CUDA_ERROR_");
    }
    BlockMean other;
    const auto fresh = pipeline_of(other, Memory::kDevice);
    CHECK_THROWS(bystander->score(picture().frame(), kDecision), DeviceError,
                 "was reset after an error");
    check_score(*fresh, picture(), picture().frame());
  }
  check_works();
}

TEST(out_of_memory_at_load_and_at_run) {
  check_works();
  BlockMean mean;
  {
    const Environment little("AGP_EDGE_FAKE_CUDA_MEMORY", "1000");
    CHECK_THROWS(
        pipeline_of(mean, Memory::kDevice), DeviceError,
        "allocating 12288 bytes on Fake GPU 0 failed with CUDA_ERROR_OUT_OF_MEMORY (out of "
        "memory): close other programs");
  }
  CHECK(fake_cuda::live() == 0);
  const auto pipeline = pipeline_of(mean, Memory::kDevice);
  check_score(*pipeline, picture(), picture().frame());
  const Picture large(2000, 2000, PixelFormat::kBgr8, 2);
  {
    const Environment little("AGP_EDGE_FAKE_CUDA_MEMORY", "1000000");
    for (int i = 0; i < 3; ++i) {
      CHECK_THROWS(pipeline->score(large.frame(), kDecision), DeviceError, "OUT_OF_MEMORY");
      check_score(*pipeline, picture(), picture().frame());
    }
  }
  check_score(*pipeline, large, large.frame());
}

}  // namespace

CHECK_MAIN()
