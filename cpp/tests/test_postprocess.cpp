// Postprocessing against upsample-then-blur in double precision, done in two steps on whole images.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "agp_edge/error.hpp"
#include "agp_edge/postprocess.hpp"
#include "check.hpp"
#include "count_allocations.hpp"

namespace {

using agp_edge::Decision;
using agp_edge::ModelError;
using agp_edge::Postprocessor;
using agp_edge::PostprocessRecipe;
using agp_edge::Rect;
using agp_edge::Result;
using agp_edge::ScoreRule;

struct Plane {
  int height;
  int width;
  std::vector<double> values;

  Plane(int h, int w) : height(h), width(w), values(static_cast<std::size_t>(h) * w) {}
  double& at(int y, int x) { return values[static_cast<std::size_t>(y) * width + x]; }
  double at(int y, int x) const { return values[static_cast<std::size_t>(y) * width + x]; }
};

Plane upsampled(const Plane& grid, int height, int width) {
  Plane out(height, width);
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      const double v = std::clamp((y + 0.5) * grid.height / height - 0.5, 0.0, grid.height - 1.0);
      const double u = std::clamp((x + 0.5) * grid.width / width - 0.5, 0.0, grid.width - 1.0);
      const int top = static_cast<int>(v);
      const int left = static_cast<int>(u);
      const int bottom = std::min(top + 1, grid.height - 1);
      const int right = std::min(left + 1, grid.width - 1);
      const double dy = v - top;
      const double dx = u - left;
      out.at(y, x) = (1 - dy) * ((1 - dx) * grid.at(top, left) + dx * grid.at(top, right)) +
                     dy * ((1 - dx) * grid.at(bottom, left) + dx * grid.at(bottom, right));
    }
  }
  return out;
}

int reflected(int index, int size) {
  if (size == 1) return 0;
  while (index < 0 || index >= size) index = index < 0 ? -index : 2 * (size - 1) - index;
  return index;
}

Plane blurred(const Plane& map, double sigma) {
  if (sigma == 0) return map;
  const int radius = static_cast<int>(std::ceil(4 * sigma));
  std::vector<double> kernel;
  double sum = 0;
  for (int k = -radius; k <= radius; ++k) kernel.push_back(std::exp(-0.5 * k * k / sigma / sigma));
  for (double value : kernel) sum += value;
  Plane across(map.height, map.width);
  Plane out(map.height, map.width);
  for (int y = 0; y < map.height; ++y) {
    for (int x = 0; x < map.width; ++x) {
      for (int k = -radius; k <= radius; ++k) {
        across.at(y, x) += kernel[static_cast<std::size_t>(k + radius)] / sum *
                           map.at(y, reflected(x + k, map.width));
      }
    }
  }
  for (int y = 0; y < map.height; ++y) {
    for (int x = 0; x < map.width; ++x) {
      for (int k = -radius; k <= radius; ++k) {
        out.at(y, x) += kernel[static_cast<std::size_t>(k + radius)] / sum *
                        across.at(reflected(y + k, map.height), x);
      }
    }
  }
  return out;
}

PostprocessRecipe recipe_of(int grid_height, int grid_width, int map_height, int map_width,
                            float sigma) {
  PostprocessRecipe recipe;
  recipe.grid_height = grid_height;
  recipe.grid_width = grid_width;
  recipe.map_height = map_height;
  recipe.map_width = map_width;
  recipe.sigma = sigma;
  return recipe;
}

std::vector<float> random_grid(const PostprocessRecipe& recipe, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> uniform(-1.0F, 3.0F);
  std::vector<float> grid(static_cast<std::size_t>(recipe.grid_height) * recipe.grid_width);
  for (float& value : grid) value = uniform(random);
  return grid;
}

Plane reference(const std::vector<float>& grid, const PostprocessRecipe& recipe) {
  Plane plane(recipe.grid_height, recipe.grid_width);
  std::copy(grid.begin(), grid.end(), plane.values.begin());
  return blurred(upsampled(plane, recipe.map_height, recipe.map_width),
                 static_cast<double>(recipe.sigma));
}

Rect whole(const PostprocessRecipe& recipe) {
  return Rect{0, 0, recipe.map_width, recipe.map_height};
}

