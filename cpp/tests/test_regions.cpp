// Connected regions against a plain flood fill, on random and on hostile masks.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include "check.hpp"
#include "count_allocations.hpp"
#include "postprocess/regions.hpp"

namespace {

using agp_edge::Rect;
using agp_edge::Region;
using agp_edge::RegionFinder;

struct Filled {
  int left, top, right, bottom, area;
  float peak;
};

std::vector<Filled> flood_fill(std::vector<std::uint8_t> mask, const std::vector<float>& map,
                               int height, int width) {
  std::vector<Filled> found;
  for (int start = 0; start < height * width; ++start) {
    if (mask[static_cast<std::size_t>(start)] == 0) continue;
    Filled region{width, height, 0, 0, 0, -1e30F};
    std::vector<int> open{start};
    mask[static_cast<std::size_t>(start)] = 0;
    while (!open.empty()) {
      const int pixel = open.back();
      open.pop_back();
      const int y = pixel / width;
      const int x = pixel % width;
      region.left = std::min(region.left, x);
      region.top = std::min(region.top, y);
      region.right = std::max(region.right, x + 1);
      region.bottom = std::max(region.bottom, y + 1);
      region.area += 1;
      region.peak = std::max(region.peak, map[static_cast<std::size_t>(pixel)]);
      for (int v = std::max(0, y - 1); v <= std::min(height - 1, y + 1); ++v) {
        for (int u = std::max(0, x - 1); u <= std::min(width - 1, x + 1); ++u) {
          std::uint8_t& neighbour = mask[static_cast<std::size_t>(v * width + u)];
          if (neighbour == 0) continue;
          neighbour = 0;
          open.push_back(v * width + u);
        }
      }
    }
    found.push_back(region);
  }
  std::sort(found.begin(), found.end(),
            [](const Filled& a, const Filled& b) { return a.peak > b.peak; });
  return found;
}

// Distinct values, so that the order by peak is the same on both sides.
std::vector<float> distinct_map(int size, std::mt19937& random) {
  std::vector<float> map(static_cast<std::size_t>(size));
  for (int i = 0; i < size; ++i) map[static_cast<std::size_t>(i)] = static_cast<float>(i);
  std::shuffle(map.begin(), map.end(), random);
  return map;
}

void compare(const std::vector<std::uint8_t>& mask, int height, int width, int min_area,
             std::mt19937& random) {
  const std::vector<float> map = distinct_map(height * width, random);
  std::vector<Filled> expected = flood_fill(mask, map, height, width);
  expected.erase(std::remove_if(expected.begin(), expected.end(),
                                [&](const Filled& region) { return region.area < min_area; }),
                 expected.end());
  std::vector<std::uint8_t> kept = mask;
  std::vector<Region> regions;
  RegionFinder(height, width)
      .find(kept.data(), map.data(), Rect{0, 0, width, height}, min_area, regions);
  CHECK(regions.size() == expected.size());
  if (regions.size() != expected.size()) return;
  int area = 0;
  for (std::size_t i = 0; i < regions.size(); ++i) {
    const Region& region = regions[i];
    CHECK(region.box.x == expected[i].left);
    CHECK(region.box.y == expected[i].top);
    CHECK(region.box.x + region.box.width == expected[i].right);
    CHECK(region.box.y + region.box.height == expected[i].bottom);
    CHECK(region.area == expected[i].area);
    CHECK(region.peak == expected[i].peak);
    CHECK(map[static_cast<std::size_t>(region.peak_y * width + region.peak_x)] == region.peak);
    area += region.area;
  }
  CHECK(std::count(kept.begin(), kept.end(), 1) == area);
  for (std::size_t i = 0; i < mask.size(); ++i) CHECK(kept[i] <= mask[i]);
}

}  // namespace

TEST(random_masks_equal_a_flood_fill) {
  std::mt19937 random(1);
  for (const auto& [height, width] : {std::pair{1, 1}, std::pair{1, 40}, std::pair{40, 1},
                                      std::pair{2, 2}, std::pair{13, 17}, std::pair{64, 75}}) {
    for (double density : {0.02, 0.2, 0.35, 0.5, 0.8, 1.0}) {
      for (int min_area : {0, 1, 4}) {
        std::bernoulli_distribution set(density);
        std::vector<std::uint8_t> mask(static_cast<std::size_t>(height) * width);
        for (std::uint8_t& pixel : mask) pixel = set(random) ? 1 : 0;
        compare(mask, height, width, min_area, random);
      }
    }
  }
}

