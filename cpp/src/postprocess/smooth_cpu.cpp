#include "postprocess/smooth_cpu.hpp"

#include <algorithm>
#include <limits>

#include "cpu/simd.hpp"

namespace agp_edge {
namespace {

constexpr int kVectors = kSmoothBlock / 8;

AGP_EDGE_INLINE void widen(const float* row, const SmoothTable& table, float* out) {
  for (const SmoothTable::Block& block : table.blocks) {
    const float* weights = table.weights.data() + block.weights;
    Float8 sum[kVectors] = {};
    for (int g = 0; g < block.inputs; ++g, weights += kSmoothBlock) {
      const float value = row[block.first + g];
      for (int v = 0; v < kVectors; ++v) sum[v] += value * load8(weights + 8 * v);
    }
    std::memcpy(out, sum, sizeof(sum));
    out += kSmoothBlock;
  }
}

AGP_EDGE_INLINE void blend_block(const float* rows, std::size_t pitch, const float* weights,
                                 int taps, Float8* sum) {
  for (int v = 0; v < kVectors; ++v) sum[v] = weights[0] * load8(rows + 8 * v);
  for (int t = 1; t < taps; ++t) {
    const float* row = rows + static_cast<std::size_t>(t) * pitch;
    for (int v = 0; v < kVectors; ++v) sum[v] += weights[t] * load8(row + 8 * v);
  }
}

AGP_EDGE_INLINE float blend(const float* rows, std::size_t pitch, const float* weights, int taps,
                            int width, float* out) {
  float largest = -std::numeric_limits<float>::infinity();
  int x = 0;
  if (width >= kSmoothBlock) {
    Float8 most[kVectors];
    for (int v = 0; v < kVectors; ++v) most[v] = Float8{} + largest;
    for (; x + kSmoothBlock <= width; x += kSmoothBlock) {
      Float8 sum[kVectors];
      blend_block(rows + x, pitch, weights, taps, sum);
      for (int v = 0; v < kVectors; ++v) most[v] = sum[v] > most[v] ? sum[v] : most[v];
      std::memcpy(out + x, sum, sizeof(sum));
    }
    for (int v = 0; v < kVectors; ++v) {
      for (int lane = 0; lane < 8; ++lane) largest = std::max(largest, most[v][lane]);
    }
  }
  if (x < width) {
    Float8 sum[kVectors];
    blend_block(rows + x, pitch, weights, taps, sum);
    float last[kSmoothBlock];
    std::memcpy(last, sum, sizeof(sum));
    std::copy(last, last + (width - x), out + x);
    largest = std::max(largest, *std::max_element(last, last + (width - x)));
  }
  return largest;
}

AGP_EDGE_INLINE void exceeds(const float* __restrict values, float threshold, std::size_t size,
                             std::uint8_t* __restrict mask) {
  for (std::size_t i = 0; i < size; ++i) mask[i] = values[i] > threshold ? 1 : 0;
}

// value^power by squaring; `power` is at least 1.
template <typename T>
AGP_EDGE_INLINE T to_power(T value, int power) {
  while ((power & 1) == 0) {
    value *= value;
    power >>= 1;
  }
  T result = value;
  while ((power >>= 1) != 0) {
    value *= value;
    if ((power & 1) != 0) result *= value;
  }
  return result;
}

AGP_EDGE_INLINE double power_sum(const float* values, std::size_t size, float scale, float least,
                                 int power) {
  constexpr std::size_t kStep = 8 * kVectors;
  constexpr std::size_t kRun = 32 * kStep;  // what floats may sum up
  double total = 0;
  std::size_t i = 0;
  while (i + kStep <= size) {
    const std::size_t end = std::min(i + kRun, size);
    Float8 sum[kVectors] = {};
    for (; i + kStep <= end; i += kStep) {
      for (int v = 0; v < kVectors; ++v) {
        const Float8 share = load8(values + i + 8 * static_cast<std::size_t>(v)) * scale;
        sum[v] += to_power(share > least ? share : Float8{}, power);
      }
    }
    for (int v = 0; v < kVectors; ++v) {
      for (int lane = 0; lane < 8; ++lane) total += static_cast<double>(sum[v][lane]);
    }
  }
  for (; i < size; ++i) {
    const float share = values[i] * scale;
    if (share > least) total += static_cast<double>(to_power(share, power));
  }
  return total;
}

// Functions of one instruction set around the bodies above, and their table.
#define AGP_EDGE_SMOOTH_KERNELS(Set, attribute)                                            \
  struct Set {                                                                             \
    attribute static void wide(const float* row, const SmoothTable& table, float* out) {   \
      widen(row, table, out);                                                              \
    }                                                                                      \
    attribute static float mix(const float* rows, std::size_t pitch, const float* weights, \
                               int taps, int width, float* out) {                          \
      return blend(rows, pitch, weights, taps, width, out);                                \
    }                                                                                      \
    attribute static void above(const float* values, float threshold, std::size_t size,    \
                                std::uint8_t* mask) {                                      \
      exceeds(values, threshold, size, mask);                                              \
    }                                                                                      \
    attribute static double powers(const float* values, std::size_t size, float scale,     \
                                   float least, int power) {                               \
      return power_sum(values, size, scale, least, power);                                 \
    }                                                                                      \
    static constexpr SmoothKernels kernels() { return {wide, mix, above, powers}; }        \
  };

AGP_EDGE_SMOOTH_KERNELS(Baseline, )
#if defined(AGP_EDGE_HAS_AVX2_BUILD)
AGP_EDGE_SMOOTH_KERNELS(Avx2, AGP_EDGE_AVX2)
constexpr SmoothKernels kAvx2SmoothKernels = Avx2::kernels();
#endif

}  // namespace

const SmoothKernels kBaselineSmoothKernels = Baseline::kernels();

const SmoothKernels& smooth_kernels() noexcept {
#if defined(AGP_EDGE_HAS_AVX2_BUILD)
  static const bool has_avx2 = cpu_has_avx2();
  if (has_avx2) return kAvx2SmoothKernels;
#endif
  return kBaselineSmoothKernels;
}

SmoothTable::SmoothTable(const BandMatrix& matrix) {
  for (int begin = 0; begin < matrix.output; begin += kSmoothBlock) {
    const int end = std::min(begin + kSmoothBlock, matrix.output);
    const auto from = matrix.first.begin() + begin;
    const auto to = matrix.first.begin() + end;
    Block block;
    block.first = *std::min_element(from, to);
    block.inputs = *std::max_element(from, to) + matrix.taps - block.first;
    block.weights = weights.size();
    weights.resize(weights.size() + static_cast<std::size_t>(block.inputs) * kSmoothBlock, 0.0F);
    for (int i = begin; i < end; ++i) {
      const int shift = matrix.first[static_cast<std::size_t>(i)] - block.first;
      for (int t = 0; t < matrix.taps; ++t) {
        weights[block.weights + static_cast<std::size_t>((shift + t) * kSmoothBlock + i - begin)] =
            matrix.weight(i, t);
      }
    }
    blocks.push_back(block);
  }
}

}  // namespace agp_edge
