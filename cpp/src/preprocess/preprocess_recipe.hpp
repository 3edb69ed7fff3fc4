// What CPU and GPU ask of a recipe, in the same words.
//
// Threads  pure functions.
#pragma once

#include "agp_edge/preprocess.hpp"

namespace agp_edge {

// Throws ModelError: sizes, mean or deviation; FrameError: an empty region of interest.
void check(const PreprocessRecipe& recipe);

// The region of interest, or the whole frame. Throws FrameError when it does not lie inside.
Rect view_of(const PreprocessRecipe& recipe, const Frame& frame);

}  // namespace agp_edge
