// What CPU and GPU ask of a recipe and of the model's output, in the same words.
//
// Threads  pure functions.
#pragma once

#include <cstddef>

#include "agp_edge/postprocess.hpp"

namespace agp_edge {

// Of kPowerMean; with more, all but the largest value would vanish in a float.
constexpr int kMostPower = 64;

// Throws ModelError.
void check(const PostprocessRecipe& recipe);

// How many of `counted` map pixels the score averages (kTopMean): at least one.
std::size_t top_count(const PostprocessRecipe& recipe, std::size_t counted) noexcept;

// Whether the map's largest value is one that others can be shares of (kPowerMean); if not, it is
// the score.
bool has_power_mean(float largest) noexcept;

// Shares of the largest value below it count as 0: their power is nothing beside 1, and a denormal
// product takes a hundred times as long.
float least_share(int power) noexcept;

// Throws ModelError unless `bad`, the grid's values that are not finite, is 0.
void check_finite(const PostprocessRecipe& recipe, std::size_t bad);

}  // namespace agp_edge
