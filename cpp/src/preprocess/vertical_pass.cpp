#include "preprocess/vertical_pass.hpp"

#include <algorithm>
#include <cmath>

namespace agp_edge {

VerticalPass::VerticalPass(ResizeRule rule, int input, int output) {
  const int rows_per_line = (input + output - 1) / output;
  if (input > output && rule == ResizeRule::kAntialias && rows_per_line <= kMaxLinearRows) {
    plan_linear(input, output);
  } else if (input > output && rule == ResizeRule::kArea && rows_per_line <= kMaxConstantRows) {
    plan_constant(input, output);
  } else {
    taps_ = resize_weights(rule, input, output);
    max_rows_ = taps_.taps;
  }
}

// Between the centres of outputs k - 1 and k the triangle of k - 1 falls and that of k rises, both
// linearly in the row, so that two integer sums of the rows make both parts.
void VerticalPass::plan_linear(int input, int output) {
  way_ = Way::kLinear;
  const double scale = static_cast<double>(input) / output;
  // First row whose centre is not before the centre of output k.
  const auto row_at = [&](int k) {
    return std::clamp(static_cast<int>(std::ceil((k + 0.5) * scale - 0.5)), 0, input);
  };
  const auto triangle = [&](int row, int k) {
    return 1 - std::abs(row + 0.5 - (k + 0.5) * scale) / scale;
  };
  std::vector<double> norm(static_cast<std::size_t>(output), 0.0);
  for (int k = 0; k < output; ++k) {
    const int begin = k == 0 ? 0 : row_at(k - 1);
    const int end = k == output - 1 ? input : row_at(k + 1);
    for (int row = begin; row < end; ++row) norm[static_cast<std::size_t>(k)] += triangle(row, k);
  }
  for (int k = 0; k <= output; ++k) {
    Band band{};
    band.begin = k == 0 ? 0 : row_at(k - 1);
    band.count = (k == output ? input : row_at(k)) - band.begin;
    if (k > 0) {
      const double sum = norm[static_cast<std::size_t>(k - 1)];
      const double step = 1 / (scale * sum);
      band.linear.step = static_cast<float>(step);
      band.linear.falling =
          static_cast<float>(triangle(band.begin, k - 1) / sum - band.count * step);
    }
    if (k < output) {
      const double sum = norm[static_cast<std::size_t>(k)];
      const double step = 1 / (scale * sum);
      band.linear.next_step = static_cast<float>(step);
      band.linear.rising = static_cast<float>(triangle(band.begin, k) / sum + band.count * step);
    }
    max_rows_ = std::max(max_rows_, band.count);
    bands_.push_back(band);
  }
}

// All rows inside an output's interval weigh the same; only the one on its end is shared.
void VerticalPass::plan_constant(int input, int output) {
  way_ = Way::kConstant;
  // In units of 1 / output rows everything is an integer. bands_[0] is what line 0 starts from:
  // nothing.
  bands_.push_back(Band{});
  for (int k = 0; k < output; ++k) {
    const long long end = static_cast<long long>(k + 1) * input;
    Band band{};
    band.begin = static_cast<int>((static_cast<long long>(k) * input + output - 1) / output);
    const int last = static_cast<int>(end / output);  // shared, or the next output's first
    band.count = last - band.begin;
    const double inside = static_cast<double>(end % output) / input;  // of row `last`, weighed
    const double weight = static_cast<double>(output) / input;
    band.has_shared = end % output != 0;
    band.constant.each = static_cast<float>(weight);
    band.constant.last = static_cast<float>(inside);
    band.constant.next = static_cast<float>(weight - inside);
    max_rows_ = std::max(max_rows_, band.count);
    bands_.push_back(band);
  }
}

void VerticalPass::sweep(const ResampleKernels& kernels, const RowSource& source, const Band& band,
                         const Scratch& scratch, float* line) const {
  const std::uint8_t* first = source.data + static_cast<std::size_t>(band.begin) * source.pitch;
  for (int i = 0; i < band.count; ++i) {
    scratch.rows[i] = first + static_cast<std::size_t>(i) * source.pitch;
  }
  const std::size_t ahead = static_cast<std::size_t>(band.count) * source.pitch;
  if (way_ == Way::kLinear) {
    kernels.sweep_linear(scratch.rows, band.count, ahead, band.linear, source.columns,
                         scratch.carry, line);
  } else {
    ConstantWeights weights = band.constant;
    if (band.has_shared) {
      weights.shared = first + ahead;
    }
    kernels.sweep_constant(scratch.rows, band.count, ahead, weights, source.columns, scratch.carry,
                           line);
  }
}

void VerticalPass::start(const ResampleKernels& kernels, const RowSource& source, int y,
                         const Scratch& scratch, float* line) const {
  if (way_ == Way::kTaps) return;
  std::fill(scratch.carry, scratch.carry + source.columns, 0.0F);
  sweep(kernels, source, bands_[static_cast<std::size_t>(y)], scratch, line);
}

void VerticalPass::line(const ResampleKernels& kernels, const RowSource& source, int y,
                        const Scratch& scratch, float* line) const {
  if (way_ != Way::kTaps) {
    return sweep(kernels, source, bands_[static_cast<std::size_t>(y) + 1], scratch, line);
  }
  int used = 0;
  for (int t = 0; t < taps_.taps; ++t) {
    const float weight = taps_.weight(y, t);
    if (weight == 0) continue;
    const int row = taps_.first[static_cast<std::size_t>(y)] + t;
    scratch.rows[used] = source.data + static_cast<std::size_t>(row) * source.pitch;
    scratch.weights[used++] = weight;
  }
  kernels.weigh_rows(scratch.rows, scratch.weights, used, source.columns, line);
}

}  // namespace agp_edge
