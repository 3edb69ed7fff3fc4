#include "postprocess/postprocess_cuda.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "agp_edge/error.hpp"
#include "cuda/cuda_module.hpp"
#include "cuda/device_layout.hpp"
#include "postprocess/ignored_area.hpp"
#include "postprocess/postprocess_kernel.hpp"
#include "postprocess/postprocess_recipe.hpp"
#include "postprocess/regions.hpp"
#include "preprocess/resize_weights.hpp"

namespace agp_edge {
namespace {

using kernel::kBins;
using kernel::kDigits;
using kernel::kPostThreads;
using kernel::kSmoothColumns;

constexpr std::size_t kMostSharedBytes = std::size_t{48} << 10U;  // without asking
constexpr int kMostTileRows = 16;
constexpr int kPixelsPerThread = 16;  // of the kernels that search the map
constexpr int kMostSumBlocks = 64;
constexpr std::size_t kReduceBytes = kPostThreads * sizeof(kernel::BlockPeak);
// Histogram and the selection's scratch; sums and the same.
constexpr std::size_t kCountBytes = (kBins + kPostThreads + 2) * sizeof(unsigned);
constexpr std::size_t kSumBytes = kPostThreads * (sizeof(double) + sizeof(unsigned)) + 8;
constexpr std::size_t kPowerBytes = kPostThreads * sizeof(double);
static_assert(kPowerBytes >= kReduceBytes, "peaks and sums take turns");

int blocks_for(int outputs, int per_block) { return (outputs + per_block - 1) / per_block; }

std::size_t wide_bytes(const BandMatrix& down, int tile_rows) {
  int most = 0;
  for (int y = 0; y < down.output; y += tile_rows) {
    const int last = std::min(y + tile_rows, down.output) - 1;
    most = std::max(most, down.first[static_cast<std::size_t>(last)] + down.taps -
                              down.first[static_cast<std::size_t>(y)]);
  }
  return static_cast<std::size_t>(most) * kSmoothColumns * sizeof(float);
}

int choose_tile_rows(const BandMatrix& down) {
  for (int rows = kMostTileRows; rows >= 1; rows /= 2) {
    if (wide_bytes(down, rows) <= kMostSharedBytes) return rows;
  }
  throw ModelError("the anomaly map's blur reaches over " + std::to_string(down.taps) +
                   " rows of the model's output, more than the GPU's blur does in one step: open "
                   "the model on the CPU, or give it a smaller sigma");
}

}  // namespace

struct PostprocessCuda::Impl {
  Impl(std::shared_ptr<const cuda::Context> used, const PostprocessRecipe& r, DType grid_type);

  std::shared_ptr<const cuda::Context> context;
  PostprocessRecipe recipe;
  BandMatrix across;
  BandMatrix down;
  int map_size;
  int tile_rows;
  unsigned smooth_x, smooth_y;  // blocks
  int sum_blocks;

  // Places in `memory`.
  struct Places {
    std::size_t across_first, across, down_first, down, table_end;
    std::size_t ignored, peaks, histograms, sums, cut;
  } at{};
  // Places in `block`, of the prepared outputs.
  std::size_t mask_at = 0;
  std::size_t map_at = 0;
  std::size_t downloaded = 0;

  cuda::Module module;
  cuda::FunctionHandle smooth_function, count_function, sum_function, power_function,
      finish_function;
  std::unique_ptr<cuda::DeviceBuffer> memory;
  std::unique_ptr<cuda::DeviceBuffer> block;
  bool has_tables = false;

  IgnoredArea ignored;
  RegionFinder regions;
  std::vector<std::uint8_t> mask;  // where the result does not keep it

  // Prepared.
  bool is_prepared = false;
  Rect view;
  Decision decision;
  bool needs_map = false;   // downloaded
  bool needs_mask = false;  // the same

  // One launch each, with the parameters that they point to.
  cuda::Address grid = 0;
  kernel::SmoothParams smooth{};
  kernel::TopParams top{};
  kernel::PowerParams power{};
  int digits[kDigits] = {0, 1, 2};
  kernel::FinishParams finish{};
  void* smooth_parameters[2] = {&grid, &smooth};
  void* count_parameters[kDigits][2] = {{&top, &digits[0]}, {&top, &digits[1]}, {&top, &digits[2]}};
  void* sum_parameters[1] = {&top};
  void* power_parameters[1] = {&power};
  void* finish_parameters[1] = {&finish};

