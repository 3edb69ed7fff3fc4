#include "convert_cpu.hpp"

#include "nv12.hpp"
#include "simd.hpp"

namespace agp_edge {
namespace {

// One column: of its own colour (red or blue) where `kind` rows hold it, the other, and green.
AGP_EDGE_INLINE void demosaic_column(const BayerSums& sums, int kind, int left, int column,
                                     int right, float* rgb) {
  const float* own = sums.own[kind];
  const float* beside = sums.beside[kind];
  const float* other_own = sums.own[1 - kind];
  const float* other_beside = sums.beside[1 - kind];
  rgb[2 * kind] = own[column] + beside[column];
  rgb[1] = other_own[column] + 0.5F * other_beside[column] + 0.25F * (own[left] + own[right]);
  rgb[2 - 2 * kind] =
      0.5F * ((other_own[left] + other_beside[left]) + (other_own[right] + other_beside[right]));
}

AGP_EDGE_INLINE void demosaic(const BayerSums& sums, int begin, int columns, int width, int red,
                              float* rgb) {
  const auto kind_of = [red](int column) { return (column & 1) == red ? 0 : 1; };
  const auto at_edge = [&](int column) {
    const int left = column == 0 ? 1 : column - 1;
    const int right = column == width - 1 ? width - 2 : column + 1;
    demosaic_column(sums, kind_of(column), left - sums.first, column - sums.first,
                    right - sums.first, rgb + 3 * (column - begin));
  };
  const int end = begin + columns;
  int column = begin;
  if (column == 0) at_edge(column++);
  const int last = end == width ? end - 1 : end;  // has a neighbour on its right
  const int first_kind = kind_of(column);
  for (; column + 1 < last; column += 2) {
    float* pixel = rgb + 3 * (column - begin);
    const int here = column - sums.first;
    demosaic_column(sums, first_kind, here - 1, here, here + 1, pixel);
    demosaic_column(sums, 1 - first_kind, here, here + 1, here + 2, pixel + 3);
  }
  for (; column < end; ++column) at_edge(column);
}

AGP_EDGE_INLINE void nv12_pixel(int y, const nv12::Chroma& chroma, std::uint8_t* rgb) {
  const int brightness = nv12::brightness(y);
  rgb[0] = static_cast<std::uint8_t>(nv12::pixel(brightness + chroma.red));
  rgb[1] = static_cast<std::uint8_t>(nv12::pixel(brightness + chroma.green));
  rgb[2] = static_cast<std::uint8_t>(nv12::pixel(brightness + chroma.blue));
}

AGP_EDGE_INLINE void nv12_row(const std::uint8_t* __restrict y, const std::uint8_t* __restrict uv,
                              int begin, int columns, std::uint8_t* __restrict rgb) {
  const auto chroma_of = [uv](int column) { return nv12::chroma(uv[column & ~1], uv[column | 1]); };
  int k = 0;
  if (begin % 2 != 0) {
    nv12_pixel(y[begin], chroma_of(begin), rgb);
    k = 1;
  }
  for (; k + 1 < columns; k += 2) {
    const nv12::Chroma chroma = chroma_of(begin + k);
    nv12_pixel(y[begin + k], chroma, rgb + 3 * k);
    nv12_pixel(y[begin + k + 1], chroma, rgb + 3 * k + 3);
  }
  if (k < columns) nv12_pixel(y[begin + k], chroma_of(begin + k), rgb + 3 * k);
}

// Functions of one instruction set around the bodies above, and their table.
#define AGP_EDGE_CONVERT_KERNELS(Set, attribute)                                                   \
  struct Set {                                                                                     \
    attribute static void bayer(const BayerSums& sums, int begin, int columns, int width, int red, \
                                float* rgb) {                                                      \
      demosaic(sums, begin, columns, width, red, rgb);                                             \
    }                                                                                              \
    attribute static void yuv(const std::uint8_t* y, const std::uint8_t* uv, int begin,            \
                              int columns, std::uint8_t* rgb) {                                    \
      nv12_row(y, uv, begin, columns, rgb);                                                        \
    }                                                                                              \
    static constexpr ConvertKernels kernels() { return {bayer, yuv}; }                             \
  };

AGP_EDGE_CONVERT_KERNELS(Baseline, )
constexpr ConvertKernels kBaselineConvertKernels = Baseline::kernels();
#if defined(AGP_EDGE_HAS_AVX2_BUILD)
AGP_EDGE_CONVERT_KERNELS(Avx2, AGP_EDGE_AVX2)
constexpr ConvertKernels kAvx2ConvertKernels = Avx2::kernels();
#endif

}  // namespace

const ConvertKernels& convert_kernels() noexcept {
#if defined(AGP_EDGE_HAS_AVX2_BUILD)
  static const bool has_avx2 = cpu_has_avx2();
  if (has_avx2) return kAvx2ConvertKernels;
#endif
  return kBaselineConvertKernels;
}

}  // namespace agp_edge
