// BT.601 limited range to RGB in OpenCV's fixed point, for CPU and GPU alike. The factors are
// ITU-R BT.601's 1.164, 2.018, -0.391, -0.813 and 1.596 times 2^20.
#pragma once

#include "cuda/host_device.hpp"

namespace agp_edge::nv12 {

constexpr int kShift = 20;
constexpr int kRound = 1 << (kShift - 1);

struct Chroma {
  int red, green, blue;  // what the colour adds to the brightness, rounding included
};

AGP_EDGE_HOST_DEVICE Chroma chroma(int u, int v) {
  return {kRound + 1673527 * (v - 128), kRound - 852492 * (v - 128) - 409993 * (u - 128),
          kRound + 2116026 * (u - 128)};
}

AGP_EDGE_HOST_DEVICE int brightness(int y) { return (y > 16 ? y - 16 : 0) * 1220542; }

// brightness + one of the chroma's colours -> 0 to 255.
AGP_EDGE_HOST_DEVICE int pixel(int sum) {
  const int value = sum >> kShift;
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

}  // namespace agp_edge::nv12