  bool keeps_ranks() const noexcept { return recipe.score == ScoreRule::kTopMean; }
  bool sums_powers() const noexcept { return recipe.score == ScoreRule::kPowerMean; }
  template <typename T>
  T* in_memory(std::size_t place) const {
    return reinterpret_cast<T*>(static_cast<char*>(memory->pointer()) + place);
  }
  template <typename T>
  T* in_block(std::size_t place) const {
    return reinterpret_cast<T*>(static_cast<char*>(block->pointer()) + place);
  }
  std::size_t block_bytes() const {
    DeviceLayout layout;
    layout.add(sizeof(kernel::PostprocessHeader));
    layout.add(static_cast<std::size_t>(map_size));
    layout.add(static_cast<std::size_t>(map_size) * sizeof(float));
    return layout.size();
  }

  void upload_tables(Stream stream);
  void set_params();
  void launch(Stream stream, cuda::FunctionHandle function, unsigned grid_x, unsigned grid_y,
              std::size_t shared_bytes, void** parameters);
};

PostprocessCuda::Impl::Impl(std::shared_ptr<const cuda::Context> used, const PostprocessRecipe& r,
                            DType grid_type)
    : context(std::move(used)),
      recipe(r),
      across(upsample_blur_weights(r.grid_width, r.map_width, r.sigma)),
      down(upsample_blur_weights(r.grid_height, r.map_height, r.sigma)),
      map_size(r.map_height * r.map_width),
      tile_rows(choose_tile_rows(down)),
      smooth_x(static_cast<unsigned>(blocks_for(r.map_width, kSmoothColumns))),
      smooth_y(static_cast<unsigned>(blocks_for(r.map_height, tile_rows))),
      sum_blocks(std::min(blocks_for(map_size, kPostThreads * kPixelsPerThread), kMostSumBlocks)),
      module(context, cuda::KernelSet::kPostprocess),
      smooth_function(module.function(grid_type == DType::kFloat16 ? "agp_edge_smooth_half"
                                                                   : "agp_edge_smooth")),
      count_function(module.function("agp_edge_top_count")),
      sum_function(module.function("agp_edge_top_sum")),
      power_function(module.function("agp_edge_power_sum")),
      finish_function(module.function("agp_edge_finish")),
      ignored(r.map_height, r.map_width),
      regions(r.map_height, r.map_width),
      mask(static_cast<std::size_t>(map_size)) {
  DeviceLayout layout;
  at.across_first = layout.add(across.first.size() * sizeof(int));
  at.across = layout.add(across.weights.size() * sizeof(float));
  at.down_first = layout.add(down.first.size() * sizeof(int));
  at.down = layout.add(down.weights.size() * sizeof(float));
  at.table_end = layout.size();
  at.ignored = layout.add(static_cast<std::size_t>(map_size));
  at.peaks = layout.add(smooth_x * smooth_y * sizeof(kernel::BlockPeak));
  at.histograms = layout.add(keeps_ranks() ? kDigits * kBins * sizeof(unsigned) : 0);
  at.sums = layout.add(static_cast<std::size_t>(sum_blocks) * sizeof(double));
  at.cut = layout.add(sizeof(kernel::TopCut));
  memory = std::make_unique<cuda::DeviceBuffer>(context, layout.size());
  block = std::make_unique<cuda::DeviceBuffer>(context, block_bytes());
}

void PostprocessCuda::Impl::upload_tables(Stream stream) {
  std::vector<char> host(at.table_end);
  std::memcpy(host.data() + at.across_first, across.first.data(),
              across.first.size() * sizeof(int));
  std::memcpy(host.data() + at.down_first, down.first.data(), down.first.size() * sizeof(int));
  std::memcpy(host.data() + at.down, down.weights.data(), down.weights.size() * sizeof(float));
  // Neighbouring threads read neighbouring outputs.
  std::vector<float> transposed;
  for (int t = 0; t < across.taps; ++t) {
    for (int x = 0; x < across.output; ++x) transposed.push_back(across.weight(x, t));
  }
  std::memcpy(host.data() + at.across, transposed.data(), transposed.size() * sizeof(float));
  cuda::upload_table(context, stream, memory->address(), host.data(), host.size());
  has_tables = true;
}

void PostprocessCuda::Impl::set_params() {
  needs_mask = (decision.outputs & (kMask | kRegions)) != 0;
  const bool finds_regions =
      needs_mask && ((decision.outputs & kRegions) != 0 || decision.min_area > 1);
  needs_map = (decision.outputs & kMap) != 0 || finds_regions;
  DeviceLayout layout;
  layout.add(sizeof(kernel::PostprocessHeader));
  mask_at = layout.add(needs_mask ? static_cast<std::size_t>(map_size) : 0);
  downloaded =
      needs_mask ? mask_at + static_cast<std::size_t>(map_size) : sizeof(kernel::PostprocessHeader);
  map_at = layout.size();  // also where the score needs it and the host does not
  if (needs_map) downloaded = map_at + static_cast<std::size_t>(map_size) * sizeof(float);

  smooth.across_first = in_memory<int>(at.across_first);
  smooth.across = in_memory<float>(at.across);
  smooth.down_first = in_memory<int>(at.down_first);
  smooth.down = in_memory<float>(at.down);
  smooth.ignored = ignored.empty() ? nullptr : in_memory<unsigned char>(at.ignored);
  smooth.map = needs_map || keeps_ranks() || sums_powers() ? in_block<float>(map_at) : nullptr;
  smooth.mask = needs_mask ? in_block<unsigned char>(mask_at) : nullptr;
  smooth.peaks = in_memory<kernel::BlockPeak>(at.peaks);
  smooth.histograms = keeps_ranks() ? in_memory<unsigned>(at.histograms) : nullptr;
  smooth.grid_height = recipe.grid_height;
  smooth.grid_width = recipe.grid_width;
  smooth.map_height = recipe.map_height;
  smooth.map_width = recipe.map_width;
  smooth.across_taps = across.taps;
  smooth.down_taps = down.taps;
  smooth.tile_rows = tile_rows;
  smooth.mask_threshold = decision.mask_threshold;

  const std::size_t counted =
      ignored.empty() ? static_cast<std::size_t>(map_size) : ignored.counted();
  top.map = smooth.map;
  top.ignored = smooth.ignored;
  top.histograms = smooth.histograms;
  top.sums = in_memory<double>(at.sums);
  top.cut = in_memory<kernel::TopCut>(at.cut);
  top.size = map_size;
  top.count = static_cast<unsigned>(top_count(recipe, counted));

  power.map = smooth.map;
  power.ignored = smooth.ignored;
  power.peaks = smooth.peaks;
  power.sums = top.sums;
  power.size = map_size;
  power.peak_count = static_cast<int>(smooth_x * smooth_y);
  power.power = recipe.power;
  power.least = least_share(recipe.power);

  finish.peaks = smooth.peaks;
  finish.sums = keeps_ranks() || sums_powers() ? top.sums : nullptr;
  finish.cut = keeps_ranks() ? top.cut : nullptr;
  finish.header = in_block<kernel::PostprocessHeader>(0);
  finish.peak_count = static_cast<int>(smooth_x * smooth_y);
  finish.sum_count = finish.sums == nullptr ? 0 : sum_blocks;
  finish.count = sums_powers() ? static_cast<unsigned>(counted) : top.count;
  finish.power = recipe.power;
}

void PostprocessCuda::Impl::launch(Stream stream, cuda::FunctionHandle function, unsigned grid_x,
                                   unsigned grid_y, std::size_t shared_bytes, void** parameters) {
  cuda::LaunchParams params{};
  params.function = function;
  params.grid_x = grid_x;
  params.grid_y = grid_y;
  params.grid_z = 1;
  params.block_x = kPostThreads;
  params.block_y = 1;
  params.block_z = 1;
  params.shared_bytes = static_cast<unsigned>(shared_bytes);
  params.parameters = parameters;
  cuda::launch(context->driver(), params, stream, "postprocessing on the GPU");
}

PostprocessCuda::PostprocessCuda(std::shared_ptr<const cuda::Context> context,
                                 const PostprocessRecipe& recipe, DType grid) {
  check(recipe);
  impl_ = std::make_unique<Impl>(std::move(context), recipe, grid);
}

PostprocessCuda::~PostprocessCuda() = default;

bool PostprocessCuda::prepare(const Rect& view, const Decision& decision, Stream stream) {
  Impl& impl = *impl_;
  const auto same_view = [](const Rect& a, const Rect& b) {
    return a.x == b.x && a.y == b.y && a.width == b.width && a.height == b.height;
  };
  const bool same_ignored = impl.decision.ignored == decision.ignored &&
                            (decision.ignored.empty() || same_view(impl.view, view));
  const bool same = impl.is_prepared && same_ignored && same_view(impl.view, view) &&
                    impl.decision.outputs == decision.outputs &&
                    impl.decision.min_area == decision.min_area &&
                    impl.decision.threshold == decision.threshold &&
                    impl.decision.mask_threshold == decision.mask_threshold;
  if (same) return false;
  impl.is_prepared = false;  // until everything below is there
  impl.ignored.draw(decision.ignored, view);
  if (!impl.has_tables) impl.upload_tables(stream);
  if (!impl.ignored.empty()) {
    cuda::upload_table(impl.context, stream, impl.memory->address() + impl.at.ignored,
                       impl.ignored.mask().data(), impl.ignored.mask().size());
  }
  impl.view = view;
  impl.decision = decision;
  impl.set_params();
  impl.is_prepared = true;
  return true;
}

void PostprocessCuda::enqueue(Stream stream, cuda::Address grid) {
  Impl& impl = *impl_;
  if (!impl.is_prepared) throw DeviceError("the GPU's postprocessing was not prepared");
  impl.grid = grid;
  impl.launch(stream, impl.smooth_function, impl.smooth_x, impl.smooth_y,
              std::max(wide_bytes(impl.down, impl.tile_rows), kReduceBytes),
              impl.smooth_parameters);
  if (impl.keeps_ranks()) {
    const unsigned blocks = static_cast<unsigned>(impl.sum_blocks);
    for (auto& parameters : impl.count_parameters) {
      impl.launch(stream, impl.count_function, blocks, 1, kCountBytes, parameters);
    }
    impl.launch(stream, impl.sum_function, blocks, 1, kSumBytes, impl.sum_parameters);
  }
  if (impl.sums_powers()) {
    impl.launch(stream, impl.power_function, static_cast<unsigned>(impl.sum_blocks), 1, kPowerBytes,
                impl.power_parameters);
  }
  impl.launch(stream, impl.finish_function, 1, 1, kReduceBytes, impl.finish_parameters);
}

cuda::Address PostprocessCuda::result() const noexcept { return impl_->block->address(); }
std::size_t PostprocessCuda::result_bytes() const noexcept { return impl_->downloaded; }
std::size_t PostprocessCuda::most_result_bytes() const noexcept { return impl_->block->bytes(); }

void PostprocessCuda::finish(const void* block, Result& result) {
  Impl& impl = *impl_;
  const char* const bytes = static_cast<const char*>(block);
  kernel::PostprocessHeader header;
  std::memcpy(&header, bytes, sizeof(header));
  check_finite(impl.recipe, header.bad);

  const Decision& decision = impl.decision;
  const std::size_t size = static_cast<std::size_t>(impl.map_size);
  const float* const map = reinterpret_cast<const float*>(bytes + impl.map_at);
  result.map_height = impl.recipe.map_height;
  result.map_width = impl.recipe.map_width;
  if ((decision.outputs & kMap) != 0) {
    result.anomaly_map.assign(map, map + size);
  } else {
    result.anomaly_map.clear();
  }
  result.score = header.score;
  result.threshold = decision.threshold;
  result.is_anomalous = result.score > decision.threshold;

  result.regions.clear();
  const bool keep_mask = (decision.outputs & kMask) != 0;
  const bool find_regions = (decision.outputs & kRegions) != 0;
  result.mask.resize(keep_mask ? size : 0);
  if (!keep_mask && !find_regions) return;
  std::uint8_t* const mask = keep_mask ? result.mask.data() : impl.mask.data();
  if (header.largest <= decision.mask_threshold) {  // good frames, nearly all there are
    std::fill(mask, mask + size, std::uint8_t{0});
    return;
  }
  std::memcpy(mask, bytes + impl.mask_at, size);
  if (find_regions || decision.min_area > 1) {
    impl.regions.find(mask, map, impl.view, decision.min_area, result.regions);
    if (!find_regions) result.regions.clear();
  }
}

}  // namespace agp_edge
