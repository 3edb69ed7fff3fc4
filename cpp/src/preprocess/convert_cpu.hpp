// The hot loops of the formats that are neither interleaved colour nor 8-bit mono.
//
// Threads  pure functions.
#pragma once

#include <cstddef>
#include <cstdint>

namespace agp_edge {

// Sums over rows of the raw bayer frame, one value a column from column `first` on; [0] over the
// rows that hold red, [1] over those that hold blue (bayer_weights.hpp).
struct BayerSums {
  const float* own[2];
  const float* beside[2];
  int first;
};

// Values behind the last column of a sum that demosaic() reads and does not use; they are finite.
inline constexpr std::size_t kSumPadding = 8;

struct ConvertKernels {
  // rgb[3 k + c] for columns begin + k, k < columns, of a frame `width` wide; the sums reach one
  // column further on both sides, where the frame does. `red`: parity of the columns that hold red.
  void (*demosaic)(const BayerSums& sums, int begin, int columns, int width, int red, float* rgb);

  // Three planes of `columns` values, red, green and blue of columns begin + k, from whole rows of
  // Y and of UV, as cv2.COLOR_YUV2RGB_NV12 rounds and clips.
  void (*nv12)(const std::uint8_t* y, const std::uint8_t* uv, int begin, int columns,
               std::uint8_t* planes);

  // rgb[3 k + c] = planes[c * columns + k].
  void (*interleave)(const float* planes, int columns, float* rgb);
};

// The fastest that this CPU runs.
const ConvertKernels& convert_kernels() noexcept;

}  // namespace agp_edge
