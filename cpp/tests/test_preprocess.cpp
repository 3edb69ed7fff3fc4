// Preprocessing against its definition in double precision, on many geometries.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "agp_edge/error.hpp"
#include "agp_edge/preprocess.hpp"
#include "check.hpp"
#include "count_allocations.hpp"
#include "preprocess_reference.hpp"

namespace {

using agp_edge::ChannelOrder;
using agp_edge::Frame;
using agp_edge::FrameError;
using agp_edge::ModelError;
using agp_edge::PixelFormat;
using agp_edge::Preprocessor;
using agp_edge::PreprocessRecipe;
using agp_edge::Rect;
using agp_edge::ResizeRule;
using reference::Image;
using reference::kTolerance;
using reference::largest_difference;
using reference::recipe_of;
using reference::run_on_cpu;

constexpr PixelFormat kFormats[] = {PixelFormat::kBgr8, PixelFormat::kRgb8, PixelFormat::kMono8};
constexpr ResizeRule kRules[] = {ResizeRule::kAntialias, ResizeRule::kArea};

// Sides that meet each way through the code: one pixel, equal, whole and broken ratios, enlarging
// on one axis or both, lines shorter and longer than any vector block.
const std::pair<int, int> kFrameSides[] = {{1, 1},    {1, 9},     {9, 1},   {7, 5},
                                           {16, 16},  {31, 47},   {64, 48}, {97, 21},
                                           {50, 300}, {240, 320}, {33, 700}};
const std::pair<int, int> kInputSides[] = {{1, 1}, {16, 16}, {24, 40}, {31, 7}, {64, 64}};

}  // namespace

TEST(equals_the_definition) {
  unsigned seed = 0;
  for (const auto& [frame_height, frame_width] : kFrameSides) {
    for (const auto& [height, width] : kInputSides) {
      for (PixelFormat format : kFormats) {
        for (ResizeRule rule : kRules) {
          const Image image(frame_height, frame_width, format, seed % 3 == 0 ? 0 : 5, seed);
          PreprocessRecipe recipe = recipe_of(height, width, rule);
          recipe.channels = seed % 2 == 0 ? ChannelOrder::kRgb : ChannelOrder::kBgr;
          CHECK_NEAR(largest_difference(run_on_cpu(image.frame, recipe),
                                        reference::preprocessed(image.frame, recipe)),
                     0, kTolerance);
          ++seed;
        }
      }
    }
  }
}

TEST(region_of_interest_equals_the_cropped_frame) {
  for (PixelFormat format : kFormats) {
    const Image image(120, 90, format, 3, 7);
    for (const Rect& roi : {Rect{0, 0, 90, 120}, Rect{1, 2, 70, 65}, Rect{89, 119, 1, 1},
                            Rect{40, 50, 50, 70}, Rect{13, 11, 32, 32}}) {
      PreprocessRecipe recipe = recipe_of(32, 32);
      recipe.roi = roi;
      Frame crop = image.frame;
      crop.data += static_cast<std::size_t>(roi.y) * crop.row_pitch +
                   static_cast<std::size_t>(roi.x) * agp_edge::bytes_per_pixel(format);
      crop.height = roi.height;
      crop.width = roi.width;
      const std::vector<float> result = run_on_cpu(image.frame, recipe);
      CHECK_NEAR(largest_difference(result, reference::preprocessed(image.frame, recipe)), 0,
                 kTolerance);
      CHECK(result == run_on_cpu(crop, recipe_of(32, 32)));
    }
  }
}

TEST(a_flat_frame_gives_the_normalised_value_everywhere) {
  for (PixelFormat format : kFormats) {
    Image image(75, 133, format, 0, 1);
    std::fill(image.bytes.begin(), image.bytes.end(), std::uint8_t{200});
    for (const auto& [height, width] : kInputSides) {
      const PreprocessRecipe recipe = recipe_of(height, width);
      const std::vector<float> out = run_on_cpu(image.frame, recipe);
      const std::size_t plane = static_cast<std::size_t>(height) * width;
      for (std::size_t i = 0; i < out.size(); ++i) {
        const std::size_t c = i / plane;
        CHECK_NEAR(out[i], (200.0 - recipe.mean[c]) / recipe.stddev[c], kTolerance);
      }
    }
  }
}

TEST(threads_change_no_bit) {
  for (PixelFormat format : kFormats) {
    for (ResizeRule rule : kRules) {
      const Image image(301, 517, format, 1, 3);
      const PreprocessRecipe recipe = recipe_of(96, 128, rule);
      const std::vector<float> one = run_on_cpu(image.frame, recipe, 1);
      for (int threads : {0, 2, 4}) CHECK(run_on_cpu(image.frame, recipe, threads) == one);
    }
  }
}

TEST(one_object_serves_changing_geometries) {
  const PreprocessRecipe recipe = recipe_of(48, 40);
  Preprocessor stage(recipe, 2);
  std::vector<float> out(3 * 48 * 40);
  for (int round = 0; round < 2; ++round) {
    for (PixelFormat format : kFormats) {
      for (const auto& [height, width] : kFrameSides) {
        const Image image(height, width, format, 0, 11);
        stage.run(image.frame, out.data());
        CHECK(out == run_on_cpu(image.frame, recipe));
      }
    }
  }
}

