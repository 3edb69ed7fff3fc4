#include "postprocess/postprocess_recipe.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "agp_edge/error.hpp"

namespace agp_edge {

const char* to_string(ScoreRule rule) noexcept {
  switch (rule) {
    case ScoreRule::kTopMean:
      return "top_mean";
    case ScoreRule::kPowerMean:
      return "power_mean";
    case ScoreRule::kMax:
      break;
  }
  return "max";
}

ScoreRule score_rule_from(const std::string& name) {
  for (ScoreRule rule : {ScoreRule::kMax, ScoreRule::kTopMean, ScoreRule::kPowerMean}) {
    if (name == to_string(rule)) return rule;
  }
  throw ModelError("the score rule is \"" + name +
                   "\"; expected \"max\", \"top_mean\" or \"power_mean\"");
}

void check(const PostprocessRecipe& recipe) {
  if (recipe.grid_height <= 0 || recipe.grid_width <= 0 || recipe.map_height <= 0 ||
      recipe.map_width <= 0) {
    throw ModelError("the model's output grid is " + std::to_string(recipe.grid_width) + " x " +
                     std::to_string(recipe.grid_height) + " and its anomaly map " +
                     std::to_string(recipe.map_width) + " x " + std::to_string(recipe.map_height) +
                     "; expected every side to be at least 1: export the model again");
  }
  if (!std::isfinite(recipe.sigma) || recipe.sigma < 0) {
    throw ModelError("the anomaly map's blur sigma is " + std::to_string(recipe.sigma) +
                     "; expected a finite number of map pixels, 0 or more");
  }
  if (!(recipe.top_share > 0 && recipe.top_share <= 1)) {
    throw ModelError("the score's top share is " + std::to_string(recipe.top_share) +
                     "; expected a share above 0 and at most 1");
  }
  if (recipe.power < 1 || recipe.power > kMostPower) {
    throw ModelError("the score's power is " + std::to_string(recipe.power) +
                     "; expected a whole number from 1 to " + std::to_string(kMostPower));
  }
}

std::size_t top_count(const PostprocessRecipe& recipe, std::size_t counted) noexcept {
  return std::clamp<std::size_t>(
      static_cast<std::size_t>(
          std::llround(static_cast<double>(recipe.top_share) * static_cast<double>(counted))),
      1, counted);
}

bool has_power_mean(float largest) noexcept {
  return largest >= std::numeric_limits<float>::min();  // a denormal divides to infinity
}

float least_share(int power) noexcept { return std::exp2(-120.0F / static_cast<float>(power)); }

void check_finite(const PostprocessRecipe& recipe, std::size_t bad) {
  if (bad == 0) return;
  const std::size_t size = static_cast<std::size_t>(recipe.grid_height) * recipe.grid_width;
  throw ModelError("in the model's output, " + std::to_string(bad) + " of " + std::to_string(size) +
                   " values are not finite (NaN or infinity); expected finite distances: export "
                   "the model again, and build it with fp32 if fp16 overflows");
}

}  // namespace agp_edge
