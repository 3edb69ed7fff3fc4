#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "agp_edge/error.hpp"
#include "agp_edge/preprocess.hpp"
#include "cpu/thread_pool.hpp"
#include "frame/format_lines.hpp"
#include "preprocess/preprocess_recipe.hpp"
#include "preprocess/resample_cpu.hpp"
#include "preprocess/resize_weights.hpp"
#include "preprocess/vertical_pass.hpp"

namespace agp_edge {
namespace {

// Below this many bytes of frame a second thread costs more in waking than it saves.
constexpr std::size_t kBytesPerThread = std::size_t{4} << 20;
constexpr int kMaxThreads = 8;

}  // namespace

struct Preprocessor::Impl {
  PreprocessRecipe recipe;
  int threads;
  const ResampleKernels& kernels = resample_kernels();

  // Of the last frame geometry.
  int frame_height = 0;
  int frame_width = 0;
  PixelLayout layout = PixelLayout::kColour8;
  RedPixel red{0, 0};
  int channels = 0;   // of a line
  bool plain = true;  // rows of 8-bit values: `vertical` reads them, else `format_lines`
  Rect view;
  VerticalPass vertical;
  FormatLines format_lines;
  std::vector<FormatLines::Scratch> format_scratch;  // one per worker
  HorizontalTable horizontal;
  std::unique_ptr<ThreadPool> pool;
  std::size_t line_stride = 0;
  std::vector<float> lines;                       // kLinesAtOnce lines and a carry per worker
  std::vector<const std::uint8_t*> row_pointers;  // vertical.max_rows() per worker
  std::vector<float> row_weights;                 // the same

