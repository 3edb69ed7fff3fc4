#include "frame/format_lines.hpp"

#include <algorithm>

namespace agp_edge {
namespace {

const std::uint8_t* row_of(const Frame& frame, int row) {
  return frame.data + static_cast<std::size_t>(row) * frame.row_pitch;
}

// Frame::validate() has seen to the alignment.
const std::uint16_t* row16_of(const Frame& frame, int row) {
  return reinterpret_cast<const std::uint16_t*>(row_of(frame, row));
}

}  // namespace

FormatLines::FormatLines(ResizeRule rule, const Frame& frame, const Rect& view, int output)
    : convert_(&convert_kernels()),
      layout_(layout_of(frame.format)),
      red_(red_pixel(frame.format)),
      view_(view),
      taps_(resize_weights(rule, view.height, output)) {
  if (layout_ == PixelLayout::kBayer8 || layout_ == PixelLayout::kBayer16) {
    bayer_ = bayer_axis(taps_, view.y, frame.height);
    begin_ = std::max(view.x - 1, 0);
    columns_ = std::min(view.x + view.width + 1, frame.width) - begin_;
  }
}

FormatLines::Scratch FormatLines::make_scratch() const {
  Scratch scratch;
  const std::size_t taps = static_cast<std::size_t>(taps_.taps) + 2;
  scratch.weights.resize(2 * taps);
  scratch.rows8.resize(taps);
  scratch.rows16.resize(taps);
  scratch.sums.resize(4 * (static_cast<std::size_t>(columns_) + kSumPadding));
  if (layout_ == PixelLayout::kNv12) {
    scratch.sums.resize(3 * static_cast<std::size_t>(view_.width));
    scratch.ring.resize(static_cast<std::size_t>(taps_.taps) * view_.width * 3);
    scratch.ring_rows.assign(static_cast<std::size_t>(taps_.taps), -1);
  }
  return scratch;
}

void FormatLines::start(Scratch& scratch) const {
  std::fill(scratch.ring_rows.begin(), scratch.ring_rows.end(), -1);
}

void FormatLines::line(const ResampleKernels& kernels, const Frame& frame, int y, Scratch& scratch,
                       float* line) const {
  if (layout_ == PixelLayout::kMono16) return mono_line(kernels, frame, y, scratch, line);
  if (layout_ == PixelLayout::kNv12) return nv12_line(kernels, frame, y, scratch, line);
  bayer_line(kernels, frame, y, scratch, line);
}

void FormatLines::mono_line(const ResampleKernels& kernels, const Frame& frame, int y,
                            Scratch& scratch, float* line) const {
  int used = 0;
  for (int t = 0; t < taps_.taps; ++t) {
    const float weight = taps_.weight(y, t);
    if (weight == 0) continue;
    const int row = view_.y + taps_.first[static_cast<std::size_t>(y)] + t;
    scratch.rows16[static_cast<std::size_t>(used)] = row16_of(frame, row) + view_.x;
    scratch.weights[static_cast<std::size_t>(used++)] = weight;
  }
  kernels.weigh_rows16(scratch.rows16.data(), scratch.weights.data(), used, view_.width, line);
}

void FormatLines::nv12_line(const ResampleKernels& kernels, const Frame& frame, int y,
                            Scratch& scratch, float* line) const {
  const std::size_t row_bytes = 3 * static_cast<std::size_t>(view_.width);
  int used = 0;
  for (int t = 0; t < taps_.taps; ++t) {
    const float weight = taps_.weight(y, t);
    if (weight == 0) continue;
    const int row = view_.y + taps_.first[static_cast<std::size_t>(y)] + t;
    const std::size_t place = static_cast<std::size_t>(row % taps_.taps);
    std::uint8_t* planes = scratch.ring.data() + place * row_bytes;
    if (scratch.ring_rows[place] != row) {
      convert_->nv12(row_of(frame, row), row_of(frame, frame.height + row / 2), view_.x,
                     view_.width, planes);
      scratch.ring_rows[place] = row;
    }
    scratch.rows8[static_cast<std::size_t>(used)] = planes;
    scratch.weights[static_cast<std::size_t>(used++)] = weight;
  }
  float* const sums = scratch.sums.data();
  kernels.weigh_rows(scratch.rows8.data(), scratch.weights.data(), used, 3 * view_.width, sums);
  convert_->interleave(sums, view_.width, line);
}

void FormatLines::bayer_line(const ResampleKernels& kernels, const Frame& frame, int y,
                             Scratch& scratch, float* line) const {
  const int taps = bayer_.own.taps;
  const int first = bayer_.own.first[static_cast<std::size_t>(y)];
  float* const own_weights = scratch.weights.data();
  float* const beside_weights = own_weights + taps;
  BayerSums sums{};
  sums.first = begin_;
  for (int kind = 0; kind < 2; ++kind) {
    int used = 0;
    for (int t = 0; t < taps; ++t) {
      const int row = first + t;
      if (((row - red_.y) & 1) != kind) continue;
      if (layout_ == PixelLayout::kBayer16) {
        scratch.rows16[static_cast<std::size_t>(used)] = row16_of(frame, row) + begin_;
      } else {
        scratch.rows8[static_cast<std::size_t>(used)] = row_of(frame, row) + begin_;
      }
      own_weights[used] = bayer_.own.weight(y, t);
      beside_weights[used++] = bayer_.beside.weight(y, t);
    }
    for (int which = 0; which < 2; ++which) {
      const float* weights = which == 0 ? own_weights : beside_weights;
      float* out = scratch.sums.data() +
                   static_cast<std::size_t>(2 * kind + which) * (columns_ + kSumPadding);
      if (layout_ == PixelLayout::kBayer16) {
        kernels.weigh_rows16(scratch.rows16.data(), weights, used, columns_, out);
      } else {
        kernels.weigh_rows(scratch.rows8.data(), weights, used, columns_, out);
      }
      (which == 0 ? sums.own : sums.beside)[kind] = out;
    }
  }
  convert_->demosaic(sums, view_.x, view_.width, frame.width, red_.x, line);
}

}  // namespace agp_edge
