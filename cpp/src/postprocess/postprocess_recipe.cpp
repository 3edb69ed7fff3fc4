#include "postprocess/postprocess_recipe.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include "agp_edge/error.hpp"

namespace agp_edge {

const char* to_string(ScoreRule rule) noexcept {
  return rule == ScoreRule::kTopMean ? "top_mean" : "max";
}

ScoreRule score_rule_from(const std::string& name) {
  for (ScoreRule rule : {ScoreRule::kMax, ScoreRule::kTopMean}) {
    if (name == to_string(rule)) return rule;
  }
  throw ModelError("the score rule is \"" + name + "\"; expected \"max\" or \"top_mean\"");
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
}

std::size_t top_count(const PostprocessRecipe& recipe, std::size_t counted) noexcept {
  return std::clamp<std::size_t>(
      static_cast<std::size_t>(
          std::llround(static_cast<double>(recipe.top_share) * static_cast<double>(counted))),
      1, counted);
}

void check_finite(const PostprocessRecipe& recipe, std::size_t bad) {
  if (bad == 0) return;
  const std::size_t size = static_cast<std::size_t>(recipe.grid_height) * recipe.grid_width;
  throw ModelError("in the model's output, " + std::to_string(bad) + " of " + std::to_string(size) +
                   " values are not finite (NaN or infinity); expected finite distances: export "
                   "the model again, and build it with fp32 if fp16 overflows");
}

}  // namespace agp_edge
