#include "resample_cpu.hpp"

#include <cstring>

#include "simd.hpp"

namespace agp_edge {
namespace {

using Float4 = float __attribute__((vector_size(16)));

AGP_EDGE_INLINE Float4 load4(const float* from) {
  Float4 value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

}  // namespace

AGP_EDGE_CLONES
void weigh_rows(const std::uint8_t* const* rows, const float* weights, int taps, int columns,
                float* line) {
  constexpr int kBlock = 64;
  int x = 0;
  for (; x + kBlock <= columns; x += kBlock) {
    float sum[kBlock] = {};
    for (int t = 0; t < taps; ++t) {
      const std::uint8_t* row = rows[t] + x;
      for (int i = 0; i < kBlock; ++i) sum[i] += weights[t] * static_cast<float>(row[i]);
    }
    std::memcpy(line + x, sum, sizeof(sum));
  }
  for (; x < columns; ++x) {
    float sum = 0;
    for (int t = 0; t < taps; ++t) sum += weights[t] * static_cast<float>(rows[t][x]);
    line[x] = sum;
  }
}

AGP_EDGE_CLONES
void resample_colour(const float* line, const HorizontalTable& table, const Normalisation& normal,
                     float* const* planes) {
  const Float4 scale = {normal.scale[0], normal.scale[1], normal.scale[2], 0};
  const Float4 offset = {normal.offset[0], normal.offset[1], normal.offset[2], 0};
  for (int x = 0; x < table.output; ++x) {
    const float* pixel = line + 3 * table.first[x];
    const float* weights = table.weights + static_cast<std::size_t>(x) * table.taps;
    Float4 sum = {};
    for (int t = 0; t < table.taps; ++t) sum += weights[t] * load4(pixel + 3 * t);
    sum = sum * scale + offset;
    planes[0][x] = sum[0];
    planes[1][x] = sum[1];
    planes[2][x] = sum[2];
  }
}

AGP_EDGE_CLONES
void resample_mono(const float* line, const HorizontalTable& table, const Normalisation& normal,
                   float* const* planes) {
  for (int x = 0; x < table.output; ++x) {
    const float* pixel = line + table.first[x];
    const float* weights = table.weights + static_cast<std::size_t>(x) * table.taps;
    float sum = 0;
    for (int t = 0; t < table.taps; ++t) sum += weights[t] * pixel[t];
    for (int c = 0; c < 3; ++c) planes[c][x] = sum * normal.scale[c] + normal.offset[c];
  }
}

}  // namespace agp_edge
