// The preprocessing kernels, run on the CPU, against the CPU's stage and the definition.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "agp_edge/error.hpp"
#include "agp_edge/preprocess.hpp"
#include "check.hpp"
#include "cuda_on_cpu/half.hpp"
#include "cuda_on_cpu/run_kernel.hpp"
#include "cuda_rig.hpp"
#include "fakes/fake_cuda.hpp"
#include "preprocess/preprocess_cuda.hpp"
#include "preprocess/preprocess_plan.hpp"
#include "preprocess_reference.hpp"

namespace {

using agp_edge::ChannelOrder;
using agp_edge::DeviceError;
using agp_edge::DType;
using agp_edge::Frame;
using agp_edge::FrameError;
using agp_edge::PixelFormat;
using agp_edge::PixelLayout;
using agp_edge::PreprocessCuda;
using agp_edge::Preprocessor;
using agp_edge::PreprocessPlan;
using agp_edge::PreprocessRecipe;
using agp_edge::Rect;
using agp_edge::ResizeRule;
using reference::Image;
using reference::kTolerance;
using reference::largest_difference;
using reference::recipe_of;
using reference::run_on_cpu;

template <typename Out>
std::vector<Out> run_plan(const Frame& frame, const PreprocessPlan& plan, std::size_t size) {
  std::vector<Out> out(size, std::numeric_limits<Out>::max());
  agp_edge::kernel::PreprocessParams params = plan.params;
  params.tiles = plan.tiles.data();
  params.down = plan.down.data();
  params.first = plan.first.data();
  params.across = plan.across.data();
  params.out = out.data();
  const std::uint8_t* data = frame.data;
  void* parameters[] = {&data, &params};
  const unsigned grid[] = {plan.grid_x, plan.grid_y, 1};
  const unsigned block[] = {plan.threads, 1, 1};
  const cuda_on_cpu::Kernel* const kernel = cuda_on_cpu::find(plan.kernel);
  CHECK(kernel != nullptr);
  if (kernel != nullptr) kernel->run(grid, block, plan.shared_bytes, parameters);
  return out;
}

std::vector<float> run(const Frame& frame, const PreprocessRecipe& recipe, int processors = 1) {
  return run_plan<float>(frame, PreprocessPlan(recipe, frame, DType::kFloat32, processors),
                         3 * static_cast<std::size_t>(recipe.height) * recipe.width);
}

double difference(const std::vector<float>& a, const std::vector<float>& b) {
  return largest_difference(a, std::vector<double>(b.begin(), b.end()));
}

std::pair<int, int> sides_for(PixelFormat format, int height, int width) {
  const PixelLayout layout = agp_edge::layout_of(format);
  if (layout == PixelLayout::kNv12) return {(height + 1) / 2 * 2, (width + 1) / 2 * 2};
  if (layout == PixelLayout::kBayer8 || layout == PixelLayout::kBayer16) {
    return {std::max(height, 2), std::max(width, 2)};
  }
  return {height, width};
}

}  // namespace

TEST(every_format_equals_the_cpu_and_the_definition) {
  unsigned seed = 0;
  for (PixelFormat format : reference::kAllFormats) {
    for (const auto& [frame_height, frame_width] :
         {std::pair{1, 1}, {3, 2}, {16, 16}, {31, 47}, {97, 21}, {50, 300}}) {
      for (const auto& [height, width] : {std::pair{1, 1}, {16, 24}, {31, 7}}) {
        for (ResizeRule rule : {ResizeRule::kAntialias, ResizeRule::kArea}) {
          const auto [h, w] = sides_for(format, frame_height, frame_width);
          // A pitch of whole words, or one that puts every row on another alignment.
          const std::size_t pixel = static_cast<std::size_t>(agp_edge::bytes_per_pixel(format));
          const std::size_t row = pixel * static_cast<std::size_t>(w);
          const std::size_t extra = seed % 3 == 0   ? 0
                                    : seed % 3 == 1 ? (row + 3) / 4 * 4 - row
                                    : pixel == 2    ? 6
                                                    : 5;
          const Image image(h, w, format, extra, seed);
          PreprocessRecipe recipe = recipe_of(height, width, rule);
          recipe.channels = seed % 2 == 0 ? ChannelOrder::kRgb : ChannelOrder::kBgr;
          const std::vector<float> out = run(image.frame, recipe);
          CHECK_NEAR(difference(out, run_on_cpu(image.frame, recipe)), 0, kTolerance);
          CHECK_NEAR(largest_difference(out, reference::preprocessed(image.frame, recipe)), 0,
                     kTolerance);
          ++seed;
        }
      }
    }
  }
}

