// The frame formats beyond 8-bit colour and mono, against their definition in double precision.
#include <algorithm>
#include <cstddef>
#include <cstdint>
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
using agp_edge::PixelFormat;
using agp_edge::PixelLayout;
using agp_edge::Preprocessor;
using agp_edge::PreprocessRecipe;
using agp_edge::Rect;
using agp_edge::ResizeRule;
using reference::Image;
using reference::kTolerance;
using reference::largest_difference;
using reference::recipe_of;
using reference::run_on_cpu;

bool is_bayer(PixelFormat format) {
  const PixelLayout layout = agp_edge::layout_of(format);
  return layout == PixelLayout::kBayer8 || layout == PixelLayout::kBayer16;
}

// Sides that the format has: nv12 only even ones, bayer none of one pixel.
std::pair<int, int> sides_for(PixelFormat format, int height, int width) {
  if (format == PixelFormat::kNv12) return {(height + 1) / 2 * 2, (width + 1) / 2 * 2};
  if (is_bayer(format)) return {std::max(height, 2), std::max(width, 2)};
  return {height, width};
}

}  // namespace

TEST(every_format_equals_its_definition) {
  unsigned seed = 0;
  for (PixelFormat format : reference::kAllFormats) {
    for (const auto& [frame_height, frame_width] :
         {std::pair{1, 1}, {2, 2}, {3, 2}, {7, 5}, {16, 16}, {31, 47}, {97, 21}, {50, 300}}) {
      for (const auto& [height, width] : {std::pair{1, 1}, {16, 16}, {24, 40}}) {
        for (ResizeRule rule : {ResizeRule::kAntialias, ResizeRule::kArea}) {
          const auto [h, w] = sides_for(format, frame_height, frame_width);
          const Image image(h, w, format, seed % 3 == 0 ? 0 : 6, seed);
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

TEST(regions_at_odd_places_keep_the_pattern) {
  for (PixelFormat format : reference::kAllFormats) {
    const Image image(60, 46, format, 4, 7);
    for (const Rect& roi : {Rect{1, 0, 40, 33}, Rect{0, 1, 41, 20}, Rect{3, 5, 17, 19},
                            Rect{45, 59, 1, 1}, Rect{0, 0, 1, 1}, Rect{44, 3, 2, 57}}) {
      PreprocessRecipe recipe = recipe_of(16, 16);
      recipe.roi = roi;
      CHECK_NEAR(largest_difference(run_on_cpu(image.frame, recipe),
                                    reference::preprocessed(image.frame, recipe)),
                 0, kTolerance);
    }
  }
}

TEST(white_is_white_in_every_format) {
  for (PixelFormat format : reference::kAllFormats) {
    Image image(34, 52, format, 0, 1);
    const int largest = agp_edge::largest_value(format);
    const std::size_t luma = static_cast<std::size_t>(34) * 52;
    for (std::size_t i = 0; i < image.bytes.size(); ++i) {
      const bool high = agp_edge::bytes_per_pixel(format) == 2 && i % 2 == 1;
      image.bytes[i] = static_cast<std::uint8_t>(high ? largest >> 8 : 255);
      if (format == PixelFormat::kNv12) {
        image.bytes[i] = static_cast<std::uint8_t>(i < luma ? 235 : 128);
      }
    }
    PreprocessRecipe recipe = recipe_of(16, 16);
    recipe.mean = {{0, 0, 0}};
    recipe.stddev = {{1, 1, 1}};
    for (float value : run_on_cpu(image.frame, recipe)) CHECK_NEAR(value, 255, 1e-4);
  }
}

TEST(threads_change_no_bit) {
  for (PixelFormat format : reference::kAllFormats) {
    const Image image(302, 516, format, 2, 3);
    const PreprocessRecipe recipe = recipe_of(96, 128);
    const std::vector<float> one = run_on_cpu(image.frame, recipe, 1);
    for (int threads : {0, 2, 3}) CHECK(run_on_cpu(image.frame, recipe, threads) == one);
  }
}

TEST(one_object_serves_changing_formats_and_allocates_only_then) {
  const PreprocessRecipe recipe = recipe_of(48, 40);
  Preprocessor stage(recipe, 2);
  std::vector<float> out(3 * 48 * 40);
  for (int round = 0; round < 2; ++round) {
    for (PixelFormat format : reference::kAllFormats) {
      const Image image(64, 82, format, 0, 11);
      stage.run(image.frame, out.data());
      CHECK(out == run_on_cpu(image.frame, recipe));
      const long before = allocation_count.load();
      for (int i = 0; i < 3; ++i) stage.run(image.frame, out.data());
      CHECK(allocation_count.load() == before);
    }
  }
}

TEST(impossible_geometries_are_refused) {
  const PreprocessRecipe recipe = recipe_of(16, 16);
  const Image mono(20, 30, PixelFormat::kMono12, 0, 5);
  Frame bad = mono.frame;
  bad.row_pitch = 59;
  CHECK_THROWS(run_on_cpu(bad, recipe), FrameError, "at least 60 for 30 pixels of mono12");
  bad.row_pitch = 61;
  CHECK_THROWS(run_on_cpu(bad, recipe), FrameError, "expected an even number");
  bad = mono.frame;
  ++bad.data;
  bad.height = 19;
  CHECK_THROWS(run_on_cpu(bad, recipe), FrameError, "odd address");

  const std::vector<std::uint8_t> bytes(1000);
  for (const auto& [height, width] : {std::pair{1, 20}, {20, 1}}) {
    bad = Frame{bytes.data(), height, width, static_cast<std::size_t>(width),
                PixelFormat::kBayerGbrg8};
    CHECK_THROWS(run_on_cpu(bad, recipe), FrameError, "at least 2 x 2");
  }
  for (const auto& [height, width] : {std::pair{11, 20}, {20, 11}}) {
    bad = Frame{bytes.data(), height, width, static_cast<std::size_t>(width), PixelFormat::kNv12};
    CHECK_THROWS(run_on_cpu(bad, recipe), FrameError, "expected even sides");
  }
}

TEST(sizes_in_memory) {
  CHECK(Image(20, 30, PixelFormat::kNv12, 2, 1).frame.bytes() == 29 * 32 + 30);
  CHECK(Image(20, 30, PixelFormat::kNv12, 2, 1).frame.rows() == 30);
  CHECK(Image(20, 30, PixelFormat::kMono16, 0, 1).frame.bytes() == 20 * 60);
  CHECK(Image(20, 30, PixelFormat::kRgb8, 10, 1).frame.bytes() == 19 * 100 + 90);
}

TEST(names_round_trip_and_unknown_ones_list_the_known) {
  for (PixelFormat format : reference::kAllFormats) {
    CHECK(agp_edge::pixel_format_from(agp_edge::to_string(format)) == format);
  }
  CHECK_THROWS(agp_edge::pixel_format_from("bayer_rg8"), FrameError,
               "\"bayer_rg8\"; expected one of \"bgr8\", \"rgb8\", \"mono8\", \"mono10\"");
}

CHECK_MAIN()