TEST(hostile_masks_equal_a_flood_fill) {
  std::mt19937 random(2);
  constexpr int kSide = 61;
  std::vector<std::uint8_t> isolated(kSide * kSide, 0);  // as many regions as fit
  std::vector<std::uint8_t> chess(kSide * kSide, 0);     // as many runs as fit, one region
  std::vector<std::uint8_t> comb(kSide * kSide, 0);      // teeth that meet in the last row
  std::vector<std::uint8_t> spiral(kSide * kSide, 0);
  for (int y = 0; y < kSide; ++y) {
    for (int x = 0; x < kSide; ++x) {
      const std::size_t i = static_cast<std::size_t>(y) * kSide + x;
      isolated[i] = y % 2 == 0 && x % 2 == 0 ? 1 : 0;
      chess[i] = (y + x) % 2 == 0 ? 1 : 0;
      comb[i] = x % 2 == 0 || y == kSide - 1 ? 1 : 0;
    }
  }
  int x = 0, y = 0, dx = 1, dy = 0;
  int steps = kSide - 1;
  for (int leg = 0; steps > 0; ++leg) {
    for (int i = 0; i < steps; ++i, x += dx, y += dy)
      spiral[static_cast<std::size_t>(y * kSide + x)] = 1;
    const int turn = dx;
    dx = -dy;
    dy = turn;
    if (leg >= 2 && leg % 2 == 0) steps -= 2;
  }
  for (const auto& mask : {isolated, chess, comb, spiral}) {
    for (int min_area : {0, 2}) compare(mask, kSide, kSide, min_area, random);
  }
}

TEST(equal_peaks_are_ordered_from_the_top_left) {
  const int height = 9, width = 9;
  std::vector<float> map(81, 1.0F);
  std::vector<std::uint8_t> mask(81, 0);
  for (int y : {0, 4, 8}) {
    for (int x : {0, 4, 8}) mask[static_cast<std::size_t>(y * width + x)] = 1;
  }
  std::vector<Region> regions;
  RegionFinder(height, width).find(mask.data(), map.data(), Rect{0, 0, 9, 9}, 0, regions);
  CHECK(regions.size() == 9);
  for (std::size_t i = 0; i < regions.size(); ++i) {
    CHECK(regions[i].box.y == static_cast<int>(i / 3) * 4);
    CHECK(regions[i].box.x == static_cast<int>(i % 3) * 4);
  }
}

TEST(boxes_and_peaks_are_mapped_into_the_view) {
  std::vector<float> map(16, 0.0F);
  std::vector<std::uint8_t> mask(16, 0);
  mask[5] = mask[6] = 1;  // row 1, columns 1 and 2 of 4 x 4
  map[6] = 3.0F;
  std::vector<Region> regions;
  RegionFinder(4, 4).find(mask.data(), map.data(), Rect{10, 20, 6, 9}, 0, regions);
  CHECK(regions.size() == 1);
  if (regions.empty()) return;
  const Region& region = regions.front();
  CHECK(region.box.x == 10 + 1);  // columns 1.5 to 4.5, outwards
  CHECK(region.box.width == 4);
  CHECK(region.box.y == 20 + 2);  // rows 2.25 to 4.5
  CHECK(region.box.height == 3);
  CHECK(region.area == 2);
  CHECK_NEAR(region.frame_area, 2 * 1.5 * 2.25, 1e-12);
  CHECK(region.peak_x == 10 + 3);
  CHECK(region.peak_y == 20 + 3);
}

TEST(a_second_call_allocates_nothing) {
  std::mt19937 random(3);
  std::bernoulli_distribution set(0.4);
  std::vector<std::uint8_t> mask(50 * 50);
  for (std::uint8_t& pixel : mask) pixel = set(random) ? 1 : 0;
  const std::vector<float> map = distinct_map(2500, random);
  RegionFinder finder(50, 50);
  std::vector<Region> regions;
  finder.find(mask.data(), map.data(), Rect{0, 0, 50, 50}, 0, regions);
  const long before = allocation_count.load();
  finder.find(mask.data(), map.data(), Rect{0, 0, 50, 50}, 0, regions);
  CHECK(allocation_count.load() == before);
}

CHECK_MAIN()
