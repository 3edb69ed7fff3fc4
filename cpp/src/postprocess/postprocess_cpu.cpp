#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <vector>

#include "agp_edge/postprocess.hpp"
#include "postprocess/ignored_area.hpp"
#include "postprocess/postprocess_recipe.hpp"
#include "postprocess/regions.hpp"
#include "postprocess/smooth_cpu.hpp"
#include "preprocess/resize_weights.hpp"

namespace agp_edge {
struct Postprocessor::Impl {
  PostprocessRecipe recipe;
  const SmoothKernels& kernels = smooth_kernels();
  BandMatrix vertical;
  SmoothTable horizontal;
  std::vector<float> wide;   // (grid_height, horizontal.padded_output()): after the first pass
  std::vector<float> map;    // where the result does not keep it
  std::vector<float> aside;  // the values that count, where the score needs a copy
  std::vector<std::uint8_t> mask;
  RegionFinder regions;
  IgnoredArea ignored;

  explicit Impl(const PostprocessRecipe& r)
      : recipe(r),
        vertical(upsample_blur_weights(r.grid_height, r.map_height, r.sigma)),
        horizontal(upsample_blur_weights(r.grid_width, r.map_width, r.sigma)),
        wide(static_cast<std::size_t>(r.grid_height) * horizontal.padded_output()),
        map(static_cast<std::size_t>(r.map_height) * r.map_width),
        aside(r.score == ScoreRule::kMax ? 0 : map.size()),
        mask(map.size()),
        regions(r.map_height, r.map_width),
        ignored(r.map_height, r.map_width) {}

  void check_finite(const float* grid) const;
  float fill_map(const float* grid, float* values);
  float top_mean(const float* values);
  float power_mean(const float* values, float largest);
  float score(const float* values, float largest);
};

void Postprocessor::Impl::check_finite(const float* grid) const {
  const std::size_t size = static_cast<std::size_t>(recipe.grid_height) * recipe.grid_width;
  std::size_t bad = 0;
  for (std::size_t i = 0; i < size; ++i) bad += std::isfinite(grid[i]) ? 0 : 1;
  agp_edge::check_finite(recipe, bad);
}

float Postprocessor::Impl::fill_map(const float* grid, float* values) {
  const std::size_t pitch = horizontal.padded_output();
  for (int y = 0; y < recipe.grid_height; ++y) {
    kernels.widen(grid + static_cast<std::size_t>(y) * recipe.grid_width, horizontal,
                  wide.data() + static_cast<std::size_t>(y) * pitch);
  }
  float largest = -std::numeric_limits<float>::infinity();
  for (int y = 0; y < recipe.map_height; ++y) {
    const float* weights = vertical.weights.data() + static_cast<std::size_t>(y) * vertical.taps;
    const float* rows = wide.data() + static_cast<std::size_t>(vertical.first[y]) * pitch;
    largest =
        std::max(largest, kernels.blend(rows, pitch, weights, vertical.taps, recipe.map_width,
                                        values + static_cast<std::size_t>(y) * recipe.map_width));
  }
  return largest;
}

float Postprocessor::Impl::top_mean(const float* values) {
  const std::size_t size = ignored.empty() ? aside.size() : ignored.counted();
  const std::size_t count = top_count(recipe, size);
  if (ignored.empty()) {
    std::copy(values, values + size, aside.begin());
  } else {
    ignored.copy_counted(values, aside.data());
  }
  std::nth_element(aside.begin(), aside.begin() + static_cast<std::ptrdiff_t>(count - 1),
                   aside.begin() + static_cast<std::ptrdiff_t>(size), std::greater<float>());
  double sum = 0;
  for (std::size_t i = 0; i < count; ++i) sum += aside[i];
  return static_cast<float>(sum / static_cast<double>(count));
}

float Postprocessor::Impl::power_mean(const float* values, float largest) {
  if (!has_power_mean(largest)) return largest;
  std::size_t size = aside.size();
  if (!ignored.empty()) {
    size = ignored.counted();
    ignored.copy_counted(values, aside.data());
    values = aside.data();
  }
  const double sum =
      kernels.power_sum(values, size, 1.0F / largest, least_share(recipe.power), recipe.power);
  return static_cast<float>(largest *
                            std::pow(sum / static_cast<double>(size), 1.0 / recipe.power));
}

float Postprocessor::Impl::score(const float* values, float largest) {
  switch (recipe.score) {
    case ScoreRule::kTopMean:
      return top_mean(values);
    case ScoreRule::kPowerMean:
      return power_mean(values, largest);
    case ScoreRule::kMax:
      break;
  }
  return largest;
}

Postprocessor::Postprocessor(const PostprocessRecipe& recipe) {
  check(recipe);
  impl_ = std::make_unique<Impl>(recipe);
}

Postprocessor::~Postprocessor() = default;
Postprocessor::Postprocessor(Postprocessor&&) noexcept = default;
Postprocessor& Postprocessor::operator=(Postprocessor&&) noexcept = default;

const PostprocessRecipe& Postprocessor::recipe() const noexcept { return impl_->recipe; }

void Postprocessor::run(const float* grid, const Rect& view, const Decision& decision,
                        Result& result) {
  Impl& impl = *impl_;
  impl.check_finite(grid);
  const std::size_t size = impl.map.size();
  const bool keep_map = (decision.outputs & kMap) != 0;
  const bool find_regions = (decision.outputs & kRegions) != 0;

  result.map_height = impl.recipe.map_height;
  result.map_width = impl.recipe.map_width;
  result.anomaly_map.resize(keep_map ? size : 0);
  float* map = keep_map ? result.anomaly_map.data() : impl.map.data();
  impl.ignored.draw(decision.ignored, view);
  const float peak = impl.fill_map(grid, map);
  const float largest = impl.ignored.empty() ? peak : impl.ignored.largest(map);
  result.score = impl.score(map, largest);
  result.threshold = decision.threshold;
  result.is_anomalous = result.score > decision.threshold;

  result.regions.clear();
  const bool keep_mask = (decision.outputs & kMask) != 0;
  result.mask.resize(keep_mask ? size : 0);
  if (!keep_mask && !find_regions) return;
  std::uint8_t* mask = keep_mask ? result.mask.data() : impl.mask.data();
  if (largest <= decision.mask_threshold) {  // good frames, nearly all there are
    std::fill(mask, mask + size, std::uint8_t{0});
    return;
  }
  impl.kernels.exceeds(map, decision.mask_threshold, size, mask);
  if (!impl.ignored.empty()) impl.ignored.clear(mask);
  if (find_regions || decision.min_area > 1) {
    impl.regions.find(mask, map, view, decision.min_area, result.regions);
    if (!find_regions) result.regions.clear();
  }
}

}  // namespace agp_edge
