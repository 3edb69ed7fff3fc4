// What a GPU's conversions between float and FP16 do, on the CPU.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace agp_edge::kernel {

// To the nearest FP16 number, ties to even.
inline unsigned short half_bits(float value) {
  unsigned bits = 0;
  std::memcpy(&bits, &value, sizeof(bits));
  const unsigned sign = (bits >> 16U) & 0x8000U;
  const float magnitude = std::fabs(value);
  if (!(magnitude <= std::numeric_limits<float>::max())) {
    return static_cast<unsigned short>(sign | (std::isnan(value) ? 0x7E00U : 0x7C00U));
  }
  if (magnitude < 6.103515625e-05F) {  // subnormal: whole multiples of 2^-24
    return static_cast<unsigned short>(sign |
                                       static_cast<unsigned>(std::lrint(magnitude * 16777216.0F)));
  }
  const unsigned rounded = (bits & 0x7FFFFFFFU) + 0xFFFU + ((bits >> 13U) & 1U);
  const unsigned half = (rounded - 0x38000000U) >> 13U;
  return static_cast<unsigned short>(sign | std::min(half, 0x7C00U));
}

inline float value_of_half(unsigned short bits) {
  const int exponent = (bits >> 10) & 31;
  const float fraction = static_cast<float>(bits & 1023);
  float magnitude;
  if (exponent == 31) {
    magnitude = fraction == 0 ? std::numeric_limits<float>::infinity()
                              : std::numeric_limits<float>::quiet_NaN();
  } else if (exponent == 0) {
    magnitude = std::ldexp(fraction, -24);
  } else {
    magnitude = std::ldexp(1024.0F + fraction, exponent - 25);
  }
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

}  // namespace agp_edge::kernel
