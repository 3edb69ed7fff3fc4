// Runs the CPU stages once each on fixed frames, for callgrind to count: see gate.py.
//
// One thread, no clock, no file; frames are made by integer arithmetic. What is counted is what
// happens inside measured(); buffers and tables are made before, by a first call.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <vector>

#include "agp_edge/frame.hpp"
#include "agp_edge/postprocess.hpp"
#include "agp_edge/preprocess.hpp"
#include "agp_edge/result.hpp"
#include "cpu/simd.hpp"

// Named on callgrind's command line.
extern "C" __attribute__((noinline)) void agp_edge_measured(const std::function<void()>& work) {
  work();
}

namespace {

using agp_edge::Frame;
using agp_edge::PixelFormat;

constexpr int kNetworkSide = 256;

std::uint8_t noise(std::uint32_t value) {
  value ^= value >> 16;
  value *= 0x85EBCA6BU;
  value ^= value >> 13;
  value *= 0xC2B2AE35U;
  return static_cast<std::uint8_t>((value ^ (value >> 16)) >> 24);
}

class StoredFrame {
 public:
  StoredFrame(int width, int height, PixelFormat format, int bytes_per_row, int rows)
      : bytes_(static_cast<std::size_t>(bytes_per_row) * static_cast<std::size_t>(rows)) {
    for (std::size_t i = 0; i < bytes_.size(); ++i) {
      bytes_[i] = noise(static_cast<std::uint32_t>(i));
    }
    view_.data = bytes_.data();
    view_.height = height;
    view_.width = width;
    view_.row_pitch = static_cast<std::size_t>(bytes_per_row);
    view_.format = format;
  }

  const Frame& view() const { return view_; }

  // What the gate has to notice: the frame copied before it is read.
  Frame copied() {
    copy_.resize(bytes_.size());
    std::memcpy(copy_.data(), bytes_.data(), bytes_.size());
    Frame copy = view_;
    copy.data = copy_.data();
    return copy;
  }

 private:
  std::vector<std::uint8_t> bytes_;
  std::vector<std::uint8_t> copy_;
  Frame view_;
};

void measure(const char* name, const std::function<void()>& work) {
  work();  // makes tables and buffers
  std::printf("case %s\n", name);
  agp_edge_measured(work);
}

void preprocess(const char* name, StoredFrame frame, agp_edge::ResizeRule rule) {
  agp_edge::PreprocessRecipe recipe;
  recipe.height = kNetworkSide;
  recipe.width = kNetworkSide;
  recipe.mean = {{123.675F, 116.28F, 103.53F}};
  recipe.stddev = {{58.395F, 57.12F, 57.375F}};
  recipe.resize = rule;
  agp_edge::Preprocessor stage(recipe, 1);
  std::vector<float> out(3U * kNetworkSide * kNetworkSide);
  measure(name, [&] {
#ifdef AGP_EDGE_PLANTED_COPY
    stage.run(frame.copied(), out.data());
#else
    stage.run(frame.view(), out.data());
#endif
  });
}

void postprocess(const char* name, int grid_side, agp_edge::ScoreRule rule) {
  agp_edge::PostprocessRecipe recipe;
  recipe.grid_height = recipe.grid_width = grid_side;
  recipe.map_height = recipe.map_width = kNetworkSide;
  recipe.sigma = 4.0F;
  recipe.score = rule;
  agp_edge::Postprocessor stage(recipe);
  std::vector<float> grid(static_cast<std::size_t>(grid_side) *
                          static_cast<std::size_t>(grid_side));
  for (std::size_t i = 0; i < grid.size(); ++i) {
    grid[i] = static_cast<float>(noise(static_cast<std::uint32_t>(i))) / 1024.0F;
  }
  for (const int place : {3, 17, 29}) {  // three defects
    grid[static_cast<std::size_t>((place % grid_side) * grid_side + (place * 7) % grid_side)] =
        1.5F;
  }
  agp_edge::Decision decision;
  decision.threshold = decision.mask_threshold = 0.3F;
  agp_edge::Result result;
  measure(name, [&] { stage.run(grid.data(), {0, 0, 1920, 1080}, decision, result); });
}

}  // namespace

int main() {
#if defined(__clang__)
  std::printf("compiler clang-%d\n", __clang_major__);
#else
  std::printf("compiler gcc-%d\n", __GNUC__);
#endif
  std::printf("isa %s\n", agp_edge::cpu_has_avx2() ? "avx2" : "baseline");
  std::fflush(stdout);

  using agp_edge::ResizeRule;
  const auto antialias = ResizeRule::kAntialias;
  preprocess("bgr8 1920x1080 antialias",
             StoredFrame(1920, 1080, PixelFormat::kBgr8, 3 * 1920, 1080), antialias);
  preprocess("bgr8 1920x1080 area", StoredFrame(1920, 1080, PixelFormat::kBgr8, 3 * 1920, 1080),
             ResizeRule::kArea);
  preprocess("mono8 1920x1080 antialias", StoredFrame(1920, 1080, PixelFormat::kMono8, 1920, 1080),
             antialias);
  preprocess("bgr8 640x480 antialias", StoredFrame(640, 480, PixelFormat::kBgr8, 3 * 640, 480),
             antialias);
  preprocess("nv12 1280x720 antialias", StoredFrame(1280, 720, PixelFormat::kNv12, 1280, 1080),
             antialias);
  preprocess("bayer_rggb8 1280x720 antialias",
             StoredFrame(1280, 720, PixelFormat::kBayerRggb8, 1280, 720), antialias);
  postprocess("postprocess 32 to 256 max", 32, agp_edge::ScoreRule::kMax);
  postprocess("postprocess 16 to 256 top_mean", 16, agp_edge::ScoreRule::kTopMean);
  postprocess("postprocess 32 to 256 power_mean", 32, agp_edge::ScoreRule::kPowerMean);
  return 0;
}