TEST(regions_at_odd_places) {
  for (PixelFormat format : reference::kAllFormats) {
    for (std::size_t extra : {0U, 2U}) {
      const Image image(60, 46, format, extra, 7);
      for (const Rect& roi : {Rect{1, 0, 40, 33}, Rect{3, 5, 17, 19}, Rect{45, 59, 1, 1},
                              Rect{0, 1, 1, 1}, Rect{44, 3, 2, 57}}) {
        PreprocessRecipe recipe = recipe_of(16, 16);
        recipe.roi = roi;
        CHECK_NEAR(difference(run(image.frame, recipe), run_on_cpu(image.frame, recipe)), 0,
                   kTolerance);
      }
    }
  }
}

TEST(frames_at_every_alignment) {
  for (PixelFormat format : reference::kAllFormats) {
    const Image image(24, 40, format, 0, 3);
    const int step = agp_edge::bytes_per_pixel(format) == 2 ? 2 : 1;
    for (int offset = 0; offset < 4; offset += step) {
      // Copied to end with its last byte, and begin `offset` behind a multiple of 16.
      std::vector<std::uint8_t> moved(image.bytes.size() + static_cast<std::size_t>(offset));
      std::copy(image.bytes.begin(), image.bytes.end(), moved.begin() + offset);
      Frame frame = image.frame;
      frame.data = moved.data() + offset;
      PreprocessRecipe recipe = recipe_of(9, 11);
      recipe.roi = Rect{1, 2, 37, 21};
      CHECK_NEAR(difference(run(frame, recipe), run_on_cpu(image.frame, recipe)), 0, kTolerance);
    }
  }
}

TEST(large_reductions_and_many_tiles) {
  for (PixelFormat format : reference::kAllFormats) {
    const Image image(90, 1400, format, 0, 5);
    for (const auto& [height, width] : {std::pair{4, 4}, {33, 160}}) {
      for (int processors : {1, 200}) {
        const PreprocessRecipe recipe = recipe_of(height, width);
        CHECK_NEAR(
            difference(run(image.frame, recipe, processors), run_on_cpu(image.frame, recipe)), 0,
            kTolerance);
      }
    }
  }
}

TEST(half_precision_is_the_nearest) {
  for (PixelFormat format : {PixelFormat::kBgr8, PixelFormat::kMono12, PixelFormat::kBayerRggb8}) {
    const Image image(40, 52, format, 0, 9);
    const PreprocessRecipe recipe = recipe_of(16, 16);
    const std::vector<float> exact = run(image.frame, recipe);
    const std::vector<unsigned short> halves = run_plan<unsigned short>(
        image.frame, PreprocessPlan(recipe, image.frame, DType::kFloat16, 1), exact.size());
    for (std::size_t i = 0; i < exact.size(); ++i) {
      // Half a unit in the last of 11 bits.
      CHECK_NEAR(agp_edge::kernel::value_of_half(halves[i]), exact[i],
                 std::max(std::abs(exact[i]) * std::ldexp(1.0, -11), std::ldexp(1.0, -25)));
    }
  }
}

TEST(the_order_of_threads_changes_no_bit) {
  for (PixelFormat format : reference::kAllFormats) {
    const Image image(64, 98, format, 2, 4);
    const PreprocessRecipe recipe = recipe_of(24, 40);
    const std::vector<float> forward = run(image.frame, recipe);
    cuda_on_cpu::set_order(cuda_on_cpu::Order::kBackward);
    CHECK(run(image.frame, recipe) == forward);
    cuda_on_cpu::set_order(cuda_on_cpu::Order::kForward);
  }
}

