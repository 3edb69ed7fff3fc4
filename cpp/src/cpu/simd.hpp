// Vectors of floats in the GCC and Clang notation, and one build of the hot loops for each x86-64
// instruction set, picked at run time, so that one wheel serves old and new CPUs. Everywhere else
// (aarch64 always has NEON) the baseline is all there is.
#pragma once

#include <cstring>

// Loop bodies are written once and melt into one function per instruction set.
#define AGP_EDGE_INLINE inline __attribute__((always_inline))

#if defined(__x86_64__)
#define AGP_EDGE_HAS_AVX2_BUILD 1
#define AGP_EDGE_AVX2 __attribute__((target("avx2,fma")))
#endif

// A shuffle of the lanes of a and b; GCC below 12 does not know the newer name, Clang not the
// older.
#if defined(__clang__) || __GNUC__ >= 12
#define AGP_EDGE_SHUFFLE(Indices, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define AGP_EDGE_SHUFFLE(Indices, a, b, ...) __builtin_shuffle(a, b, Indices{__VA_ARGS__})
#endif

// 32-byte vectors without AVX are passed in memory; only functions that are inlined pass them.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace agp_edge {

using Float4 = float __attribute__((vector_size(16)));
using Float8 = float __attribute__((vector_size(32)));
using Lanes4 = int __attribute__((vector_size(16)));
using Lanes8 = int __attribute__((vector_size(32)));

AGP_EDGE_INLINE Float4 load4(const float* from) {
  Float4 value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

AGP_EDGE_INLINE Float8 load8(const float* from) {
  Float8 value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

// The first `lanes` lanes, at most 4.
AGP_EDGE_INLINE void store4(float* to, Float4 value, int lanes) {
  if (lanes >= 4) {
    std::memcpy(to, &value, sizeof(value));
  } else {
    std::memcpy(to, &value, static_cast<std::size_t>(lanes) * sizeof(float));
  }
}

// a, b, c, d are the rows of a 4 x 4 matrix, then its columns.
AGP_EDGE_INLINE void transpose4(Float4& a, Float4& b, Float4& c, Float4& d) {
  const Float4 ab_low = AGP_EDGE_SHUFFLE(Lanes4, a, b, 0, 4, 1, 5);
  const Float4 cd_low = AGP_EDGE_SHUFFLE(Lanes4, c, d, 0, 4, 1, 5);
  const Float4 ab_high = AGP_EDGE_SHUFFLE(Lanes4, a, b, 2, 6, 3, 7);
  const Float4 cd_high = AGP_EDGE_SHUFFLE(Lanes4, c, d, 2, 6, 3, 7);
  a = AGP_EDGE_SHUFFLE(Lanes4, ab_low, cd_low, 0, 1, 4, 5);
  b = AGP_EDGE_SHUFFLE(Lanes4, ab_low, cd_low, 2, 3, 6, 7);
  c = AGP_EDGE_SHUFFLE(Lanes4, ab_high, cd_high, 0, 1, 4, 5);
  d = AGP_EDGE_SHUFFLE(Lanes4, ab_high, cd_high, 2, 3, 6, 7);
}

// Whether this CPU runs what AGP_EDGE_AVX2 marks.
inline bool cpu_has_avx2() noexcept {
#if defined(AGP_EDGE_HAS_AVX2_BUILD)
  __builtin_cpu_init();  // Clang's run-time library waits for it
  return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
#else
  return false;
#endif
}

}  // namespace agp_edge
