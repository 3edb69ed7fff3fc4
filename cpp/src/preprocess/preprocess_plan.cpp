#include "preprocess/preprocess_plan.hpp"

#include <algorithm>
#include <cstddef>
#include <string>

#include "agp_edge/error.hpp"
#include "frame/bayer_weights.hpp"
#include "preprocess/preprocess_recipe.hpp"
#include "preprocess/resize_weights.hpp"

namespace agp_edge {
namespace {

using kernel::kTileRows;

constexpr unsigned kMostSharedBytes = 48U << 10U;  // that a kernel has without asking

constexpr int kBlocksPerProcessor = 4;
constexpr unsigned kWarp = 32;

// What a layout's kernel does with a block.
struct Shape {
  const char* kernel;
  unsigned threads;   // at most
  int channels;       // of a line
  int lanes;          // values of a unit
  int lines_per_row;  // in shared memory
};

Shape shape_of(PixelLayout layout) {
  switch (layout) {
    case PixelLayout::kColour8:
      return {"agp_edge_preprocess_colour8", 256, 3, 4, 1};
    case PixelLayout::kMono8:
      return {"agp_edge_preprocess_mono8", 256, 1, 4, 1};
    case PixelLayout::kMono16:
      return {"agp_edge_preprocess_mono16", 256, 1, 2, 1};
    case PixelLayout::kBayer8:
      return {"agp_edge_preprocess_bayer8", 128, 1, 4, 3};
    case PixelLayout::kBayer16:
      return {"agp_edge_preprocess_bayer16", 128, 1, 2, 3};
    case PixelLayout::kNv12:
      break;
  }
  return {"agp_edge_preprocess_nv12", 256, 3, 6, 1};
}

// Values of the longest line of a block that makes `tile_width` outputs; the first unit may begin
// one unit early.
int most_values(const std::vector<int>& first, int taps, int tile_width, const Shape& shape) {
  int most = 0;
  const int width = static_cast<int>(first.size());
  for (int x = 0; x < width; x += tile_width) {
    const int last = std::min(x + tile_width, width) - 1;
    const int columns =
        first[static_cast<std::size_t>(last)] + taps - first[static_cast<std::size_t>(x)];
    most = std::max(most, columns * shape.channels);
  }
  return (most + 2 * shape.lanes - 2) / shape.lanes * shape.lanes;
}

int blocks_for(int outputs, int per_block) { return (outputs + per_block - 1) / per_block; }

// One float4 per frame row of a tile and matrix, side by side.
void fill_down(const std::vector<const BandMatrix*>& matrices, PreprocessPlan& plan) {
  const BandMatrix& shape = *matrices.front();
  for (int y = 0; y < shape.output; y += kTileRows) {
    const int last = std::min(y + kTileRows, shape.output) - 1;
    kernel::RowTile tile;
    tile.begin = shape.first[static_cast<std::size_t>(y)];
    tile.count = shape.first[static_cast<std::size_t>(last)] + shape.taps - tile.begin;
    tile.weights = static_cast<int>(plan.down.size());
    for (int j = 0; j < tile.count; ++j) {
      for (const BandMatrix* matrix : matrices) {
        for (int row = y; row < y + kTileRows; ++row) {
          const int tap =
              row > last ? -1 : tile.begin + j - shape.first[static_cast<std::size_t>(row)];
          plan.down.push_back(tap < 0 || tap >= shape.taps ? 0.0F : matrix->weight(row, tap));
        }
      }
    }
    plan.tiles.push_back(tile);
  }
}

void append_transposed(const BandMatrix& matrix, float factor, std::vector<float>& out) {
  for (int t = 0; t < matrix.taps; ++t) {
    for (int i = 0; i < matrix.output; ++i) out.push_back(factor * matrix.weight(i, t));
  }
}

BandMatrix combined(const BayerAxis& axis, float beside) {
  BandMatrix sum = axis.own;
  for (std::size_t i = 0; i < sum.weights.size(); ++i) {
    sum.weights[i] += beside * axis.beside.weights[i];
  }
  return sum;
}

void fill_tables(const PreprocessRecipe& recipe, const Frame& frame, const Rect& view,
                 PreprocessPlan& plan) {
  BandMatrix rows = resize_weights(recipe.resize, view.height, recipe.height);
  BandMatrix columns = resize_weights(recipe.resize, view.width, recipe.width);
  const PixelLayout layout = layout_of(frame.format);
  if (layout == PixelLayout::kBayer8 || layout == PixelLayout::kBayer16) {
    const BayerAxis down = bayer_axis(rows, view.y, frame.height);
    const BandMatrix colour = combined(down, 1.0F);
    const BandMatrix own = combined(down, 0.5F);
    fill_down({&colour, &own, &down.own}, plan);
    const BayerAxis across = bayer_axis(columns, view.x, frame.width);
    plan.first = across.own.first;
    append_transposed(across.own, 1.0F, plan.across);
    append_transposed(across.beside, 0.5F, plan.across);
    plan.params.taps = across.own.taps;
    return;
  }
  for (int& first : rows.first) first += view.y;
  for (int& first : columns.first) first += view.x;
  fill_down({&rows}, plan);
  plan.first = columns.first;
  append_transposed(columns, 1.0F, plan.across);
  plan.params.taps = columns.taps;
}

// As wide as one unit per thread and the shared memory allow, then narrower until the grid holds
// two blocks for each processor.
int choose_tile_width(const PreprocessPlan& plan, const Shape& shape, int out_width,
                      int processors) {
  const auto stride = [&](int width) {
    return kernel::skewed(most_values(plan.first, plan.params.taps, width, shape)) + 1;
  };
  const auto fits = [&](int width) {
    const int values = most_values(plan.first, plan.params.taps, width, shape);
    return values <= static_cast<int>(shape.threads) * shape.lanes;
  };
  int low = 1;  // the widest that fits; 1 does in any case: threads then take several units
  for (int high = out_width; low < high;) {
    const int middle = (low + high + 1) / 2;
    if (fits(middle)) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  const int row_blocks = static_cast<int>(plan.tiles.size());
  while (low > 8 && blocks_for(out_width, low) * row_blocks < kBlocksPerProcessor * processors)
    low = (low + 1) / 2;
  return static_cast<std::size_t>(stride(low)) * shape.lines_per_row * kTileRows * sizeof(float) <=
                 kMostSharedBytes
             ? low
             : 0;
}

}  // namespace

PreprocessPlan::PreprocessPlan(const PreprocessRecipe& recipe, const Frame& frame, DType output,
                               int processors) {
  const Rect view = view_of(recipe, frame);
  const Shape shape = shape_of(layout_of(frame.format));
  fill_tables(recipe, frame, view, *this);
  const int tile_width = choose_tile_width(*this, shape, recipe.width, processors);
  if (tile_width == 0) {
    throw FrameError("the frame of " + std::to_string(view.width) + " x " +
                     std::to_string(view.height) + " pixels is to become " +
                     std::to_string(recipe.width) + " x " + std::to_string(recipe.height) +
                     ", more than the GPU's resize does in one step: choose a region of interest, "
                     "or open the model on the CPU");
  }
  kernel = shape.kernel;
  const int values = most_values(first, params.taps, tile_width, shape);
  const unsigned units = static_cast<unsigned>(values / shape.lanes);
  threads = std::min((units + kWarp - 1) / kWarp * kWarp, shape.threads);
  grid_x = static_cast<unsigned>(blocks_for(recipe.width, tile_width));
  grid_y = static_cast<unsigned>(tiles.size());
  params.line_stride = kernel::skewed(values) + 1;
  shared_bytes = static_cast<unsigned>(params.line_stride * shape.lines_per_row * kTileRows) *
                 static_cast<unsigned>(sizeof(float));
  params.out_is_half = output == DType::kFloat16 ? 1 : 0;
  params.pitch = frame.row_pitch;
  params.frame_width = frame.width;
  params.frame_height = frame.height;
  params.out_height = recipe.height;
  params.out_width = recipe.width;
  params.tile_width = tile_width;
  params.red_x = red_pixel(frame.format).x;
  params.red_y = red_pixel(frame.format).y;
  const bool swap = (frame.format != PixelFormat::kBgr8) != (recipe.channels == ChannelOrder::kRgb);
  const float unit = 255.0F / static_cast<float>(largest_value(frame.format));
  for (int plane = 0; plane < 3; ++plane) {
    params.channel_of_plane[plane] = swap ? 2 - plane : plane;
    params.scale[plane] = unit / recipe.stddev[static_cast<std::size_t>(plane)];
    params.offset[plane] = -recipe.mean[static_cast<std::size_t>(plane)] /
                           recipe.stddev[static_cast<std::size_t>(plane)];
  }
}

}  // namespace agp_edge
