#include "preprocess/resample_cpu.hpp"

#include <algorithm>

#include "cpu/simd.hpp"

namespace agp_edge {
namespace {

// Columns that one pass over the rows covers: sums and lines of a block stay in the L1 cache, and
// the prefetches of a block are few enough not to wait for each other.
constexpr int kBlock = 256;
constexpr int kCacheLine = 64;

template <int kRows, bool kAdd, typename Value>
AGP_EDGE_INLINE void weigh_block(const Value* const* rows, const float* weights, int begin, int end,
                                 float* __restrict line) {
  const Value* __restrict r0 = rows[0];
  const Value* __restrict r1 = rows[kRows > 1 ? 1 : 0];
  const Value* __restrict r2 = rows[kRows > 2 ? 2 : 0];
  const Value* __restrict r3 = rows[kRows > 3 ? 3 : 0];
  const float w0 = weights[0];
  const float w1 = weights[kRows > 1 ? 1 : 0];
  const float w2 = weights[kRows > 2 ? 2 : 0];
  const float w3 = weights[kRows > 3 ? 3 : 0];
  for (int x = begin; x < end; ++x) {
    float sum = w0 * static_cast<float>(r0[x]);
    if (kRows > 1) sum += w1 * static_cast<float>(r1[x]);
    if (kRows > 2) sum += w2 * static_cast<float>(r2[x]);
    if (kRows > 3) sum += w3 * static_cast<float>(r3[x]);
    line[x] = kAdd ? line[x] + sum : sum;
  }
}

template <bool kAdd, typename Value>
AGP_EDGE_INLINE void weigh_up_to_4(const Value* const* rows, const float* weights, int n, int begin,
                                   int end, float* line) {
  switch (n) {
    case 0:
      return;
    case 1:
      return weigh_block<1, kAdd>(rows, weights, begin, end, line);
    case 2:
      return weigh_block<2, kAdd>(rows, weights, begin, end, line);
    case 3:
      return weigh_block<3, kAdd>(rows, weights, begin, end, line);
    default:
      return weigh_block<4, kAdd>(rows, weights, begin, end, line);
  }
}

template <typename Value>
AGP_EDGE_INLINE void weigh_rows(const Value* const* rows, const float* weights, int taps,
                                int columns, float* line) {
  for (int begin = 0; begin < columns; begin += kBlock) {
    const int end = std::min(columns, begin + kBlock);
    weigh_up_to_4<false>(rows, weights, taps, begin, end, line);
    for (int t = 4; t < taps; t += 4) {
      weigh_up_to_4<true>(rows + t, weights + t, taps - t, begin, end, line);
    }
  }
}

// sums: of the rows; ramp: of the running sums, so that row i of n counts n - i times.
template <int kRows, bool kAdd, bool kRamp>
AGP_EDGE_INLINE void sum_block(const std::uint8_t* const* rows, int begin, int size,
                               std::uint16_t* __restrict sums, std::uint16_t* __restrict ramp) {
  const std::uint8_t* __restrict r0 = rows[0] + begin;
  const std::uint8_t* __restrict r1 = rows[kRows > 1 ? 1 : 0] + begin;
  const std::uint8_t* __restrict r2 = rows[kRows > 2 ? 2 : 0] + begin;
  const std::uint8_t* __restrict r3 = rows[kRows > 3 ? 3 : 0] + begin;
  for (int x = 0; x < size; ++x) {
    std::uint16_t sum = kAdd ? sums[x] : std::uint16_t{0};
    std::uint16_t ramp_sum = kAdd && kRamp ? ramp[x] : std::uint16_t{0};
    const auto add = [&](std::uint8_t value) __attribute__((always_inline)) {
      sum = static_cast<std::uint16_t>(sum + value);
      if (kRamp) ramp_sum = static_cast<std::uint16_t>(ramp_sum + sum);
    };
    add(r0[x]);
    if (kRows > 1) add(r1[x]);
    if (kRows > 2) add(r2[x]);
    if (kRows > 3) add(r3[x]);
    sums[x] = sum;
    if (kRamp) ramp[x] = ramp_sum;
  }
}

template <bool kAdd, bool kRamp>
AGP_EDGE_INLINE void sum_up_to_4(const std::uint8_t* const* rows, int n, int begin, int size,
                                 std::uint16_t* sums, std::uint16_t* ramp) {
  switch (n) {
    case 1:
      return sum_block<1, kAdd, kRamp>(rows, begin, size, sums, ramp);
    case 2:
      return sum_block<2, kAdd, kRamp>(rows, begin, size, sums, ramp);
    case 3:
      return sum_block<3, kAdd, kRamp>(rows, begin, size, sums, ramp);
    default:
      return sum_block<4, kAdd, kRamp>(rows, begin, size, sums, ramp);
  }
}

template <bool kRamp>
AGP_EDGE_INLINE void sum_rows(const std::uint8_t* const* rows, int n, int begin, int size,
                              std::uint16_t* sums, std::uint16_t* ramp) {
  sum_up_to_4<false, kRamp>(rows, n, begin, size, sums, ramp);
  for (int i = 4; i < n; i += 4) {
    sum_up_to_4<true, kRamp>(rows + i, n - i, begin, size, sums, ramp);
  }
}

// The rows of the next line: a frame straight from the camera lies in memory, in pieces too short
// for the hardware to foresee, and takes twice as long without.
AGP_EDGE_INLINE void prefetch(const std::uint8_t* const* rows, int n, std::size_t ahead, int begin,
                              int size) {
  for (int i = 0; i < n; ++i) {
    // A number, because it may point behind the frame, which a prefetch may and a pointer may not.
    const std::uintptr_t row =
        reinterpret_cast<std::uintptr_t>(rows[i]) + ahead + static_cast<std::uintptr_t>(begin);
    for (int x = 0; x < size; x += kCacheLine) {
      __builtin_prefetch(reinterpret_cast<const void*>(row + static_cast<std::uintptr_t>(x)), 0, 2);
    }
  }
}

AGP_EDGE_INLINE void sweep_linear(const std::uint8_t* const* rows, int n, std::size_t ahead,
                                  const LinearWeights& weights, int columns, float* carry,
                                  float* line) {
  const LinearWeights w = weights;
  for (int begin = 0; begin < columns; begin += kBlock) {
    const int size = std::min(kBlock, columns - begin);
    float* __restrict carry_block = carry + begin;
    float* __restrict line_block = line + begin;
    prefetch(rows, n, ahead, begin, size);
    if (n == 0) {
      std::copy(carry_block, carry_block + size, line_block);
      std::fill(carry_block, carry_block + size, 0.0F);
    } else if (n == 1) {
      const std::uint8_t* __restrict row = rows[0] + begin;
      const float falling = w.falling + w.step;
      const float rising = w.rising - w.next_step;
      for (int x = 0; x < size; ++x) {
        const float value = static_cast<float>(row[x]);
        line_block[x] = carry_block[x] + falling * value;
        carry_block[x] = rising * value;
      }
    } else {
      std::uint16_t sums[kBlock];
      std::uint16_t ramp[kBlock];
      sum_rows<true>(rows, n, begin, size, sums, ramp);
      for (int x = 0; x < size; ++x) {
        const float sum = static_cast<float>(sums[x]);
        const float ramp_sum = static_cast<float>(ramp[x]);
        line_block[x] = carry_block[x] + w.falling * sum + w.step * ramp_sum;
        carry_block[x] = w.rising * sum - w.next_step * ramp_sum;
      }
    }
  }
}

AGP_EDGE_INLINE void sweep_constant(const std::uint8_t* const* rows, int n, std::size_t ahead,
                                    const ConstantWeights& weights, int columns, float* carry,
                                    float* line) {
  const ConstantWeights w = weights;
  for (int begin = 0; begin < columns; begin += kBlock) {
    const int size = std::min(kBlock, columns - begin);
    float* __restrict carry_block = carry + begin;
    float* __restrict line_block = line + begin;
    prefetch(rows, n, ahead, begin, size);
    std::uint16_t sums[kBlock];
    if (n > 0) {
      sum_rows<false>(rows, n, begin, size, sums, sums);
    } else {
      std::fill(sums, sums + size, std::uint16_t{0});
    }
    if (w.shared == nullptr) {
      for (int x = 0; x < size; ++x) {
        line_block[x] = carry_block[x] + w.each * static_cast<float>(sums[x]);
        carry_block[x] = 0;
      }
    } else {
      const std::uint8_t* __restrict shared = w.shared + begin;
      for (int x = 0; x < size; ++x) {
        const float value = static_cast<float>(shared[x]);
        line_block[x] = carry_block[x] + w.each * static_cast<float>(sums[x]) + w.last * value;
        carry_block[x] = w.next * value;
      }
    }
  }
}

template <int kLines>
AGP_EDGE_INLINE void colour_lines(const float* line, std::size_t stride,
                                  const HorizontalTable& table, const Normalisation& normal,
                                  const PlaneRows& out) {
  const Float4 scale = {normal.scale[0], normal.scale[1], normal.scale[2], 0};
  const Float4 offset = {normal.offset[0], normal.offset[1], normal.offset[2], 0};
  const int steps = table.steps;
  const float* weights = table.weights.data();
  for (int x = 0; x < table.output; x += 4) {
    Float4 pixels[kLines][4];
    for (int i = 0; i < 4; ++i, weights += 8 * steps) {
      const float* source = line + 3 * table.first[static_cast<std::size_t>(x + i)];
      Float8 sum[kLines] = {};
      for (int t = 0; t < steps; ++t) {
        const Float8 weight = load8(weights + 8 * t);
        for (int l = 0; l < kLines; ++l) {
          sum[l] += weight * load8(source + static_cast<std::size_t>(l) * stride + 6 * t);
        }
      }
      for (int l = 0; l < kLines; ++l) {
        // Lanes: even taps' blue, green, red, odd taps' blue, green, red, two of weight 0.
        const Float8 folded =
            sum[l] + AGP_EDGE_SHUFFLE(Lanes8, sum[l], sum[l], 3, 4, 5, 6, 7, 7, 7, 7);
        Float4 pixel;
        std::memcpy(&pixel, &folded, sizeof(pixel));
        pixels[l][i] = pixel * scale + offset;
      }
    }
    const int lanes = table.output - x;
    for (int l = 0; l < kLines; ++l) {
      Float4* p = pixels[l];
      transpose4(p[0], p[1], p[2], p[3]);
      const std::size_t place =
          static_cast<std::size_t>(l) * out.pitch + static_cast<std::size_t>(x);
      for (int c = 0; c < 3; ++c) store4(out.planes[c] + place, p[c], lanes);
    }
  }
}

template <int kLines>
AGP_EDGE_INLINE void mono_lines(const float* line, std::size_t stride, const HorizontalTable& table,
                                const Normalisation& normal, const PlaneRows& out) {
  const int steps = table.steps;
  const float* weights = table.weights.data();
  for (int x = 0; x < table.output; x += 4) {
    Float4 sums[kLines][4];
    for (int i = 0; i < 4; ++i, weights += 4 * steps) {
      const float* source = line + table.first[static_cast<std::size_t>(x + i)];
      Float4 sum[kLines] = {};
      for (int t = 0; t < steps; ++t) {
        const Float4 weight = load4(weights + 4 * t);
        for (int l = 0; l < kLines; ++l) {
          sum[l] += weight * load4(source + static_cast<std::size_t>(l) * stride + 4 * t);
        }
      }
      for (int l = 0; l < kLines; ++l) sums[l][i] = sum[l];
    }
    const int lanes = table.output - x;
    for (int l = 0; l < kLines; ++l) {
      Float4* s = sums[l];
      transpose4(s[0], s[1], s[2], s[3]);
      const Float4 pixels = (s[0] + s[1]) + (s[2] + s[3]);
      const std::size_t place =
          static_cast<std::size_t>(l) * out.pitch + static_cast<std::size_t>(x);
      for (int c = 0; c < 3; ++c) {
        store4(out.planes[c] + place, pixels * normal.scale[c] + normal.offset[c], lanes);
      }
    }
  }
}

AGP_EDGE_INLINE PlaneRows rows_from(const PlaneRows& out, int line) {
  PlaneRows rows = out;
  for (float*& plane : rows.planes) plane += static_cast<std::size_t>(line) * out.pitch;
  return rows;
}

AGP_EDGE_INLINE void resample_colour(const float* line, std::size_t stride, int lines,
                                     const HorizontalTable& table, const Normalisation& normal,
                                     const PlaneRows& out) {
  if (lines == kLinesAtOnce) return colour_lines<kLinesAtOnce>(line, stride, table, normal, out);
  for (int l = 0; l < lines; ++l) {
    colour_lines<1>(line + static_cast<std::size_t>(l) * stride, stride, table, normal,
                    rows_from(out, l));
  }
}

AGP_EDGE_INLINE void resample_mono(const float* line, std::size_t stride, int lines,
                                   const HorizontalTable& table, const Normalisation& normal,
                                   const PlaneRows& out) {
  if (lines == kLinesAtOnce) return mono_lines<kLinesAtOnce>(line, stride, table, normal, out);
  for (int l = 0; l < lines; ++l) {
    mono_lines<1>(line + static_cast<std::size_t>(l) * stride, stride, table, normal,
                  rows_from(out, l));
  }
}

// Functions of one instruction set around the bodies above, and their table.
#define AGP_EDGE_RESAMPLE_KERNELS(Set, attribute)                                                  \
  struct Set {                                                                                     \
    attribute static void weigh(const std::uint8_t* const* rows, const float* weights, int taps,   \
                                int columns, float* line) {                                        \
      weigh_rows(rows, weights, taps, columns, line);                                              \
    }                                                                                              \
    attribute static void weigh16(const std::uint16_t* const* rows, const float* weights,          \
                                  int taps, int columns, float* line) {                            \
      weigh_rows(rows, weights, taps, columns, line);                                              \
    }                                                                                              \
    attribute static void linear(const std::uint8_t* const* rows, int n, std::size_t ahead,        \
                                 const LinearWeights& w, int columns, float* carry, float* line) { \
      sweep_linear(rows, n, ahead, w, columns, carry, line);                                       \
    }                                                                                              \
    attribute static void constant(const std::uint8_t* const* rows, int n, std::size_t ahead,      \
                                   const ConstantWeights& w, int columns, float* carry,            \
                                   float* line) {                                                  \
      sweep_constant(rows, n, ahead, w, columns, carry, line);                                     \
    }                                                                                              \
    attribute static void colour(const float* line, std::size_t stride, int lines,                 \
                                 const HorizontalTable& table, const Normalisation& normal,        \
                                 const PlaneRows& out) {                                           \
      resample_colour(line, stride, lines, table, normal, out);                                    \
    }                                                                                              \
    attribute static void mono(const float* line, std::size_t stride, int lines,                   \
                               const HorizontalTable& table, const Normalisation& normal,          \
                               const PlaneRows& out) {                                             \
      resample_mono(line, stride, lines, table, normal, out);                                      \
    }                                                                                              \
    static constexpr ResampleKernels kernels() {                                                   \
      return {weigh, weigh16, linear, constant, colour, mono};                                     \
    }                                                                                              \
  };

AGP_EDGE_RESAMPLE_KERNELS(Baseline, )
#if defined(AGP_EDGE_HAS_AVX2_BUILD)
AGP_EDGE_RESAMPLE_KERNELS(Avx2, AGP_EDGE_AVX2)
constexpr ResampleKernels kAvx2ResampleKernels = Avx2::kernels();
#endif

}  // namespace

const ResampleKernels kBaselineResampleKernels = Baseline::kernels();

const ResampleKernels& resample_kernels() noexcept {
#if defined(AGP_EDGE_HAS_AVX2_BUILD)
  static const bool has_avx2 = cpu_has_avx2();
  if (has_avx2) return kAvx2ResampleKernels;
#endif
  return kBaselineResampleKernels;
}

HorizontalTable::HorizontalTable(const BandMatrix& matrix, int channels) : output(matrix.output) {
  const int taps_per_step = channels == 3 ? 2 : 4;
  const int lanes = channels == 3 ? 8 : 4;
  const int copies = channels == 3 ? 3 : 1;
  steps = (matrix.taps + taps_per_step - 1) / taps_per_step;
  const std::size_t padded = (static_cast<std::size_t>(output) + 3) / 4 * 4;
  const std::size_t row = static_cast<std::size_t>(steps) * static_cast<std::size_t>(lanes);
  first = matrix.first;
  first.resize(padded, 0);
  weights.assign(padded * row, 0.0F);
  for (int i = 0; i < output; ++i) {
    for (int t = 0; t < matrix.taps; ++t) {
      float* place = weights.data() + static_cast<std::size_t>(i) * row +
                     (t / taps_per_step) * lanes + (t % taps_per_step) * copies;
      std::fill(place, place + copies, matrix.weight(i, t));
    }
  }
}

}  // namespace agp_edge
