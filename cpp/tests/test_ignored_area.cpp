// Don't-care areas: drawn as a point-in-polygon test says, and without a say in the verdict.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <random>
#include <vector>

#include "agp_edge/error.hpp"
#include "agp_edge/postprocess.hpp"
#include "check.hpp"
#include "count_allocations.hpp"
#include "postprocess/ignored_area.hpp"

namespace {

using agp_edge::Decision;
using agp_edge::FrameError;
using agp_edge::IgnoredArea;
using agp_edge::Point;
using agp_edge::Polygon;
using agp_edge::Postprocessor;
using agp_edge::PostprocessRecipe;
using agp_edge::Rect;
using agp_edge::Result;
using agp_edge::ScoreRule;

Polygon box(double x, double y, double width, double height) {
  return {{x, y}, {x + width, y}, {x + width, y + height}, {x, y + height}};
}

// The ray test, point by point.
bool inside(const Polygon& polygon, double x, double y) {
  int crossings = 0;
  for (std::size_t i = 0; i < polygon.size(); ++i) {
    const Point& a = polygon[i];
    const Point& b = polygon[(i + 1) % polygon.size()];
    const bool between = (a.y > y) != (b.y > y);
    if (between && x < (b.x - a.x) * (y - a.y) / (b.y - a.y) + a.x) ++crossings;
  }
  return crossings % 2 == 1;
}

std::vector<std::uint8_t> drawn(IgnoredArea& area, int pixels) {
  std::vector<std::uint8_t> mask(static_cast<std::size_t>(pixels), 1);
  area.clear(mask.data());
  return mask;
}

TEST(drawn_as_points_say) {
  constexpr int kHeight = 37;
  constexpr int kWidth = 53;
  const Rect view{11, -3, 640, 480};
  std::mt19937 random(1);
  std::uniform_real_distribution<double> anywhere(-200, 900);
  IgnoredArea area(kHeight, kWidth);
  for (int round = 0; round < 200; ++round) {
    std::vector<Polygon> polygons(1 + round % 3);
    for (Polygon& polygon : polygons) {
      polygon.resize(3 + random() % 5);  // edges cross as they like
      for (Point& corner : polygon) corner = {anywhere(random), anywhere(random)};
    }
    std::size_t left = 0;
    std::vector<std::uint8_t> expected;
    for (int y = 0; y < kHeight; ++y) {
      for (int x = 0; x < kWidth; ++x) {
        const double frame_x = view.x + (x + 0.5) * view.width / kWidth;
        const double frame_y = view.y + (y + 0.5) * view.height / kHeight;
        const bool out = std::any_of(polygons.begin(), polygons.end(),
                                     [&](const Polygon& p) { return inside(p, frame_x, frame_y); });
        expected.push_back(out ? 0 : 1);
        left += out ? 0 : 1;
      }
    }
    if (left == 0) continue;
    area.draw(polygons, view);
    CHECK(area.counted() == left);
    CHECK(drawn(area, kHeight * kWidth) == expected);
  }
}

TEST(nothing_left_to_judge) {
  IgnoredArea area(8, 8);
  const Rect view{100, 50, 64, 64};
  const std::vector<Polygon> all = {box(90, 40, 100, 100)};
  CHECK_THROWS(area.draw(all, view), FrameError, "(100, 50, 64, 64)");
  area.draw({box(90, 40, 20, 100)}, view);  // usable afterwards
  CHECK(area.counted() == 7 * 8);
  area.draw({}, view);
  CHECK(area.empty());
}

PostprocessRecipe recipe(ScoreRule rule) {
  PostprocessRecipe made;
  made.grid_height = made.grid_width = 16;
  made.map_height = made.map_width = 64;
  made.score = rule;
  made.top_share = 0.1F;
  return made;
}

// Two bumps; the larger one lies in the don't-care area.
TEST(no_say_in_the_verdict) {
  std::vector<float> grid(16 * 16, 0.1F);
  grid[3 * 16 + 3] = 9.0F;    // frame (30, 30) of a frame of 128 x 128
  grid[12 * 16 + 12] = 5.0F;  // frame (100, 100)
  const Rect view{0, 0, 128, 128};
  Decision decision;
  decision.threshold = 6.0F;
  decision.mask_threshold = 2.0F;
  Postprocessor plain(recipe(ScoreRule::kMax));
  Result all;
  plain.run(grid.data(), view, decision, all);
  CHECK(all.is_anomalous);
  CHECK(all.regions.size() == 2);

  decision.ignored = {box(0, 0, 64, 64)};
  Result result;
  plain.run(grid.data(), view, decision, result);
  CHECK(!result.is_anomalous);
  CHECK(result.score < 5.01F && result.score > 3.0F);
  CHECK(result.regions.size() == 1);
  CHECK(result.regions.front().peak_x > 64 && result.regions.front().peak_y > 64);
  CHECK(result.anomaly_map == all.anomaly_map);  // what was computed stays visible
  for (int y = 0; y < 32; ++y) {
    for (int x = 0; x < 32; ++x) CHECK(result.mask[static_cast<std::size_t>(y) * 64 + x] == 0);
  }
  CHECK(std::count(result.mask.begin(), result.mask.end(), std::uint8_t{1}) > 0);

  // Another view of the same polygons is drawn anew: now they cover the other bump.
  plain.run(grid.data(), Rect{-64, -64, 128, 128}, decision, result);
  CHECK(result.score == all.score);
  CHECK(result.regions.size() == 1);

  decision.ignored.clear();
  plain.run(grid.data(), view, decision, result);
  CHECK(result.score == all.score && result.mask == all.mask);
}

TEST(a_share_of_what_is_left) {
  std::mt19937 random(2);
  std::uniform_real_distribution<float> value(0, 1);
  std::vector<float> grid(16 * 16);
  for (float& v : grid) v = value(random);
  const Rect view{0, 0, 64, 64};
  Decision decision;
  decision.ignored = {box(0, 0, 64, 40)};
  Postprocessor stage(recipe(ScoreRule::kTopMean));
  Result result;
  stage.run(grid.data(), view, decision, result);
  std::vector<float> left(result.anomaly_map.begin() + 40 * 64, result.anomaly_map.end());
  std::sort(left.begin(), left.end(), std::greater<float>());
  const auto count = static_cast<std::size_t>(std::lround(0.1 * static_cast<double>(left.size())));
  double sum = 0;
  for (std::size_t i = 0; i < count; ++i) sum += left[i];
  CHECK(std::abs(result.score - sum / static_cast<double>(count)) < 1e-6);
}

TEST(a_second_call_allocates_nothing) {
  std::vector<float> grid(16 * 16, 1.0F);
  Decision decision;
  decision.ignored = {box(3, 4, 20, 30), box(10, 50, 9, 9)};
  Postprocessor stage(recipe(ScoreRule::kMax));
  Result result;
  for (int i = 0; i < 2; ++i) stage.run(grid.data(), Rect{0, 0, 64, 64}, decision, result);
  const long before = allocation_count.load();
  stage.run(grid.data(), Rect{0, 0, 64, 64}, decision, result);
  CHECK(allocation_count.load() == before);
}

}  // namespace

CHECK_MAIN()