TEST(what_does_not_fit_is_refused) {
  const Image image(4, 6000, PixelFormat::kBgr8, 0, 1);
  CHECK_THROWS(run(image.frame, recipe_of(2, 1)), FrameError, "open the model on the CPU");
  PreprocessRecipe recipe = recipe_of(2, 2);
  recipe.roi = Rect{0, 0, 6001, 4};
  CHECK_THROWS(run(image.frame, recipe), FrameError, "does not lie inside the frame of 6000 x 4");
}

// What the blocks load, all of them together; what two tiles share counts twice, though the L2
// cache has it the second time.
TEST(a_large_frame_is_read_about_once) {
  for (PixelFormat format : {PixelFormat::kBgr8, PixelFormat::kMono8, PixelFormat::kMono12,
                             PixelFormat::kBayerRggb8, PixelFormat::kNv12}) {
    const Image image(3000, 4096, format, 0, 1);
    const PreprocessPlan plan(recipe_of(256, 256), image.frame, DType::kFloat32, 132);
    double rows = 0;
    for (const auto& tile : plan.tiles) rows += tile.count;
    double columns = 0;
    for (int x = 0; x < 256; x += plan.params.tile_width) {
      const int last = std::min(x + plan.params.tile_width, 256) - 1;
      columns += plan.first[static_cast<std::size_t>(last)] + plan.params.taps -
                 plan.first[static_cast<std::size_t>(x)];
    }
    CHECK(rows * columns < 1.5 * 3000 * 4096);
    // Every processor of a large GPU has several blocks.
    CHECK(plan.grid_x * plan.grid_y >= 4 * 132);
  }
}

TEST(through_the_driver) {
  {
    CudaRig rig;
    const PreprocessRecipe recipe = recipe_of(16, 24);
    PreprocessCuda stage(rig.context, recipe, DType::kFloat32);
    CHECK_THROWS(stage.launch(0, 0), DeviceError, "was not prepared");
    const agp_edge::cuda::DeviceBuffer out(rig.context, 3 * 16 * 24 * sizeof(float));
    for (PixelFormat format : reference::kAllFormats) {
      const Image image(30, 46, format, 2, 8);
      const Image other(30, 46, format, 2, 9);
      Frame geometry = image.frame;
      geometry.data = nullptr;
      CHECK(stage.prepare(geometry, rig.stream.get()));
      CHECK(!stage.prepare(geometry, rig.stream.get()));
      const int allocations = fake_cuda::calls("cuMemAlloc_v2");
      const agp_edge::cuda::DeviceBuffer first(rig.context, image.bytes.size());
      const agp_edge::cuda::DeviceBuffer second(rig.context, other.bytes.size());
      rig.write(first, image.bytes.data(), image.bytes.size());
      rig.write(second, other.bytes.data(), other.bytes.size());
      for (const auto& [buffer, frame] :
           {std::pair{&first, &image.frame}, {&second, &other.frame}}) {
        stage.enqueue(rig.stream.get(), buffer->address(), out.address());
        const std::vector<char> bytes = rig.read(out.address(), out.bytes());
        std::vector<float> values(bytes.size() / sizeof(float));
        std::memcpy(values.data(), bytes.data(), bytes.size());
        CHECK_NEAR(difference(values, run_on_cpu(*frame, recipe)), 0, kTolerance);
      }
      CHECK(fake_cuda::calls("cuMemAlloc_v2") == allocations + 2);  // this test's own
    }
    Frame bad = Image(30, 46, PixelFormat::kBgr8, 0, 1).frame;
    bad.row_pitch = 5;
    CHECK_THROWS(stage.prepare(bad, rig.stream.get()), FrameError, "row pitch is 5 bytes");
    CHECK_THROWS(PreprocessCuda(rig.context, recipe_of(0, 4), DType::kFloat32),
                 agp_edge::ModelError, "4 x 0");
    for (const char* function : {"cuModuleLoadData", "cuDeviceGetAttribute"}) {
      const fake_cuda::Failing failing(function, 1);
      CHECK_THROWS(PreprocessCuda(rig.context, recipe, DType::kFloat32), DeviceError, "CUDA_ERROR");
    }
  }
  CHECK(fake_cuda::live() == 0);
}

CHECK_MAIN()
