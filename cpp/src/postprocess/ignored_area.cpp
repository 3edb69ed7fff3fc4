#include "postprocess/ignored_area.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "agp_edge/error.hpp"

namespace agp_edge {
namespace {

bool same(const Rect& a, const Rect& b) {
  return a.x == b.x && a.y == b.y && a.width == b.width && a.height == b.height;
}

}  // namespace

void IgnoredArea::draw(const std::vector<Polygon>& polygons, const Rect& view) {
  if (polygons.empty()) {
    mask_.clear();
    return;
  }
  if (!mask_.empty() && same(view, view_) && polygons == polygons_) return;
  mask_.assign(static_cast<std::size_t>(height_) * width_, 0);
  view_ = view;
  polygons_ = polygons;
  for (const Polygon& polygon : polygons_) draw_one(polygon);
  counted_ = static_cast<std::size_t>(std::count(mask_.begin(), mask_.end(), std::uint8_t{0}));
  if (counted_ > 0) return;
  mask_.clear();
  throw FrameError("the don't-care areas cover all of the region of interest (" +
                   std::to_string(view.x) + ", " + std::to_string(view.y) + ", " +
                   std::to_string(view.width) + ", " + std::to_string(view.height) +
                   "); expected some of it to be left for a verdict: make them smaller");
}

void IgnoredArea::draw_one(const Polygon& polygon) {
  // From frame to map pixels; centres of map pixels lie at half numbers.
  const double scale_x = static_cast<double>(width_) / view_.width;
  const double scale_y = static_cast<double>(height_) / view_.height;
  for (int y = 0; y < height_; ++y) {
    const double centre = view_.y + (y + 0.5) / scale_y;
    crossings_.clear();
    for (std::size_t i = 0; i < polygon.size(); ++i) {
      const Point& a = polygon[i];
      const Point& b = polygon[(i + 1) % polygon.size()];
      // Half open, so that a vertex on the line counts once.
      if ((a.y <= centre) == (b.y <= centre)) continue;
      crossings_.push_back(a.x + (centre - a.y) / (b.y - a.y) * (b.x - a.x));
    }
    std::sort(crossings_.begin(), crossings_.end());
    std::uint8_t* row = mask_.data() + static_cast<std::size_t>(y) * width_;
    for (std::size_t i = 0; i + 1 < crossings_.size(); i += 2) {
      const double first = std::ceil((crossings_[i] - view_.x) * scale_x - 0.5);
      const double last = std::ceil((crossings_[i + 1] - view_.x) * scale_x - 0.5);
      const int begin = static_cast<int>(std::clamp(first, 0.0, static_cast<double>(width_)));
      const int end = static_cast<int>(std::clamp(last, 0.0, static_cast<double>(width_)));
      std::fill(row + begin, row + std::max(begin, end), std::uint8_t{1});
    }
  }
}

float IgnoredArea::largest(const float* map) const noexcept {
  float peak = -std::numeric_limits<float>::infinity();
  for (std::size_t i = 0; i < mask_.size(); ++i) {
    if (mask_[i] == 0) peak = std::max(peak, map[i]);
  }
  return peak;
}

void IgnoredArea::copy_counted(const float* map, float* out) const noexcept {
  for (std::size_t i = 0; i < mask_.size(); ++i) {
    if (mask_[i] == 0) *out++ = map[i];
  }
}

void IgnoredArea::clear(std::uint8_t* mask) const noexcept {
  for (std::size_t i = 0; i < mask_.size(); ++i) {
    if (mask_[i] != 0) mask[i] = 0;
  }
}

}  // namespace agp_edge
