// The pipeline around an engine in device memory, on the fake driver: lifetimes and each failure.
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "agp_edge/callable_engine.hpp"
#include "agp_edge/error.hpp"
#include "agp_edge/pipeline.hpp"
#include "check.hpp"
#include "cuda/cuda_driver.hpp"
#include "fakes/fake_cuda.hpp"
#include "pipeline/frame_path.hpp"

namespace {

using namespace agp_edge;

constexpr int kSide = 16;
constexpr int kGrid = 4;

// The mean over channels and 4 x 4 blocks, computed by a function in the stream.
struct BlockMean {
  const float* in = nullptr;
  float* out = nullptr;
  bool writes = true;  // false: an engine that leaves its output alone
  bool fails = false;

  static void kernel(void* user) {
    const auto& self = *static_cast<BlockMean*>(user);
    const int step = kSide / kGrid;
    for (int y = 0; y < kGrid; ++y) {
      for (int x = 0; x < kGrid; ++x) {
        float sum = 0;
        for (int c = 0; c < 3; ++c) {
          for (int i = 0; i < step * step; ++i) {
            const int row = y * step + i / step;
            sum += self.in[(c * kSide + row) * kSide + x * step + i % step];
          }
        }
        self.out[y * kGrid + x] = sum / static_cast<float>(3 * step * step);
      }
    }
  }

  static int enqueue(void* user, Stream stream, const void* const* in, void* const* out,
                     char* error, std::size_t error_bytes) {
    auto& self = *static_cast<BlockMean*>(user);
    self.in = static_cast<const float*>(fake_cuda::host(in[0], sizeof(float[3][kSide][kSide])));
    self.out = static_cast<float*>(fake_cuda::host(out[0], sizeof(float[kGrid][kGrid])));
    if (self.fails || self.in == nullptr || self.out == nullptr) {
      std::snprintf(error, error_bytes, "it was told to fail");
      return 1;
    }
    if (!self.writes) return 0;
    return fake_cuda::function<int(Stream, void (*)(void*), void*)>("cuLaunchHostFunc")(
        stream, &kernel, user);
  }
};

std::shared_ptr<Engine> engine_of(BlockMean& mean, Memory memory) {
  return std::make_shared<CallableEngine>(
      "block mean", std::vector<TensorSpec>{{"image", DType::kFloat32, {1, 3, kSide, kSide}}},
      std::vector<TensorSpec>{{"distance", DType::kFloat32, {1, 1, kGrid, kGrid}}},
      &BlockMean::enqueue, &mean, nullptr, memory);
}

// The stages on the CPU, as in a build without CUDA kernels.
class CpuStages {
 public:
  explicit CpuStages(std::unique_ptr<FramePath> path) : path_(std::move(path)) {}
  Result score(const Frame& frame, const Decision& decision) {
    Result result;
    path_->score(frame, decision, result);
    return result;
  }

