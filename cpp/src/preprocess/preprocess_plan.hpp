// The tables and the launch of the preprocessing kernel for one frame geometry.
//
// Owns     the tables, in host memory.
// Threads  const after construction.
#pragma once

#include <vector>

#include "agp_edge/frame.hpp"
#include "agp_edge/preprocess.hpp"
#include "agp_edge/tensor.hpp"
#include "preprocess/preprocess_kernel.hpp"

namespace agp_edge {

struct PreprocessPlan {
  const char* kernel = nullptr;
  unsigned grid_x = 0, grid_y = 0;
  unsigned threads = 0;
  unsigned shared_bytes = 0;
  std::vector<kernel::RowTile> tiles;
  std::vector<float> down;
  std::vector<int> first;
  std::vector<float> across;
  kernel::PreprocessParams params{};  // its pointers are null

  // `frame`: geometry and format only, which are valid. `processors`: of the GPU; tiles are made
  // smaller until all of them have work. Throws FrameError: a region of interest outside of the
  // frame, or a frame so much larger than the input that a tile does not fit into shared memory.
  PreprocessPlan(const PreprocessRecipe& recipe, const Frame& frame, DType output, int processors);
};

}  // namespace agp_edge
