// One axis of a separable linear filter, as a banded matrix: tables for resize and blur.
#pragma once

#include <cstddef>
#include <vector>

#include "agp_edge/preprocess.hpp"

namespace agp_edge {

// output[i] = sum over t < taps of weights[i * taps + t] * input[first[i] + t].
// Every row has the same number of taps, padded with zeros so that first[i] + taps <= input.
struct BandMatrix {
  int input = 0;
  int output = 0;
  int taps = 0;
  std::vector<int> first;
  std::vector<float> weights;

  float weight(int row, int tap) const noexcept {
    return weights[static_cast<std::size_t>(row) * static_cast<std::size_t>(taps) +
                   static_cast<std::size_t>(tap)];
  }
};

// Triangle filter, half-pixel centred, weights normalised; support widened by the scale when
// shrinking (PIL's Image.BILINEAR, torchvision's antialias=True), bilinear when enlarging.
BandMatrix triangle_weights(int input, int output);

// Mean over the covered interval when shrinking (cv2.INTER_AREA), bilinear when enlarging.
BandMatrix area_weights(int input, int output);

BandMatrix resize_weights(ResizeRule rule, int input, int output);

// Bilinear half-pixel upsampling from `grid` to `map` samples, followed by a Gaussian of standard
// deviation `sigma` map samples, cut at ceil(4 sigma), normalised, with the border reflected about
// the edge sample (cv2.BORDER_REFLECT_101). Both are linear, so one matrix does both.
BandMatrix upsample_blur_weights(int grid, int map, float sigma);

}  // namespace agp_edge