Result run(const PostprocessRecipe& recipe, const std::vector<float>& grid,
           const Decision& decision = {}) {
  Result result;
  Postprocessor(recipe).run(grid.data(), whole(recipe), decision, result);
  return result;
}

const PostprocessRecipe kRecipes[] = {
    recipe_of(1, 1, 1, 1, 0.0F),       recipe_of(1, 1, 16, 24, 2.0F),
    recipe_of(4, 4, 64, 64, 0.0F),     recipe_of(4, 4, 64, 64, 4.0F),
    recipe_of(8, 6, 128, 96, 4.0F),    recipe_of(7, 5, 50, 33, 1.3F),
    recipe_of(16, 16, 128, 128, 8.0F), recipe_of(1, 12, 9, 130, 3.0F),
    recipe_of(24, 24, 24, 24, 1.0F),   recipe_of(30, 30, 20, 21, 0.7F),
    recipe_of(3, 3, 10, 10, 6.0F),  // the blur reaches over the whole map and back
};

}  // namespace

TEST(map_equals_upsampling_and_blurring) {
  for (const PostprocessRecipe& recipe : kRecipes) {
    const std::vector<float> grid = random_grid(recipe, 5);
    const Plane expected = reference(grid, recipe);
    const Result result = run(recipe, grid);
    CHECK(result.map_height == recipe.map_height);
    CHECK(result.map_width == recipe.map_width);
    CHECK(result.anomaly_map.size() == expected.values.size());
    for (std::size_t i = 0; i < expected.values.size(); ++i) {
      CHECK_NEAR(result.anomaly_map[i], expected.values[i], 2e-6);
    }
  }
}

TEST(max_score_is_the_largest_value_of_the_map) {
  for (const PostprocessRecipe& recipe : kRecipes) {
    const Result result = run(recipe, random_grid(recipe, 6));
    CHECK(result.score == *std::max_element(result.anomaly_map.begin(), result.anomaly_map.end()));
  }
}

TEST(top_mean_score_is_the_mean_of_the_largest_share) {
  for (PostprocessRecipe recipe : kRecipes) {
    for (float share : {1e-6F, 0.01F, 0.3F, 1.0F}) {
      recipe.score = ScoreRule::kTopMean;
      recipe.top_share = share;
      const Result result = run(recipe, random_grid(recipe, 7));
      std::vector<float> sorted = result.anomaly_map;
      std::sort(sorted.rbegin(), sorted.rend());
      const double size = static_cast<double>(sorted.size());
      const std::size_t count = static_cast<std::size_t>(
          std::clamp(std::round(static_cast<double>(share) * size), 1.0, size));
      double sum = 0;
      for (std::size_t i = 0; i < count; ++i) sum += static_cast<double>(sorted[i]);
      CHECK_NEAR(result.score, sum / static_cast<double>(count), 1e-6);
    }
  }
}

TEST(power_mean_score_lies_between_mean_and_largest) {
  for (PostprocessRecipe recipe : kRecipes) {
    std::vector<float> grid = random_grid(recipe, 7);
    grid[0] = std::abs(grid[0]);  // of a single value too
    double before = 0;
    for (int power : {1, 2, 3, 24, 63, 64}) {
      recipe.score = ScoreRule::kPowerMean;
      recipe.power = power;
      const Result result = run(recipe, grid);
      double sum = 0;
      for (float value : result.anomaly_map) sum += std::pow(std::max(value, 0.0F), power);
      const double mean = sum / static_cast<double>(result.anomaly_map.size());
      CHECK_NEAR(result.score, std::pow(mean, 1.0 / power), 2e-6);
      CHECK(static_cast<double>(result.score) >= before * (1 - 1e-6));  // rises with the power
      before = static_cast<double>(result.score);
    }
  }
}

