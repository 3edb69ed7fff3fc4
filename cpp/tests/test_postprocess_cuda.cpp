// The postprocessing kernels, run on the CPU by the fake driver, against the CPU's stage.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "agp_edge/error.hpp"
#include "agp_edge/postprocess.hpp"
#include "check.hpp"
#include "cuda_on_cpu/half.hpp"
#include "cuda_rig.hpp"
#include "fakes/fake_cuda.hpp"
#include "postprocess/postprocess_cuda.hpp"

namespace {

using namespace agp_edge;

struct Case {
  PostprocessRecipe recipe;
  Rect view{0, 0, 64, 48};
  Decision decision;
  std::vector<float> grid;
};

PostprocessRecipe recipe_of(int grid_height, int grid_width, int map_height, int map_width,
                            float sigma, ScoreRule score = ScoreRule::kMax) {
  PostprocessRecipe recipe;
  recipe.grid_height = grid_height;
  recipe.grid_width = grid_width;
  recipe.map_height = map_height;
  recipe.map_width = map_width;
  recipe.sigma = sigma;
  recipe.score = score;
  return recipe;
}

// Distances with a few defects among them.
Case random_case(const PostprocessRecipe& recipe, unsigned seed) {
  Case made;
  made.recipe = recipe;
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> value(0, 1);
  made.grid.resize(static_cast<std::size_t>(recipe.grid_height) * recipe.grid_width);
  for (float& v : made.grid) v = value(random) < 0.05F ? 3 + value(random) : value(random);
  made.decision.threshold = 1.0F;
  made.decision.mask_threshold = 0.9377F;
  return made;
}

class Device {
 public:
  explicit Device(const PostprocessRecipe& recipe, DType type = DType::kFloat32)
      : type_(type),
        stage_(rig_.context, recipe, type),
        grid_(rig_.context,
              static_cast<std::size_t>(recipe.grid_height) * recipe.grid_width * sizeof(float)) {}

  Result run(const Case& one) {
    stage_.prepare(one.view, one.decision, rig_.stream.get());
    if (type_ == DType::kFloat16) {
      std::vector<unsigned short> halves(one.grid.size());
      std::transform(one.grid.begin(), one.grid.end(), halves.begin(), kernel::half_bits);
      rig_.write(grid_, halves.data(), 2 * halves.size());
    } else {
      rig_.write(grid_, one.grid.data(), grid_.bytes());
    }
    stage_.enqueue(rig_.stream.get(), grid_.address());
    Result result;
    stage_.finish(rig_.read(stage_.result(), stage_.result_bytes()).data(), result);
    return result;
  }

  PostprocessCuda& stage() { return stage_; }
  CudaRig& rig() { return rig_; }

 private:
  CudaRig rig_;
  DType type_;
  PostprocessCuda stage_;
  cuda::DeviceBuffer grid_;
};

Result on_cpu(const Case& one) {
  Result result;
  Postprocessor(one.recipe).run(one.grid.data(), one.view, one.decision, result);
  return result;
}

// The same sums in another order, of values up to 4.
constexpr double kTolerance = 4e-6;

void check_same(const Result& gpu, const Result& cpu, const Decision& decision) {
  CHECK_NEAR(gpu.score, cpu.score, kTolerance);
  CHECK(gpu.threshold == cpu.threshold);
  CHECK(gpu.is_anomalous == cpu.is_anomalous);
  CHECK(gpu.map_height == cpu.map_height && gpu.map_width == cpu.map_width);
  CHECK(gpu.anomaly_map.size() == cpu.anomaly_map.size());
  for (std::size_t i = 0; i < std::min(gpu.anomaly_map.size(), cpu.anomaly_map.size()); ++i) {
    CHECK_NEAR(gpu.anomaly_map[i], cpu.anomaly_map[i], kTolerance);
    // No random value of these tests lies this close to its threshold.
    CHECK(std::abs(cpu.anomaly_map[i] - decision.mask_threshold) > kTolerance);
  }
  CHECK(gpu.mask == cpu.mask);
  CHECK(gpu.regions.size() == cpu.regions.size());
  for (std::size_t i = 0; i < std::min(gpu.regions.size(), cpu.regions.size()); ++i) {
    const Region& a = gpu.regions[i];
    const Region& b = cpu.regions[i];
    CHECK(a.box.x == b.box.x && a.box.y == b.box.y);
    CHECK(a.box.width == b.box.width && a.box.height == b.box.height);
    CHECK(a.area == b.area && a.frame_area == b.frame_area);
    CHECK_NEAR(a.peak, b.peak, kTolerance);
    CHECK(a.peak_x == b.peak_x && a.peak_y == b.peak_y);
  }
}

}  // namespace

