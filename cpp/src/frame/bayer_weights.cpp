#include "frame/bayer_weights.hpp"

#include <algorithm>
#include <cstddef>

namespace agp_edge {

BayerAxis bayer_axis(const BandMatrix& resize, int offset, int side) {
  BandMatrix own;
  own.input = side;
  own.output = resize.output;
  own.taps = std::min(resize.taps + 2, side);
  own.weights.assign(static_cast<std::size_t>(own.output) * own.taps, 0.0F);
  for (int first : resize.first) {
    own.first.push_back(std::clamp(offset + first - 1, 0, side - own.taps));
  }
  BandMatrix beside = own;
  for (int i = 0; i < own.output; ++i) {
    const std::size_t row = static_cast<std::size_t>(i);
    const auto place = [&](BandMatrix& matrix, int line) -> float& {
      return matrix.weights[row * own.taps + static_cast<std::size_t>(line - own.first[row])];
    };
    for (int t = 0; t < resize.taps; ++t) {
      const float weight = resize.weight(i, t);
      if (weight == 0) continue;
      const int line = offset + resize.first[row] + t;
      place(own, line) = weight;
      place(beside, line == 0 ? 1 : line - 1) += weight / 2;
      place(beside, line == side - 1 ? side - 2 : line + 1) += weight / 2;
    }
  }
  return {std::move(own), std::move(beside)};
}

}  // namespace agp_edge
