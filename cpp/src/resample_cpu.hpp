// The two passes of the CPU resize. Each output row is one call of the vertical pass into a line of
// floats that stays in the L1 cache, then one of the horizontal pass into the three planes.
//
// Threads  pure functions.
#pragma once

#include <cstddef>
#include <cstdint>

namespace agp_edge {

// Floats that the horizontal pass may read (and ignore) behind the last pixel of a line.
inline constexpr std::size_t kLinePadding = 16;

// line[x] = sum over t < taps of weights[t] * rows[t][x], for x < columns.
void weigh_rows(const std::uint8_t* const* rows, const float* weights, int taps, int columns,
                float* line);

// What follows the resize: plane[c][x] = value * scale[c] + offset[c].
struct Normalisation {
  float scale[3];
  float offset[3];
};

// One axis of the resize as the horizontal pass reads it; rows as in BandMatrix.
struct HorizontalTable {
  const int* first;      // input pixel
  const float* weights;  // output x taps
  int taps;
  int output;
};

// Interleaved three-channel line; channel c of the line goes to planes[c].
void resample_colour(const float* line, const HorizontalTable& table, const Normalisation& normal,
                     float* const* planes);

// One-channel line, written to each plane with that plane's normalisation.
void resample_mono(const float* line, const HorizontalTable& table, const Normalisation& normal,
                   float* const* planes);

}  // namespace agp_edge