TEST(equals_the_cpu) {
  unsigned seed = 0;
  for (ScoreRule rule : {ScoreRule::kMax, ScoreRule::kTopMean, ScoreRule::kPowerMean}) {
    for (PostprocessRecipe recipe :
         {recipe_of(8, 8, 64, 64, 4.0F), recipe_of(7, 9, 50, 71, 2.5F), recipe_of(1, 1, 5, 3, 1.0F),
          recipe_of(16, 16, 33, 17, 0.0F), recipe_of(40, 30, 20, 16, 1.0F)}) {
      recipe.score = rule;
      Device device(recipe);
      for (int round = 0; round < 3; ++round) {
        Case one = random_case(recipe, seed++);
        one.view = Rect{round, 2 * round, 64 + round, 48};
        one.decision.min_area = 4 * round;
        check_same(device.run(one), on_cpu(one), one.decision);
      }
    }
  }
}

TEST(outputs_choose_what_is_downloaded) {
  const PostprocessRecipe recipe = recipe_of(8, 8, 64, 40, 3.0F);
  Device device(recipe);
  const std::size_t size = 64 * 40;
  for (int outputs = kScoreOnly; outputs <= kAll; ++outputs) {
    for (int min_area : {0, 9}) {
      Case one = random_case(recipe, 77);
      one.decision.outputs = static_cast<std::uint8_t>(outputs);
      one.decision.min_area = min_area;
      check_same(device.run(one), on_cpu(one), one.decision);
      const std::size_t bytes = device.stage().result_bytes();
      if (outputs == kScoreOnly) CHECK(bytes == 16);
      if (outputs == kMask && min_area == 0) CHECK(bytes == 256 + size);
      if (outputs == kMap) CHECK(bytes == 256 + 4 * size);
      CHECK(bytes <= device.stage().most_result_bytes());
    }
  }
}

TEST(ignored_areas_have_no_say) {
  for (ScoreRule rule : {ScoreRule::kMax, ScoreRule::kTopMean, ScoreRule::kPowerMean}) {
    const PostprocessRecipe recipe = recipe_of(8, 8, 60, 60, 2.0F, rule);
    Device device(recipe);
    Case one = random_case(recipe, 5);
    one.grid[3 * 8 + 3] = 9;  // the largest, under the first polygon
    one.decision.ignored = {{{20, 12}, {40, 12}, {40, 30}, {20, 30}},
                            {{50, 40}, {64, 40}, {64, 48}}};
    check_same(device.run(one), on_cpu(one), one.decision);
    one.decision.ignored.pop_back();
    check_same(device.run(one), on_cpu(one), one.decision);
    one.decision.ignored.clear();
    check_same(device.run(one), on_cpu(one), one.decision);
    one.decision.ignored = {{{-1, -1}, {100, -1}, {100, 100}, {-1, 100}}};
    CHECK_THROWS(device.run(one), FrameError, "cover all of the region of interest");
    one.decision.ignored.clear();
    check_same(device.run(one), on_cpu(one), one.decision);
  }
}

TEST(power_means_of_equal_negative_and_extreme_values) {
  for (int power : {1, 2, 24, 64}) {
    PostprocessRecipe recipe = recipe_of(12, 12, 12, 12, 0.0F, ScoreRule::kPowerMean);
    recipe.power = power;
    Device device(recipe);
    for (float factor : {1.0F, -1.0F, 0.0F, 1e-40F, 1e-37F, 1e37F}) {
      Case one = random_case(recipe, 31);
      for (float& value : one.grid) value *= factor;
      const double expected = on_cpu(one).score;
      CHECK_NEAR(device.run(one).score, expected, 1e-6 * std::abs(expected));
    }
  }
}

TEST(top_means_of_equal_negative_and_few_values) {
  for (float share : {1e-6F, 0.003F, 0.1F, 0.5F, 1.0F}) {
    PostprocessRecipe recipe = recipe_of(12, 12, 12, 12, 0.0F, ScoreRule::kTopMean);
    recipe.top_share = share;
    Device device(recipe);
    for (int kind = 0; kind < 4; ++kind) {
      Case one = random_case(recipe, 31);
      for (std::size_t i = 0; i < one.grid.size(); ++i) {
        if (kind == 1) one.grid[i] = 0.25F;                               // all the same
        if (kind == 2) one.grid[i] = -one.grid[i];                        // below zero
        if (kind == 3) one.grid[i] = static_cast<float>(i % 5) * 1e-30F;  // many ties, tiny
      }
      const double expected = on_cpu(one).score;
      CHECK_NEAR(device.run(one).score, expected, 1e-6 * std::max(std::abs(expected), 1e-30));
    }
  }
}

