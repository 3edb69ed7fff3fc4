// What CPU and GPU ask of a recipe and of the model's output, in the same words.
//
// Threads  pure functions.
#pragma once

#include <cstddef>

#include "agp_edge/postprocess.hpp"

namespace agp_edge {

// Throws ModelError.
void check(const PostprocessRecipe& recipe);

// How many of `counted` map pixels the score averages (kTopMean): at least one.
std::size_t top_count(const PostprocessRecipe& recipe, std::size_t counted) noexcept;

// Throws ModelError unless `bad`, the grid's values that are not finite, is 0.
void check_finite(const PostprocessRecipe& recipe, std::size_t bad);

}  // namespace agp_edge