TEST(allocates_only_when_the_geometry_changes) {
  for (int threads : {1, 3}) {
    const Image image(200, 300, PixelFormat::kBgr8, 0, 2);
    const Image swapped(200, 300, PixelFormat::kRgb8, 8, 2);
    Preprocessor stage(recipe_of(64, 64), threads);
    std::vector<float> out(3 * 64 * 64);
    stage.run(image.frame, out.data());
    const long before = allocation_count.load();
    for (int i = 0; i < 5; ++i) {
      stage.run(image.frame, out.data());
      stage.run(swapped.frame, out.data());
    }
    CHECK(allocation_count.load() == before);
    const Image other(201, 300, PixelFormat::kBgr8, 0, 2);
    stage.run(other.frame, out.data());
    CHECK(allocation_count.load() > before);
  }
}

TEST(bad_frames_are_refused_and_the_object_lives_on) {
  const Image image(20, 30, PixelFormat::kBgr8, 0, 5);
  const PreprocessRecipe recipe = recipe_of(16, 16);
  Preprocessor stage(recipe, 1);
  std::vector<float> out(3 * 16 * 16);
  Frame bad = image.frame;
  bad.data = nullptr;
  CHECK_THROWS(stage.run(bad, out.data()), FrameError, "null pointer");
  for (int side : {0, -4}) {
    bad = image.frame;
    bad.height = side;
    CHECK_THROWS(stage.run(bad, out.data()), FrameError, "30 x " + std::to_string(side));
    bad = image.frame;
    bad.width = side;
    CHECK_THROWS(stage.run(bad, out.data()), FrameError, std::to_string(side) + " x 20");
  }
  bad = image.frame;
  bad.row_pitch = 89;
  CHECK_THROWS(stage.run(bad, out.data()), FrameError,
               "row pitch is 89 bytes; expected at least 90");
  stage.run(image.frame, out.data());
  CHECK(out == run_on_cpu(image.frame, recipe));
}

TEST(regions_of_interest_outside_the_frame_are_refused) {
  const Image image(20, 30, PixelFormat::kMono8, 0, 5);
  constexpr int kHuge = std::numeric_limits<int>::max();
  for (const Rect& roi :
       {Rect{-1, 0, 5, 5}, Rect{0, -1, 5, 5}, Rect{26, 0, 5, 5}, Rect{0, 16, 5, 5},
        Rect{0, 0, 31, 20}, Rect{kHuge, kHuge, kHuge, kHuge}}) {
    PreprocessRecipe recipe = recipe_of(16, 16);
    recipe.roi = roi;
    CHECK_THROWS(run_on_cpu(image.frame, recipe), FrameError,
                 "does not lie inside the frame of 30 x 20");
  }
  PreprocessRecipe recipe = recipe_of(16, 16);
  recipe.roi = Rect{3, 3, 0, 4};
  CHECK_THROWS(Preprocessor(recipe, 1), FrameError, "is empty");
}

TEST(a_frame_that_loses_the_region_of_interest_is_refused_each_time) {
  PreprocessRecipe recipe = recipe_of(8, 8);
  recipe.roi = Rect{10, 10, 20, 20};
  Preprocessor stage(recipe, 1);
  std::vector<float> out(3 * 8 * 8);
  const Image large(40, 40, PixelFormat::kMono8, 0, 1);
  const Image small(20, 20, PixelFormat::kMono8, 0, 1);
  for (int i = 0; i < 2; ++i) {
    stage.run(large.frame, out.data());
    CHECK_THROWS(stage.run(small.frame, out.data()), FrameError, "does not lie inside");
    CHECK_THROWS(stage.run(small.frame, out.data()), FrameError, "does not lie inside");
  }
}

TEST(bad_recipes_are_refused) {
  PreprocessRecipe recipe = recipe_of(0, 16);
  CHECK_THROWS(Preprocessor(recipe, 1), ModelError, "16 x 0");
  recipe = recipe_of(16, 16);
  recipe.stddev[1] = 0;
  CHECK_THROWS(Preprocessor(recipe, 1), ModelError, "channel 1");
  recipe.stddev[1] = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS(Preprocessor(recipe, 1), ModelError, "channel 1");
  CHECK_THROWS(Preprocessor(recipe_of(16, 16), -1), agp_edge::Error, "-1");
}

TEST(names_round_trip_and_unknown_ones_are_refused) {
  for (PixelFormat format : kFormats) {
    CHECK(agp_edge::pixel_format_from(agp_edge::to_string(format)) == format);
  }
  for (ResizeRule rule : kRules) {
    CHECK(agp_edge::resize_rule_from(agp_edge::to_string(rule)) == rule);
  }
  for (ChannelOrder order : {ChannelOrder::kRgb, ChannelOrder::kBgr}) {
    CHECK(agp_edge::channel_order_from(agp_edge::to_string(order)) == order);
  }
  CHECK_THROWS(agp_edge::pixel_format_from("yuv"), FrameError, "\"yuv\"");
  CHECK_THROWS(agp_edge::resize_rule_from("cubic"), ModelError, "\"cubic\"");
  CHECK_THROWS(agp_edge::channel_order_from("gbr"), ModelError, "\"gbr\"");
}

CHECK_MAIN()
