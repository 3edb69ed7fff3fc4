// The whole frame on the GPU, on the fake driver: the same results as on the CPU, from one graph
// that is replayed without allocations and with one wait.
#include <algorithm>
#include <thread>

#include "agp_edge/error.hpp"
#include "check.hpp"
#include "count_allocations.hpp"
#include "cuda/cuda_driver.hpp"
#include "cuda_pipeline.hpp"

namespace {

using namespace cuda_pipeline;

// The kernels add in another order than the CPU does.
constexpr double kTolerance = 1e-3;

// Scores on the CPU and compares everything.
void check_same(const Result& given, const Frame& host_frame, const Decision& decision,
                const Recipes& recipes = {}) {
  BlockMean mean;
  const Result expected =
      pipeline_of(mean, Memory::kHost, {}, recipes)->score(host_frame, decision);
  CHECK_NEAR(given.score, expected.score, kTolerance);
  CHECK(given.is_anomalous == expected.is_anomalous);
  CHECK(given.anomaly_map.size() == expected.anomaly_map.size());
  CHECK(given.mask.size() == expected.mask.size());
  CHECK(given.regions.size() == expected.regions.size());
  for (std::size_t i = 0; i < expected.anomaly_map.size() && i < given.anomaly_map.size(); ++i) {
    CHECK_NEAR(given.anomaly_map[i], expected.anomaly_map[i], kTolerance);
  }
  for (std::size_t i = 0; i < expected.regions.size() && i < given.regions.size(); ++i) {
    CHECK(given.regions[i].area == expected.regions[i].area);
    CHECK(given.regions[i].box.x == expected.regions[i].box.x);
    CHECK_NEAR(given.regions[i].peak, expected.regions[i].peak, kTolerance);
  }
}

// What one frame costs in calls of the driver.
struct Cost {
  int launches = 0;  // of graphs
  int kernels = 0;   // started one by one
  int waits = 0;     // of the host
  int updates = 0;   // of a graph's first node
  int memory = 0;    // allocations and releases
  int engine = 0;
};

int sum_of(std::initializer_list<const char*> names) {
  int sum = 0;
  for (const char* name : names) sum += fake_cuda::calls(name);
  return sum;
}

Cost cost_of(Pipeline& pipeline, const BlockMean& mean, const Frame& frame,
             const Decision& decision) {
  fake_cuda::forget_calls();
  const int before = mean.calls;
  pipeline.score(frame, decision);
  Cost cost;
  cost.launches = fake_cuda::calls("cuGraphLaunch");
  cost.kernels = sum_of({"cuLaunchKernel", "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2",
                         "cuMemsetD32Async", "cuLaunchHostFunc"});
  // cuEventQuery asks until the answer comes: the question that hears it is the wait.
  cost.waits = sum_of({"cuStreamSynchronize", "cuEventSynchronize", "cuCtxSynchronize"}) +
               (fake_cuda::calls("cuEventQuery") > 0 ? 1 : 0);
  cost.updates = sum_of({"cuGraphExecMemcpyNodeSetParams", "cuGraphExecKernelNodeSetParams_v2"});
  cost.memory = sum_of({"cuMemAlloc_v2", "cuMemFree_v2", "cuMemHostAlloc", "cuMemFreeHost",
                        "cuGraphInstantiateWithFlags", "cuEventCreate", "cuStreamCreate"});
  cost.engine = mean.calls - before;
  return cost;
}

// Memory of the fake driver that a test frees itself; a copy of the picture's pixels is in it.
class Copied {
 public:
  Copied(const Picture& picture, bool on_device)
      : context_(std::make_shared<cuda::Context>(0)),
        pinned_(context_, picture.bytes()),
        stream_(context_) {
    std::memcpy(pinned_.data(), picture.frame().data, picture.bytes());
    if (!on_device) return;
    device_.emplace(context_, picture.bytes());
    const cuda::Current current(*context_);
    stream_.upload(device_->address(), pinned_.data(), picture.bytes());
    stream_.synchronize();
  }
  const void* data() const { return device_ ? device_->pointer() : pinned_.data(); }

