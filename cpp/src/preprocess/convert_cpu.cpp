#include "preprocess/convert_cpu.hpp"

#include <algorithm>

#include "cpu/simd.hpp"
#include "frame/nv12.hpp"

namespace agp_edge {
namespace {

// Columns at once: what they take stays in the L1 cache.
constexpr int kBlock = 256;

AGP_EDGE_INLINE void interleave(const float* __restrict red, const float* __restrict green,
                                const float* __restrict blue, int columns, float* __restrict rgb) {
  for (int k = 0; k < columns; ++k) {
    rgb[3 * k] = red[k];
    rgb[3 * k + 1] = green[k];
    rgb[3 * k + 2] = blue[k];
  }
}

// Both kinds of column are computed everywhere and one is taken. `first`: index of the first column
// in the sums, with a neighbour on both sides; `holds_red`: it.
AGP_EDGE_INLINE void demosaic_block(const BayerSums& sums, int first, int columns, bool holds_red,
                                    float* rgb) {
  const float* red_own = sums.own[0] + first;
  const float* red_beside = sums.beside[0] + first;
  const float* blue_own = sums.own[1] + first;
  const float* blue_beside = sums.beside[1] + first;
  float red[kBlock];
  float green[kBlock];
  float blue[kBlock];
  const Lanes8 even = {-1, 0, -1, 0, -1, 0, -1, 0};
  const Lanes8 at_red = holds_red ? even : ~even;
  for (int k = 0; k < columns; k += 8) {
    const Float8 red_left = load8(red_own + k - 1);
    const Float8 red_right = load8(red_own + k + 1);
    const Float8 blue_left = load8(blue_own + k - 1);
    const Float8 blue_right = load8(blue_own + k + 1);
    const Float8 red_sides =
        (red_left + load8(red_beside + k - 1)) + (red_right + load8(red_beside + k + 1));
    const Float8 blue_sides =
        (blue_left + load8(blue_beside + k - 1)) + (blue_right + load8(blue_beside + k + 1));
    const Float8 red_here = load8(red_own + k);
    const Float8 red_half = load8(red_beside + k);
    const Float8 blue_here = load8(blue_own + k);
    const Float8 blue_half = load8(blue_beside + k);
    const Float8 r = at_red ? red_here + red_half : 0.5F * red_sides;
    const Float8 g = at_red ? blue_here + 0.5F * blue_half + 0.25F * (red_left + red_right)
                            : red_here + 0.5F * red_half + 0.25F * (blue_left + blue_right);
    const Float8 b = at_red ? 0.5F * blue_sides : blue_here + blue_half;
    std::memcpy(red + k, &r, sizeof(r));
    std::memcpy(green + k, &g, sizeof(g));
    std::memcpy(blue + k, &b, sizeof(b));
  }
  interleave(red, green, blue, columns, rgb);
}

// A column at the frame's edge: both neighbours are the one inside.
AGP_EDGE_INLINE void demosaic_edge(const BayerSums& sums, int here, int beside, bool holds_red,
                                   float* rgb) {
  const int kind = holds_red ? 0 : 1;
  const float* own = sums.own[kind];
  const float* other_own = sums.own[1 - kind];
  const float* other_beside = sums.beside[1 - kind];
  rgb[2 * kind] = own[here] + sums.beside[kind][here];
  rgb[1] = other_own[here] + 0.5F * other_beside[here] + 0.5F * own[beside];
  rgb[2 - 2 * kind] = other_own[beside] + other_beside[beside];
}

AGP_EDGE_INLINE void demosaic(const BayerSums& sums, int begin, int columns, int width, int red,
                              float* rgb) {
  const int end = begin + columns;
  int column = begin;
  if (column == 0) {
    demosaic_edge(sums, -sums.first, 1 - sums.first, red == 0, rgb);
    ++column;
  }
  const int inner_end = end == width ? end - 1 : end;
  for (; column < inner_end; column += kBlock) {
    demosaic_block(sums, column - sums.first, std::min(kBlock, inner_end - column),
                   (column & 1) == red, rgb + 3 * (column - begin));
  }
  if (end == width && (columns > 1 || begin != 0)) {
    const int last = width - 1;
    demosaic_edge(sums, last - sums.first, last - 1 - sums.first, (last & 1) == red,
                  rgb + 3 * (last - begin));
  }
}

AGP_EDGE_INLINE std::uint8_t nv12_value(int brightness, int chroma) {
  return static_cast<std::uint8_t>(nv12::pixel(brightness + chroma));
}

AGP_EDGE_INLINE void nv12_row(const std::uint8_t* __restrict y, const std::uint8_t* __restrict uv,
                              int begin, int columns, std::uint8_t* __restrict red,
                              std::uint8_t* __restrict green, std::uint8_t* __restrict blue) {
  const auto single = [&](int k) {
    const int column = begin + k;
    const nv12::Chroma chroma = nv12::chroma(uv[column & ~1], uv[column | 1]);
    const int brightness = nv12::brightness(y[column]);
    red[k] = nv12_value(brightness, chroma.red);
    green[k] = nv12_value(brightness, chroma.green);
    blue[k] = nv12_value(brightness, chroma.blue);
  };
  const int lead = begin & 1;
  if (lead != 0) single(0);
  const int pairs = (columns - lead) / 2;
  const std::uint8_t* __restrict luma = y + begin + lead;
  const std::uint8_t* __restrict chromas = uv + begin + lead;
  std::uint8_t* __restrict r = red + lead;
  std::uint8_t* __restrict g = green + lead;
  std::uint8_t* __restrict b = blue + lead;
  for (int i = 0; i < pairs; ++i) {
    const nv12::Chroma chroma = nv12::chroma(chromas[2 * i], chromas[2 * i + 1]);
    const int left = nv12::brightness(luma[2 * i]);
    const int right = nv12::brightness(luma[2 * i + 1]);
    r[2 * i] = nv12_value(left, chroma.red);
    r[2 * i + 1] = nv12_value(right, chroma.red);
    g[2 * i] = nv12_value(left, chroma.green);
    g[2 * i + 1] = nv12_value(right, chroma.green);
    b[2 * i] = nv12_value(left, chroma.blue);
    b[2 * i + 1] = nv12_value(right, chroma.blue);
  }
  if ((columns - lead) % 2 != 0) single(columns - 1);
}

// Functions of one instruction set around the bodies above, and their table.
#define AGP_EDGE_CONVERT_KERNELS(Set, attribute)                                                   \
  struct Set {                                                                                     \
    attribute static void bayer(const BayerSums& sums, int begin, int columns, int width, int red, \
                                float* rgb) {                                                      \
      demosaic(sums, begin, columns, width, red, rgb);                                             \
    }                                                                                              \
    attribute static void yuv(const std::uint8_t* y, const std::uint8_t* uv, int begin,            \
                              int columns, std::uint8_t* planes) {                                 \
      nv12_row(y, uv, begin, columns, planes, planes + columns, planes + 2 * columns);             \
    }                                                                                              \
    attribute static void weave(const float* planes, int columns, float* rgb) {                    \
      interleave(planes, planes + columns, planes + 2 * columns, columns, rgb);                    \
    }                                                                                              \
    static constexpr ConvertKernels kernels() { return {bayer, yuv, weave}; }                      \
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