 private:
  std::unique_ptr<FramePath> path_;
};

std::unique_ptr<CpuStages> pipeline_of(BlockMean& mean) {
  PreprocessRecipe preprocess;
  preprocess.height = preprocess.width = kSide;
  PostprocessRecipe postprocess;
  postprocess.grid_height = postprocess.grid_width = kGrid;
  postprocess.map_height = postprocess.map_width = kSide;
  return std::make_unique<CpuStages>(
      make_cpu_path(engine_of(mean, Memory::kDevice), preprocess, postprocess, 1));
}

struct Picture {
  explicit Picture(std::uint8_t grey) : pixels(kSide * kSide, grey) {}
  Frame frame() const { return {pixels.data(), kSide, kSide, kSide, PixelFormat::kMono8}; }
  std::vector<std::uint8_t> pixels;
};

// A pipeline works, and everything that it took is given back.
void check_works() {
  {
    BlockMean mean;
    const auto pipeline = pipeline_of(mean);
    CHECK_NEAR(pipeline->score(Picture(7).frame(), {}).score, 7.0, 1e-5);
  }
  CHECK(fake_cuda::live() == 0);
}

TEST(frame_goes_through_device_memory) {
  BlockMean mean;
  const auto pipeline = pipeline_of(mean);
  CHECK_NEAR(pipeline->score(Picture(100).frame(), {}).score, 100.0, 1e-4);
  Picture spot(10);
  spot.pixels[5 * kSide + 9] = 250;  // in the grid cell of row 1, column 2
  const Result result = pipeline->score(spot.frame(), {});
  // The largest map pixel lies an eighth of a cell from the cell's centre, in both directions.
  CHECK_NEAR(result.score, 10.0 + 240.0 / 16.0 * 0.875 * 0.875, 1e-3);
  CHECK(result.latency.execute_ms > 0);
}

TEST(buffers_are_allocated_once) {
  BlockMean mean;
  const auto pipeline = pipeline_of(mean);
  pipeline->score(Picture(1).frame(), {});
  const int device = fake_cuda::calls("cuMemAlloc_v2");
  const int pinned = fake_cuda::calls("cuMemHostAlloc");
  const int live = fake_cuda::live();
  const int waits = fake_cuda::calls("cuStreamSynchronize");
  for (int i = 0; i < 20; ++i) pipeline->score(Picture(2).frame(), {});
  CHECK(fake_cuda::calls("cuMemAlloc_v2") == device);
  CHECK(fake_cuda::calls("cuMemHostAlloc") == pinned);
  CHECK(fake_cuda::live() == live);
  CHECK(fake_cuda::calls("cuStreamSynchronize") == waits + 20);
}

TEST(engine_that_writes_nothing_is_refused) {
  BlockMean mean;
  const auto pipeline = pipeline_of(mean);
  pipeline->score(Picture(3).frame(), {});
  mean.writes = false;  // the last frame's grid must not come back
  CHECK_THROWS(pipeline->score(Picture(4).frame(), {}), ModelError, "finite");
  mean.writes = true;
  CHECK_NEAR(pipeline->score(Picture(5).frame(), {}).score, 5.0, 1e-5);
}

TEST(engine_that_fails_leaves_nothing_at_work) {
  {
    BlockMean mean;
    const auto pipeline = pipeline_of(mean);
    mean.fails = true;
    CHECK_THROWS(pipeline->score(Picture(4).frame(), {}), ModelError, "told to fail");
    mean.fails = false;
    CHECK_NEAR(pipeline->score(Picture(6).frame(), {}).score, 6.0, 1e-5);
  }  // the fake driver aborts when a stream with work left is destroyed
  CHECK(fake_cuda::live() == 0);
}

TEST(each_failing_step_of_the_construction) {
  const struct {
    const char* function;
    int calls;  // during one construction
  } steps[] = {{"cuDeviceGetCount", 1},         {"cuDeviceGet", 2},    {"cuDeviceGetName", 1},
               {"cuDeviceGetAttribute", 3},     {"cuMemAlloc_v2", 2},  {"cuMemHostAlloc", 2},
               {"cuDevicePrimaryCtxRetain", 1}, {"cuStreamCreate", 1}, {"cuCtxPushCurrent_v2", 1}};
  check_works();  // starts the driver
  for (const auto& step : steps) {
    for (int call = 1; call <= step.calls; ++call) {
      BlockMean mean;
      {
        const fake_cuda::Failing failing(step.function, call);
        CHECK_THROWS(pipeline_of(mean), DeviceError, "CUDA_ERROR_");
        CHECK(fake_cuda::calls(step.function) >= call);  // it was reached
      }
      CHECK(fake_cuda::live() == 0);
      check_works();
    }
  }
}

TEST(out_of_memory_says_how_much_and_where) {
  BlockMean mean;
  {
    const fake_cuda::Failing failing("cuMemAlloc_v2", 1);
    CHECK_THROWS(pipeline_of(mean), DeviceError,
                 "allocating 3072 bytes on Fake GPU 0 failed with CUDA_ERROR_OUT_OF_MEMORY (out of "
                 "memory): close other programs");
  }
  const fake_cuda::Failing failing("cuMemHostAlloc", 1);
  CHECK_THROWS(pipeline_of(mean), DeviceError, "3072 bytes of pinned memory");
}

TEST(each_failing_step_of_a_frame) {
  for (const char* function : {"cuCtxPushCurrent_v2", "cuMemcpyHtoDAsync_v2", "cuMemsetD32Async",
                               "cuMemcpyDtoHAsync_v2", "cuStreamSynchronize"}) {
    {
      BlockMean mean;
      const auto pipeline = pipeline_of(mean);
      pipeline->score(Picture(1).frame(), {});
      {
        const fake_cuda::Failing failing(function, 1);
        CHECK_THROWS(pipeline->score(Picture(2).frame(), {}), DeviceError, "CUDA_ERROR_");
      }
      CHECK_NEAR(pipeline->score(Picture(8).frame(), {}).score, 8.0, 1e-5);
    }
    CHECK(fake_cuda::live() == 0);
    check_works();
  }
}

TEST(failing_releases_are_survived) {
  for (const char* function : {"cuStreamDestroy_v2", "cuMemFree_v2", "cuMemFreeHost"}) {
    BlockMean mean;
    auto pipeline = pipeline_of(mean);
    pipeline->score(Picture(1).frame(), {});
    {
      const fake_cuda::Failing failing(function, 1);
      pipeline.reset();
      CHECK(fake_cuda::calls(function) >= 1);
    }
    CHECK(fake_cuda::live() == 0);  // the rest was released all the same
    check_works();
  }
}

TEST(device_that_is_not_there) {
  BlockMean mean;
  auto engine = std::make_shared<CallableEngine>(
      "block mean", std::vector<TensorSpec>{{"image", DType::kFloat32, {1, 3, kSide, kSide}}},
      std::vector<TensorSpec>{{"distance", DType::kFloat32, {1, 1, kGrid, kGrid}}},
      &BlockMean::enqueue, &mean, nullptr, Memory::kDevice, 3);
  PreprocessRecipe preprocess;
  preprocess.height = preprocess.width = kSide;
  PostprocessRecipe postprocess;
  postprocess.grid_height = postprocess.grid_width = kGrid;
  postprocess.map_height = postprocess.map_width = kSide;
  CHECK_THROWS(Pipeline(engine, preprocess, postprocess), DeviceError,
               "the GPU 3 was asked for, 0 to 0 are there");
  setenv("AGP_EDGE_FAKE_CUDA_DEVICES", "0", 1);
  CHECK_THROWS(cuda::device_at(0), DeviceError, "lists no device");
  unsetenv("AGP_EDGE_FAKE_CUDA_DEVICES");
}

}  // namespace

CHECK_MAIN()
