// Bilinear demosaicing folded into the resize, one axis at a time.
//
// Both are linear, so the resize can run on the raw values first. Of a missing colour's neighbours
// each lies half a step up or down and half a step left or right in the pattern; a raw value
// therefore reaches an output with a product of one factor per axis: the resize weight of its own
// line (`own`), half the sum of the weights of the lines beside it (`beside`), or both. With rows
// i, columns k, and o, b for own and beside of the vertical axis, O, B of the horizontal one:
//
//   red    sum over red pixels of    (o_i + b_i) (O_k + B_k) raw
//   blue   sum over blue pixels of   (o_i + b_i) (O_k + B_k) raw
//   green  sum over green pixels of  ((o_i + b_i / 2) O_k + o_i B_k / 2) raw
#pragma once

#include "preprocess/resize_weights.hpp"

namespace agp_edge {

// Both matrices have the same first and taps, and read lines of the whole frame.
struct BayerAxis {
  BandMatrix own;
  BandMatrix beside;
};

// `resize` reads [offset, offset + resize.input) of an axis of `side` lines, 2 or more; lines
// outside of the frame are mirrored about the first and the last one.
BayerAxis bayer_axis(const BandMatrix& resize, int offset, int side);

}  // namespace agp_edge
