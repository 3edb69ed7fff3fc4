// The hot loops of the CPU resize. Frame rows are summed with weights into lines of floats that
// stay in cache (vertical), lines become rows of the three output planes (horizontal).
//
// Threads  pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "preprocess/resize_weights.hpp"

namespace agp_edge {

// Floats behind the last pixel of a line that the horizontal pass reads and gives weight 0; they
// have to be finite.
inline constexpr std::size_t kLinePadding = 16;

// Lines that the horizontal pass takes at once, so that they share the loads of the weights.
inline constexpr int kLinesAtOnce = 4;

// Rows that sweep_linear() and sweep_constant() sum in 16 bits: 255 n (n + 1) / 2 and 255 n fit.
inline constexpr int kMaxLinearRows = 22;
inline constexpr int kMaxConstantRows = 257;

// Row i of n has the weight falling + (n - i) * step in `line` and the weight
// rising - (n - i) * next_step in the line after it.
struct LinearWeights {
  float falling, step;
  float rising, next_step;
};

// Every row has the weight `each` in `line`; the row behind them, `shared` (may be null), has the
// weight `last` in `line` and `next` in the line after it.
struct ConstantWeights {
  const std::uint8_t* shared;
  float each, last, next;
};

// What follows the resize: plane[c][x] = value * scale[c] + offset[c].
struct Normalisation {
  float scale[3];
  float offset[3];
};

// One axis of the resize as the horizontal pass reads it: outputs padded to a multiple of 4; for
// three channels two taps a step, each weight once per channel, for one channel four taps a step.
struct HorizontalTable {
  int output = 0;
  int steps = 0;  // per output
  std::vector<int> first;
  std::vector<float> weights;

  HorizontalTable() = default;
  HorizontalTable(const BandMatrix& matrix, int channels);
};

// Where `lines` rows of the three planes go, each `pitch` floats behind the one before.
struct PlaneRows {
  float* planes[3];
  std::size_t pitch;
};

struct ResampleKernels {
  // line[x] = sum over t < taps of weights[t] * rows[t][x], for x < columns.
  void (*weigh_rows)(const std::uint8_t* const* rows, const float* weights, int taps, int columns,
                     float* line);

  void (*weigh_rows16)(const std::uint16_t* const* rows, const float* weights, int taps,
                       int columns, float* line);

  // line = carry + the rows' part in it; carry = their part in the line after it. `ahead`: bytes
  // from each row to the one that the next call will want at its place; it is prefetched.
  void (*sweep_linear)(const std::uint8_t* const* rows, int n, std::size_t ahead,
                       const LinearWeights& weights, int columns, float* carry, float* line);
  void (*sweep_constant)(const std::uint8_t* const* rows, int n, std::size_t ahead,
                         const ConstantWeights& weights, int columns, float* carry, float* line);

  // `lines` (at most kLinesAtOnce) lines, `stride` floats apart, of interleaved three-channel
  // pixels, channel c to planes[c]; or of one channel, written to each plane.
  void (*resample_colour)(const float* line, std::size_t stride, int lines,
                          const HorizontalTable& table, const Normalisation& normal,
                          const PlaneRows& out);
  void (*resample_mono)(const float* line, std::size_t stride, int lines,
                        const HorizontalTable& table, const Normalisation& normal,
                        const PlaneRows& out);
};

extern const ResampleKernels kBaselineResampleKernels;

// The fastest that this CPU runs.
const ResampleKernels& resample_kernels() noexcept;

}  // namespace agp_edge