TEST(power_mean_of_what_is_not_above_zero_and_of_extremes) {
  PostprocessRecipe recipe = recipe_of(4, 4, 4, 4, 0.0F);
  recipe.score = ScoreRule::kPowerMean;
  for (float value : {-2.0F, 0.0F, 1e-40F, 3e38F, 1e-37F}) {
    CHECK_NEAR(run(recipe, std::vector<float>(16, value)).score, static_cast<double>(value),
               1e-6 * std::abs(static_cast<double>(value)));
  }
  std::vector<float> grid(16, -5.0F);
  grid[7] = 2.0F;  // what is below zero counts as zero
  CHECK_NEAR(run(recipe, grid).score, 2.0 * std::pow(1.0 / 16.0, 1.0 / 24.0), 1e-6);
}

TEST(scores_are_neither_clipped_nor_squeezed) {
  const PostprocessRecipe recipe = recipe_of(4, 4, 32, 32, 2.0F);
  std::vector<float> grid(16, -5.0F);
  CHECK_NEAR(run(recipe, grid).score, -5.0, 1e-5);
  std::fill(grid.begin(), grid.end(), 1e20F);
  CHECK_NEAR(run(recipe, grid).score / 1e20F, 1.0, 1e-5);
}

TEST(mask_holds_what_exceeds_the_mask_threshold) {
  for (const PostprocessRecipe& recipe : kRecipes) {
    Decision decision;
    decision.threshold = 0.8F;
    decision.mask_threshold = 1.1F;
    const Result result = run(recipe, random_grid(recipe, 8), decision);
    CHECK(result.threshold == 0.8F);
    CHECK(result.is_anomalous == (result.score > 0.8F));
    CHECK(result.mask.size() == result.anomaly_map.size());
    for (std::size_t i = 0; i < result.mask.size(); ++i) {
      CHECK(result.mask[i] == (result.anomaly_map[i] > 1.1F ? 1 : 0));
    }
  }
}

TEST(a_score_equal_to_the_threshold_is_good) {
  const PostprocessRecipe recipe = recipe_of(1, 1, 4, 4, 0.0F);
  Decision decision;
  decision.threshold = 2.0F;
  decision.mask_threshold = 2.0F;
  const Result result = run(recipe, {2.0F}, decision);
  CHECK(!result.is_anomalous);
  CHECK(std::count(result.mask.begin(), result.mask.end(), 0) == 16);
  CHECK(result.regions.empty());
}

TEST(regions_lie_where_the_grid_peaks_in_frame_pixels) {
  PostprocessRecipe recipe = recipe_of(8, 8, 64, 64, 1.0F);
  std::vector<float> grid(64, 0.0F);
  grid[1 * 8 + 6] = 4.0F;
  grid[5 * 8 + 2] = 9.0F;
  Decision decision;
  decision.mask_threshold = 2.0F;
  Result result;
  const Rect view{100, 50, 640, 320};  // 10 x 5 frame pixels for each pixel of the map
  Postprocessor(recipe).run(grid.data(), view, decision, result);
  CHECK(result.regions.size() == 2);
  if (result.regions.size() != 2) return;
  const agp_edge::Region& first = result.regions[0];
  CHECK_NEAR(first.peak_x, 100 + 20 * 10, 11);
  CHECK_NEAR(first.peak_y, 50 + 44 * 5, 6);
  CHECK(first.peak == result.score);
  CHECK_NEAR(first.frame_area, first.area * 50.0, 1e-9);
  CHECK(first.box.x <= first.peak_x && first.peak_x < first.box.x + first.box.width);
  CHECK(first.box.y <= first.peak_y && first.peak_y < first.box.y + first.box.height);
  CHECK(result.regions[1].peak < first.peak);
  CHECK_NEAR(result.regions[1].peak_x, 100 + 52 * 10, 11);
  CHECK(std::count(result.mask.begin(), result.mask.end(), 1) ==
        first.area + result.regions[1].area);

  decision.min_area = first.area;
  Postprocessor(recipe).run(grid.data(), view, decision, result);
  CHECK(result.regions.size() == 1);
  CHECK(std::count(result.mask.begin(), result.mask.end(), 1) == first.area);
}

