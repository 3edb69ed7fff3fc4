// What Python's postprocessing stages, on the CPU and on a GPU, are built from.
//
// Threads  pure functions.
#pragma once

#include <string>

#include "agp_edge/postprocess.hpp"

namespace agp_edge::bindings {

// Throws ModelError for an unknown score rule; the stages check the rest.
inline PostprocessRecipe postprocess_recipe(int grid_height, int grid_width, int map_height,
                                            int map_width, float sigma, const std::string& score,
                                            float top_share, int power) {
  PostprocessRecipe recipe;
  recipe.grid_height = grid_height;
  recipe.grid_width = grid_width;
  recipe.map_height = map_height;
  recipe.map_width = map_width;
  recipe.sigma = sigma;
  recipe.score = score_rule_from(score);
  recipe.top_share = top_share;
  recipe.power = power;
  return recipe;
}

}  // namespace agp_edge::bindings