  void plan(const Frame& frame);
  int wanted_threads(std::size_t bytes) const;
  void rows(const Frame& frame, float* out, int begin, int end, int worker);
};

int Preprocessor::Impl::wanted_threads(std::size_t bytes) const {
  if (threads != 0) return threads;
  const std::size_t cores = static_cast<std::size_t>(std::min(usable_cores(), kMaxThreads));
  return static_cast<int>(std::clamp<std::size_t>(bytes / kBytesPerThread, 1, cores));
}

void Preprocessor::Impl::plan(const Frame& frame) {
  const PixelLayout frame_layout = layout_of(frame.format);
  const RedPixel frame_red = red_pixel(frame.format);
  if (frame.height == frame_height && frame.width == frame_width && frame_layout == layout &&
      frame_red.x == red.x && frame_red.y == red.y) {
    return;
  }
  const Rect region = view_of(recipe, frame);
  frame_height = 0;  // until the tables below are all there
  view = region;
  layout = frame_layout;
  red = frame_red;
  plain = layout == PixelLayout::kColour8 || layout == PixelLayout::kMono8;
  channels = layout == PixelLayout::kMono8 || layout == PixelLayout::kMono16 ? 1 : 3;
  if (plain) {
    vertical = VerticalPass(recipe.resize, view.height, recipe.height);
  } else {
    format_lines = FormatLines(recipe.resize, frame, view, recipe.height);
  }
  horizontal = HorizontalTable(resize_weights(recipe.resize, view.width, recipe.width), channels);

  const std::size_t columns = static_cast<std::size_t>(view.width) * channels;
  const int wanted = wanted_threads(columns * static_cast<std::size_t>(view.height));
  if (pool == nullptr || pool->threads() != wanted) pool = std::make_unique<ThreadPool>(wanted);
  const std::size_t workers = static_cast<std::size_t>(wanted);
  const std::size_t max_rows = static_cast<std::size_t>(vertical.max_rows());
  line_stride = (columns + kLinePadding + 15) / 16 * 16;
  lines.assign(workers * (kLinesAtOnce + 1) * line_stride, 0.0F);
  row_pointers.assign(workers * max_rows, nullptr);
  row_weights.assign(workers * max_rows, 0.0F);
  format_scratch.clear();
  if (!plain) format_scratch.assign(workers, format_lines.make_scratch());
  frame_height = frame.height;
  frame_width = frame.width;
}

void Preprocessor::Impl::rows(const Frame& frame, float* out, int begin, int end, int worker) {
  const std::size_t slot = static_cast<std::size_t>(worker);
  const std::size_t max_rows = static_cast<std::size_t>(vertical.max_rows());
  float* line = lines.data() + slot * (kLinesAtOnce + 1) * line_stride;
  const VerticalPass::Scratch scratch{line + kLinesAtOnce * line_stride,
                                      row_pointers.data() + slot * max_rows,
                                      row_weights.data() + slot * max_rows};
  RowSource source{};
  if (plain) {
    source = RowSource{frame.data + static_cast<std::size_t>(view.y) * frame.row_pitch +
                           static_cast<std::size_t>(view.x) * channels,
                       frame.row_pitch, view.width * channels};
  }

  // Channel c of the line goes to plane target[c].
  const bool swap = channels == 3 &&
                    (frame.format != PixelFormat::kBgr8) != (recipe.channels == ChannelOrder::kRgb);
  const int target[3] = {swap ? 2 : 0, 1, swap ? 0 : 2};
  const std::size_t width = static_cast<std::size_t>(recipe.width);
  const std::size_t plane = static_cast<std::size_t>(recipe.height) * width;
  const float unit = 255.0F / static_cast<float>(largest_value(frame.format));
  Normalisation normal;
  for (int c = 0; c < 3; ++c) {
    normal.scale[c] = unit / recipe.stddev[target[c]];
    normal.offset[c] = -recipe.mean[target[c]] / recipe.stddev[target[c]];
  }
  FormatLines::Scratch* const converted = plain ? nullptr : &format_scratch[slot];
  if (plain) {
    vertical.start(kernels, source, begin, scratch, line);
  } else {
    format_lines.start(*converted);
  }
  for (int y = begin; y < end; y += kLinesAtOnce) {
    const int count = std::min(kLinesAtOnce, end - y);
    for (int l = 0; l < count; ++l) {
      float* const to = line + l * line_stride;
      if (plain) {
        vertical.line(kernels, source, y + l, scratch, to);
      } else {
        format_lines.line(kernels, frame, y + l, *converted, to);
      }
    }
    PlaneRows rows{{}, width};
    for (int c = 0; c < 3; ++c) rows.planes[c] = out + target[c] * plane + y * width;
    (channels == 3 ? kernels.resample_colour : kernels.resample_mono)(line, line_stride, count,
                                                                      horizontal, normal, rows);
  }
}

Preprocessor::Preprocessor(const PreprocessRecipe& recipe, int threads) {
  check(recipe);
  if (threads < 0) {
    throw Error("the number of preprocessing threads is " + std::to_string(threads) +
                "; expected 0 (chosen by the frame's size) or more");
  }
  impl_ = std::make_unique<Impl>();
  impl_->recipe = recipe;
  impl_->threads = threads;
}

Preprocessor::~Preprocessor() = default;
Preprocessor::Preprocessor(Preprocessor&&) noexcept = default;
Preprocessor& Preprocessor::operator=(Preprocessor&&) noexcept = default;

const PreprocessRecipe& Preprocessor::recipe() const noexcept { return impl_->recipe; }

void Preprocessor::run(const Frame& frame, float* out) {
  frame.validate();
  if (frame.memory != Memory::kHost) {
    throw FrameError(
        "the frame is in the memory of a GPU, this preprocessing is the CPU's: copy it "
        "to host memory");
  }
  Impl& impl = *impl_;
  impl.plan(frame);
  const int height = impl.recipe.height;
  const int threads = impl.pool->threads();
  // Whole groups of lines, two chunks a thread: enough to even out a worker that wakes late.
  const int groups = (height + kLinesAtOnce - 1) / kLinesAtOnce;
  const int step =
      threads == 1 ? height : (groups + 2 * threads - 1) / (2 * threads) * kLinesAtOnce;
  impl.pool->run((height + step - 1) / step, [&](int chunk, int worker) {
    const int begin = chunk * step;
    impl.rows(frame, out, begin, std::min(begin + step, height), worker);
  });
}

}  // namespace agp_edge
