// The hot loops of the postprocessing: grid rows become wide rows (horizontal), wide rows become
// rows of the anomaly map (vertical); both multiply by one banded matrix of upsampling and blur.
// And what is asked of the map: which values exceed, and the sum of their powers.
//
// Threads  pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "preprocess/resize_weights.hpp"

namespace agp_edge {

// Map columns that share their grid columns in the horizontal pass.
inline constexpr int kSmoothBlock = 32;

// A banded matrix with the outputs of a block side by side, so that they fill vectors.
struct SmoothTable {
  struct Block {
    int first;            // input of its first weight row
    int inputs;           // weight rows
    std::size_t weights;  // index of its first weight: inputs x kSmoothBlock
  };
  std::vector<Block> blocks;
  std::vector<float> weights;

  explicit SmoothTable(const BandMatrix& matrix);
  // Floats of an output row: whole blocks, zero behind the matrix's outputs.
  std::size_t padded_output() const noexcept { return blocks.size() * kSmoothBlock; }
};

struct SmoothKernels {
  // out[x] for x < table.padded_output() from one row of the grid.
  void (*widen)(const float* row, const SmoothTable& table, float* out);

  // out[x] = sum over t < taps of weights[t] * rows[t * pitch + x], for x < width; returns the
  // largest. `rows` may be read up to the next multiple of kSmoothBlock behind width.
  float (*blend)(const float* rows, std::size_t pitch, const float* weights, int taps, int width,
                 float* out);

  // mask[i] = values[i] > threshold.
  void (*exceeds)(const float* values, float threshold, std::size_t size, std::uint8_t* mask);

  // Sum of (scale * values[i])^power over those with scale * values[i] > least; at most 1 each.
  double (*power_sum)(const float* values, std::size_t size, float scale, float least, int power);
};

extern const SmoothKernels kBaselineSmoothKernels;

// The fastest that this CPU runs.
const SmoothKernels& smooth_kernels() noexcept;

}  // namespace agp_edge