 private:
  std::shared_ptr<const cuda::Context> context_;
  cuda::PinnedBuffer pinned_;
  std::optional<cuda::DeviceBuffer> device_;
  cuda::OwnedStream stream_;
};

TEST(every_format_gives_what_the_cpu_gives) {
  for (const PixelFormat format :
       {PixelFormat::kBgr8, PixelFormat::kRgb8, PixelFormat::kMono8, PixelFormat::kMono10,
        PixelFormat::kMono12, PixelFormat::kMono16, PixelFormat::kBayerRggb8,
        PixelFormat::kBayerGrbg8, PixelFormat::kBayerGbrg12, PixelFormat::kBayerBggr12,
        PixelFormat::kNv12}) {
    const Picture picture(60, 84, format, 1, 4);
    BlockMean mean;
    const auto pipeline = pipeline_of(mean, Memory::kDevice);
    const Decision decision = decision_of(8.0F);
    for (int frame = 0; frame < 3; ++frame) {  // in order, recorded, replayed
      check_same(pipeline->score(picture.frame(), decision), picture.frame(), decision);
    }
  }
  CHECK(fake_cuda::live() == 0);
}

TEST(device_times_say_which_part_took_long) {
  PipelineOptions options;
  options.device_times = true;
  const Picture picture(60, 84, PixelFormat::kBgr8, 1);
  const Decision decision = decision_of(8.0F);
  BlockMean mean;
  mean.takes = std::chrono::milliseconds(60);
  for (const bool in_place : {false, true}) {
    const Copied device(picture, true);
    Frame frame = picture.frame();
    if (in_place) {
      frame.data = static_cast<const std::uint8_t*>(device.data());
      frame.memory = Memory::kDevice;
    }
    const auto pipeline = pipeline_of(mean, Memory::kDevice, options);
    double most = 0;  // of the whole; a busy machine holds up some frames between the parts
    for (int turn = 0; turn < 6; ++turn) {  // in order, recorded, replayed
      const Result result = pipeline->score(frame, decision);
      const Latency& taken = result.latency;
      CHECK(taken.execute_ms >= 60);
      CHECK(taken.preprocess_ms > 0 && taken.preprocess_ms < 50);
      CHECK(taken.postprocess_ms > 0 && taken.postprocess_ms < 50);
      CHECK(taken.copy_ms && *taken.copy_ms > 0 && *taken.copy_ms < 50);
      CHECK(taken.copy_back_ms && *taken.copy_back_ms > 0 && *taken.copy_back_ms < 50);
      const double sum = *taken.copy_ms + taken.preprocess_ms + taken.execute_ms +
                         taken.postprocess_ms + *taken.copy_back_ms;
      CHECK(sum <= taken.total_ms);
      most = std::max(most, sum / taken.total_ms);
      if (!in_place) check_same(result, picture.frame(), decision);
    }
    CHECK(most > 0.9);
    const Cost cost = cost_of(*pipeline, mean, frame, decision);
    CHECK(cost.launches == 1 && cost.kernels == 0 && cost.waits == 1 && cost.memory == 0);
  }
  const auto plain = pipeline_of(mean, Memory::kDevice);
  fake_cuda::forget_calls();
  CHECK(!plain->score(picture.frame(), decision).latency.copy_ms);
  CHECK(!plain->score(picture.frame(), decision).latency.copy_back_ms);
  CHECK(fake_cuda::calls("cuEventElapsedTime") + fake_cuda::calls("cuEventRecordWithFlags") == 0);
}

TEST(region_of_interest_and_ignored_areas) {
  Recipes recipes;
  recipes.preprocess.roi = {10, 8, 40, 44};
  const Picture picture(60, 84, PixelFormat::kBgr8, 2);
  Decision decision = decision_of(5.0F);
  decision.ignored = {{{12, 10}, {30, 10}, {30, 40}, {12, 40}}};
  decision.min_area = 3;
  BlockMean mean;
  const auto pipeline = pipeline_of(mean, Memory::kDevice, {}, recipes);
  for (int frame = 0; frame < 3; ++frame) {
    check_same(pipeline->score(picture.frame(), decision), picture.frame(), decision, recipes);
  }
  const Picture small(30, 30, PixelFormat::kBgr8, 2);
  CHECK_THROWS(pipeline->score(small.frame(), decision), FrameError, "region of interest");
  check_same(pipeline->score(picture.frame(), decision), picture.frame(), decision, recipes);
}

TEST(decision_may_change_between_frames) {
  const Picture picture(48, 48, PixelFormat::kMono8, 3);
  BlockMean mean;
  const auto pipeline = pipeline_of(mean, Memory::kDevice);
  for (int round = 0; round < 2; ++round) {
    for (const std::uint8_t outputs : {kScoreOnly, kMap, kMask, kRegions, kAll}) {
      const Decision decision = decision_of(4.0F + static_cast<float>(round), outputs);
      check_same(pipeline->score(picture.frame(), decision), picture.frame(), decision);
      check_same(pipeline->score(picture.frame(), decision), picture.frame(), decision);
    }
  }
}

// FP16 at one end or both: the fused kernels write and read it, nothing else changes.
TEST(half_tensors_give_what_floats_give) {
  const Picture picture(60, 84, PixelFormat::kBgr8, 1, 4);
  const Decision decision = decision_of(8.0F);
  BlockMean exact;
  const Result expected = pipeline_of(exact, Memory::kHost)->score(picture.frame(), decision);
  BlockMean mean;
  mean.type = DType::kFloat16;
  const auto pipeline = pipeline_of(mean, Memory::kDevice);
  for (int frame = 0; frame < 3; ++frame) {
    const Result given = pipeline->score(picture.frame(), decision);
    // 11 bits of values up to 125, of inputs and of the grid.
    CHECK_NEAR(given.score, expected.score, 0.1);
    for (std::size_t i = 0; i < expected.anomaly_map.size(); ++i) {
      CHECK_NEAR(given.anomaly_map[i], expected.anomaly_map[i], 0.1);
    }
    CHECK(given.regions.size() == expected.regions.size());
  }
  mean.behaviour = BlockMean::kWritesNothing;
  const auto silent = pipeline_of(mean, Memory::kDevice);
  CHECK_THROWS(silent->score(picture.frame(), decision), ModelError,
               "64 of 64 values are not finite");
}

// What is not asked for is neither written nor downloaded: the score is 16 bytes.
TEST(only_what_is_asked_for_comes_back) {
  const Picture picture(48, 64, PixelFormat::kBgr8, 4);
  BlockMean mean;
  const auto pipeline = pipeline_of(mean, Memory::kDevice);
  constexpr std::size_t kHeader = 16;
  constexpr std::size_t kBehind = 256;  // where the first array begins
  constexpr std::size_t kMaskBytes = std::size_t{kSide} * kSide;
  constexpr std::size_t kMapBytes = sizeof(float) * kMaskBytes;
  const struct {
    std::uint8_t outputs;
    std::size_t bytes;
  } cases[] = {{kScoreOnly, kHeader},
               {kMask, kBehind + kMaskBytes},
               {kMap, kBehind + kMapBytes},
               {kRegions, kBehind + kMaskBytes + kMapBytes},
               {kAll, kBehind + kMaskBytes + kMapBytes}};
  for (const auto& each : cases) {
    // No value is above the second: regions cost a download and no search.
    for (const float threshold : {4.0F, 1e6F}) {
      const Decision decision = decision_of(threshold, each.outputs);
      for (int frame = 0; frame < 3; ++frame) {
        fake_cuda::forget_calls();
        const Result result = pipeline->score(picture.frame(), decision);
        CHECK(fake_cuda::downloaded() == each.bytes);
        CHECK(result.regions.empty() == ((each.outputs & kRegions) == 0 || threshold > 1e5F));
      }
      CHECK(fake_cuda::calls("cuGraphLaunch") == 1 && fake_cuda::calls("cuLaunchKernel") == 0);
    }
  }
  // Rules that need the whole map have it on the GPU only.
  for (const ScoreRule rule : {ScoreRule::kTopMean, ScoreRule::kPowerMean}) {
    Recipes recipes;
    recipes.postprocess.score = rule;
    const auto averaged = pipeline_of(mean, Memory::kDevice, {}, recipes);
    for (int frame = 0; frame < 3; ++frame) {
      fake_cuda::forget_calls();
      averaged->score(picture.frame(), decision_of(4.0F, kScoreOnly));
      CHECK(fake_cuda::downloaded() == kHeader);
    }
  }
  // A least area needs regions to be found for the mask.
  Decision decision = decision_of(4.0F, kMask);
  decision.min_area = 5;
  fake_cuda::forget_calls();
  pipeline->score(picture.frame(), decision);
  CHECK(fake_cuda::downloaded() == kBehind + kMaskBytes + kMapBytes);
}

TEST(replay_is_one_launch_and_one_wait) {
  const Picture picture(48, 64, PixelFormat::kBgr8, 4, 8);
  for (const Wait wait : {Wait::kSpin, Wait::kBlock}) {
    PipelineOptions options;
    options.wait = wait;
    BlockMean mean;
    const auto pipeline = pipeline_of(mean, Memory::kDevice, options);
    const Decision decision = decision_of(5.0F, kScoreOnly);
    const Cost first = cost_of(*pipeline, mean, picture.frame(), decision);
    CHECK(first.launches == 0 && first.kernels > 0 && first.memory > 0);
    const int live = fake_cuda::live();
    for (int frame = 0; frame < 5; ++frame) {
      const Picture next(48, 64, PixelFormat::kBgr8, 50U + static_cast<unsigned>(frame), 8);
      const Cost cost = cost_of(*pipeline, mean, next.frame(), decision);
      CHECK(cost.launches == 1);
      CHECK(cost.kernels == 0);
      CHECK(cost.waits == 1);
      CHECK(cost.updates == 0);  // staged: always from the same place
      CHECK(cost.memory == 0);
      CHECK(cost.engine == 0);
      CHECK((fake_cuda::calls("cuEventSynchronize") == 1) == (wait == Wait::kBlock));
    }
    CHECK(fake_cuda::live() == live);
  }
}

// Under a sanitizer the fake driver's own allocations would be counted.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
TEST(nothing_is_allocated_on_the_host_either) {
  const Picture picture(48, 64, PixelFormat::kBgr8, 4);
  const Copied pinned(picture, false);
  BlockMean mean;
  const auto pipeline = pipeline_of(mean, Memory::kDevice);
  const Decision decision = decision_of(5.0F, kScoreOnly);
  const Frame frames[] = {picture.frame(), picture.at(pinned.data())};
  for (const Frame& frame : frames) {
    for (int i = 0; i < 3; ++i) pipeline->score(frame, decision);
  }
  const long before = allocation_count;
  for (int i = 0; i < 10; ++i) {
    for (const Frame& frame : frames) pipeline->score(frame, decision);
  }
  CHECK(allocation_count == before);
}
#endif

TEST(new_address_updates_one_node) {
  const Picture dark(48, 64, PixelFormat::kBgr8, 5, 16);
  const Picture bright(48, 64, PixelFormat::kBgr8, 6, 16);
  for (const bool on_device : {false, true}) {
    for (const char* integrated : {"0", "1"}) {
      setenv("AGP_EDGE_FAKE_CUDA_INTEGRATED", integrated, 1);
      const Copied memory[] = {{dark, on_device}, {bright, on_device}};
      const Memory where = on_device ? Memory::kDevice : Memory::kHost;
      const Frame frames[] = {dark.at(memory[0].data(), where), bright.at(memory[1].data(), where)};
      const Decision decision = decision_of(5.0F);
      BlockMean mean;
      const auto pipeline = pipeline_of(mean, Memory::kDevice);
      pipeline->score(frames[0], decision);
      for (int i = 0; i < 6; ++i) {
        const int which = i / 2 % 2;
        const Cost cost = cost_of(*pipeline, mean, frames[which], decision);
        CHECK(cost.launches == 1 && cost.kernels == 0 && cost.waits == 1);
        CHECK(cost.updates == (i == 2 || i == 4 ? 1 : 0));
        const bool by_copy = !on_device && *integrated == '0';
        if (cost.updates == 1) {
          CHECK(fake_cuda::calls("cuGraphExecMemcpyNodeSetParams") == (by_copy ? 1 : 0));
        }
        check_same(pipeline->score(frames[which], decision),
                   which == 0 ? dark.frame() : bright.frame(), decision);
      }
    }
  }
  unsetenv("AGP_EDGE_FAKE_CUDA_INTEGRATED");
  CHECK(fake_cuda::live() == 0);
}

TEST(pinned_frame_with_wide_gaps_is_staged) {
  const Picture picture(24, 30, PixelFormat::kMono8, 7, 300);
  const Copied pinned(picture, false);
  BlockMean mean;
  const auto pipeline = pipeline_of(mean, Memory::kDevice);
  const Decision decision = decision_of(5.0F);
  for (int i = 0; i < 3; ++i) {
    check_same(pipeline->score(picture.at(pinned.data()), decision), picture.frame(), decision);
  }
  CHECK(cost_of(*pipeline, mean, picture.frame(), decision).updates == 0);  // the same graph
}

TEST(integrated_gpu_reads_staging_in_place) {
  setenv("AGP_EDGE_FAKE_CUDA_INTEGRATED", "1", 1);
  const Picture picture(48, 64, PixelFormat::kBgr8, 8);
  BlockMean mean;
  const auto pipeline = pipeline_of(mean, Memory::kDevice);
  const Decision decision = decision_of(5.0F);
  fake_cuda::forget_calls();
  check_same(pipeline->score(picture.frame(), decision), picture.frame(), decision);
  const int uploads = fake_cuda::calls("cuMemcpyHtoDAsync_v2");
  check_same(pipeline->score(picture.frame(), decision), picture.frame(), decision);
  CHECK(fake_cuda::calls("cuMemcpyHtoDAsync_v2") == uploads);  // tables, and no frame
  CHECK(cost_of(*pipeline, mean, picture.frame(), decision).kernels == 0);
  unsetenv("AGP_EDGE_FAKE_CUDA_INTEGRATED");
}

TEST(geometries_are_kept_up_to_a_number) {
  PipelineOptions options;
  options.geometries = 2;
  BlockMean mean;
  const auto pipeline = pipeline_of(mean, Memory::kDevice, options);
  const Decision decision = decision_of(5.0F);
  const Picture pictures[] = {{40, 40, PixelFormat::kMono8, 9},
                              {44, 40, PixelFormat::kMono8, 10},
                              {40, 40, PixelFormat::kBgr8, 11}};
  pipeline->score(pictures[0].frame(), decision);
  pipeline->score(pictures[1].frame(), decision);
  const int live = fake_cuda::live();
  CHECK(cost_of(*pipeline, mean, pictures[0].frame(), decision).memory == 0);
  CHECK(cost_of(*pipeline, mean, pictures[1].frame(), decision).memory == 0);
  CHECK(cost_of(*pipeline, mean, pictures[2].frame(), decision).memory > 0);  // 0 has to go
  CHECK(cost_of(*pipeline, mean, pictures[1].frame(), decision).memory == 0);
  for (int round = 0; round < 3; ++round) {
    for (const Picture& picture : pictures) {
      check_same(pipeline->score(picture.frame(), decision), picture.frame(), decision);
      CHECK(fake_cuda::live() == live);
    }
  }
  options.geometries = 0;
  CHECK_THROWS(pipeline_of(mean, Memory::kDevice, options), ModelError, "1 or more");
}

TEST(several_threads_and_several_pipelines) {
  BlockMean means[2];
  const std::unique_ptr<Pipeline> pipelines[] = {pipeline_of(means[0], Memory::kDevice),
                                                 pipeline_of(means[1], Memory::kDevice)};
  const Decision decision = decision_of(5.0F);
  std::vector<std::thread> threads;
  std::vector<double> errors(4);
  for (unsigned t = 0; t < 4; ++t) {
    threads.emplace_back([&pipelines, &decision, &errors, t] {
      const Picture picture(40 + 4 * static_cast<int>(t % 2), 48, PixelFormat::kBgr8, t);
      BlockMean mean;
      const float expected =
          pipeline_of(mean, Memory::kHost)->score(picture.frame(), decision).score;
      for (int i = 0; i < 20; ++i) {
        const float score = pipelines[t / 2]->score(picture.frame(), decision).score;
        errors[t] = std::max<double>(errors[t], std::abs(score - expected));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const double error : errors) CHECK_NEAR(error, 0, kTolerance);
}

}  // namespace

CHECK_MAIN()