TEST(values_that_are_not_finite_are_counted_and_refused) {
  const PostprocessRecipe recipe = recipe_of(8, 8, 64, 64, 4.0F, ScoreRule::kTopMean);
  Device device(recipe);
  Case one = random_case(recipe, 1);
  one.grid[7] = std::numeric_limits<float>::quiet_NaN();
  one.grid[63] = -std::numeric_limits<float>::infinity();
  CHECK_THROWS(device.run(one), ModelError, "2 of 64 values are not finite");
  one = random_case(recipe, 1);
  check_same(device.run(one), on_cpu(one), one.decision);
}

// A grid of FP16 numbers gives what its values give as floats; of odd sides too.
TEST(half_grids_equal_the_cpu) {
  for (ScoreRule rule : {ScoreRule::kMax, ScoreRule::kTopMean}) {
    for (PostprocessRecipe recipe :
         {recipe_of(8, 8, 64, 64, 4.0F), recipe_of(7, 9, 50, 71, 2.5F)}) {
      recipe.score = rule;
      Device device(recipe, DType::kFloat16);
      Case one = random_case(recipe, 21);
      for (float& v : one.grid) v = kernel::value_of_half(kernel::half_bits(v));
      check_same(device.run(one), on_cpu(one), one.decision);
      one.grid.back() = 1e6F;  // infinity in FP16
      one.grid.front() = std::numeric_limits<float>::quiet_NaN();
      CHECK_THROWS(device.run(one), ModelError, "2 of ");
    }
  }
}

TEST(prepare_says_what_changed) {
  const PostprocessRecipe recipe = recipe_of(8, 8, 32, 32, 2.0F);
  Device device(recipe);
  PostprocessCuda& stage = device.stage();
  const Stream stream = device.rig().stream.get();
  CHECK_THROWS(stage.enqueue(stream, 0), DeviceError, "was not prepared");
  Decision decision;
  const Rect view{0, 0, 64, 48};
  CHECK(stage.prepare(view, decision, stream));
  CHECK(!stage.prepare(view, decision, stream));
  decision.mask_threshold = 0.5F;
  CHECK(stage.prepare(view, decision, stream));
  decision.ignored = {{{0, 0}, {10, 0}, {0, 10}}};
  CHECK(stage.prepare(view, decision, stream));
  CHECK(!stage.prepare(view, decision, stream));
  CHECK(stage.prepare(Rect{1, 0, 64, 48}, decision, stream));
}

TEST(same_bits_every_run_and_nothing_allocated) {
  const PostprocessRecipe recipe = recipe_of(9, 9, 100, 90, 3.0F, ScoreRule::kTopMean);
  Device device(recipe);
  const Case one = random_case(recipe, 8);
  const Result first = device.run(one);
  const int before = fake_cuda::calls("cuMemAlloc_v2");
  for (int i = 0; i < 3; ++i) {
    const Result again = device.run(one);
    CHECK(again.score == first.score);
    CHECK(again.anomaly_map == first.anomaly_map);
  }
  CHECK(fake_cuda::calls("cuMemAlloc_v2") == before);
}

TEST(failures_are_reported_and_leave_nothing) {
  const PostprocessRecipe recipe = recipe_of(8, 8, 32, 32, 2.0F);
  for (const char* function : {"cuModuleLoadData", "cuModuleGetFunction", "cuMemAlloc_v2"}) {
    const fake_cuda::Failing failing(function, 1);
    CHECK_THROWS(Device(recipe), DeviceError, "CUDA_ERROR");
  }
  {
    Device device(recipe);
    const fake_cuda::Failing failing("cuLaunchKernel", 1);
    CHECK_THROWS(device.run(random_case(recipe, 1)), DeviceError, "postprocessing on the GPU");
  }
  CHECK_THROWS(Device(recipe_of(8, 0, 32, 32, 2.0F)), ModelError, "0 x 8");
  CHECK_THROWS(Device(recipe_of(500, 1, 32, 32, 400.0F)), ModelError, "open the model on the CPU");
  CHECK(fake_cuda::live() == 0);
}

CHECK_MAIN()