TEST(outputs_that_nobody_asked_for_are_empty) {
  for (ScoreRule rule : {ScoreRule::kMax, ScoreRule::kTopMean, ScoreRule::kPowerMean}) {
    PostprocessRecipe recipe = recipe_of(6, 6, 48, 48, 2.0F);
    recipe.score = rule;
    const std::vector<float> grid = random_grid(recipe, 9);
    Decision decision;
    decision.mask_threshold = 1.2F;
    decision.min_area = 5;
    const Result all = run(recipe, grid, decision);
    CHECK(!all.regions.empty());
    Result reused = all;
    for (int outputs = 0; outputs < 8; ++outputs) {
      decision.outputs = static_cast<std::uint8_t>(outputs);
      Postprocessor(recipe).run(grid.data(), whole(recipe), decision, reused);
      CHECK(reused.score == all.score);
      CHECK(reused.anomaly_map ==
            ((outputs & agp_edge::kMap) != 0 ? all.anomaly_map : std::vector<float>{}));
      CHECK(reused.mask ==
            ((outputs & agp_edge::kMask) != 0 ? all.mask : std::vector<std::uint8_t>{}));
      CHECK(reused.regions.size() ==
            ((outputs & agp_edge::kRegions) != 0 ? all.regions.size() : 0));
    }
  }
}

TEST(values_that_are_not_finite_are_counted_and_refused) {
  const PostprocessRecipe recipe = recipe_of(5, 7, 40, 56, 2.0F);
  const std::vector<float> good = random_grid(recipe, 10);
  Postprocessor stage(recipe);
  Result result;
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                    -std::numeric_limits<float>::infinity()}) {
    for (std::size_t place : {std::size_t{0}, std::size_t{17}, std::size_t{34}}) {
      std::vector<float> grid = good;
      grid[place] = bad;
      CHECK_THROWS(stage.run(grid.data(), whole(recipe), {}, result), ModelError,
                   "1 of 35 values are not finite");
    }
    const std::vector<float> all(35, bad);
    CHECK_THROWS(stage.run(all.data(), whole(recipe), {}, result), ModelError, "35 of 35 values");
  }
  stage.run(good.data(), whole(recipe), {}, result);
  CHECK(result.score == run(recipe, good).score);
}

TEST(allocates_only_inside_the_result) {
  for (ScoreRule rule : {ScoreRule::kMax, ScoreRule::kTopMean, ScoreRule::kPowerMean}) {
    PostprocessRecipe recipe = recipe_of(16, 16, 128, 128, 4.0F);
    recipe.score = rule;
    const std::vector<float> grid = random_grid(recipe, 11);
    Postprocessor stage(recipe);
    Decision decision;
    decision.mask_threshold = 1.2F;
    decision.min_area = 3;
    Result result;
    stage.run(grid.data(), whole(recipe), decision, result);
    CHECK(!result.regions.empty());
    const long before = allocation_count.load();
    for (int i = 0; i < 5; ++i) stage.run(grid.data(), whole(recipe), decision, result);
    CHECK(allocation_count.load() == before);
  }
}

TEST(bad_recipes_are_refused) {
  CHECK_THROWS(Postprocessor(recipe_of(0, 4, 8, 8, 1.0F)), ModelError, "4 x 0");
  CHECK_THROWS(Postprocessor(recipe_of(4, 4, 8, -8, 1.0F)), ModelError, "-8 x 8");
  CHECK_THROWS(Postprocessor(recipe_of(4, 4, 8, 8, -1.0F)), ModelError, "sigma");
  PostprocessRecipe recipe = recipe_of(4, 4, 8, 8, 1.0F);
  for (float share : {0.0F, 1.5F, std::numeric_limits<float>::quiet_NaN()}) {
    recipe.top_share = share;
    CHECK_THROWS(Postprocessor{recipe}, ModelError, "top share");
  }
  recipe.top_share = 0.5F;
  for (int power : {-1, 0, 65}) {
    recipe.power = power;
    CHECK_THROWS(Postprocessor{recipe}, ModelError, "from 1 to 64");
  }
  CHECK_THROWS(agp_edge::score_rule_from("median"), ModelError, "\"median\"");
  for (ScoreRule rule : {ScoreRule::kMax, ScoreRule::kTopMean, ScoreRule::kPowerMean}) {
    CHECK(agp_edge::score_rule_from(agp_edge::to_string(rule)) == rule);
  }
}

CHECK_MAIN()
