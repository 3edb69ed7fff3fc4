// One fused kernel per layout of a frame: resize down the columns in registers, then along the rows
// out of shared memory, then colour order, normalisation and the network's planes.
//
// A block makes kTileRows x tile_width outputs. Each thread owns a few neighbouring values of a
// frame row (a `unit`: one 32-bit word where it can be) and walks down the rows that the tile
// needs, so a row is loaded once per block, in whole words, whatever the format; the rows and
// columns that two tiles share come from the L2 cache the second time.
#include "cuda/cuda_kernel.hpp"
#include "frame/nv12.hpp"
#include "preprocess/preprocess_kernel.hpp"

namespace agp_edge::kernel {
namespace {

// 2^23 as a float: with an integer below 2^16 in its low bits it is 2^23 + integer. Twice as fast
// as a conversion on most architectures.
constexpr unsigned kMagic = 0x4B000000U;
constexpr float kMagicValue = 8388608.0F;

AGP_EDGE_DEVICE float byte_of(unsigned word, int k) {
  return __uint_as_float(__byte_perm(word, kMagic, 0x7440U | static_cast<unsigned>(k))) -
         kMagicValue;
}

AGP_EDGE_DEVICE float half_of(unsigned word, int k) {
  const unsigned low = static_cast<unsigned>(2 * k);
  return __uint_as_float(__byte_perm(word, kMagic, 0x7400U | ((low + 1) << 4) | low)) - kMagicValue;
}

// Columns [begin, end) of the frame that the block's outputs need.
struct Columns {
  int begin;
  int end;
};

AGP_EDGE_DEVICE Columns tile_columns(const PreprocessParams& p) {
  const int x = static_cast<int>(blockIdx.x) * p.tile_width;
  const int last = min(x + p.tile_width, p.out_width) - 1;
  return {p.first[x], p.first[last] + p.taps};
}

// Values of Value (unsigned char or unsigned short), kChannels a pixel; a unit is one word of them.
template <typename Value, int kChannels>
struct Words {
  static constexpr int kLanes = 4 / static_cast<int>(sizeof(Value));

  const unsigned char* row_zero;  // the unit in frame row 0
  unsigned long long pitch;
  int lane_begin, lane_end;  // lanes that lie inside the row
  bool whole;                // all do, and every row's word is aligned

  // Values between the first aligned word and the first column of the tile.
  AGP_EDGE_DEVICE static int lead(const unsigned char* frame, const PreprocessParams& p,
                                  const Columns& columns) {
    if ((p.pitch & 3U) != 0) return 0;
    const unsigned long long at =
        reinterpret_cast<unsigned long long>(frame) +
        static_cast<unsigned long long>(columns.begin) * kChannels * sizeof(Value);
    return static_cast<int>((at & 3U) / sizeof(Value));
  }

  AGP_EDGE_DEVICE Words(const unsigned char* frame, const PreprocessParams& p, int value)
      : pitch(p.pitch) {
    const int row_values = p.frame_width * kChannels;
    row_zero = frame + static_cast<long long>(value) * static_cast<int>(sizeof(Value));
    lane_begin = max(0, -value);
    lane_end = min(kLanes, row_values - value);
    whole = lane_begin == 0 && lane_end == kLanes && (p.pitch & 3U) == 0 &&
            (reinterpret_cast<unsigned long long>(row_zero) & 3U) == 0;
  }

  template <bool kWhole>
  AGP_EDGE_DEVICE void load(int row, float* values) const {
    const unsigned char* at = row_zero + static_cast<unsigned long long>(row) * pitch;
    if (kWhole) {
      const unsigned word = __ldg(reinterpret_cast<const unsigned*>(at));
      AGP_EDGE_UNROLL(kLanes)
      for (int k = 0; k < kLanes; ++k) {
        values[k] = sizeof(Value) == 1 ? byte_of(word, k) : half_of(word, k);
      }
    } else {
      AGP_EDGE_UNROLL(kLanes)
      for (int k = 0; k < kLanes; ++k) {
        const bool inside = k >= lane_begin && k < lane_end;
        values[k] =
            inside ? static_cast<float>(__ldg(reinterpret_cast<const Value*>(at) + k)) : 0.0F;
      }
    }
  }
};

// Two pixels that share their colour, as six values.
struct Nv12Pairs {
  static constexpr int kLanes = 6;

  const unsigned char* luma;
  const unsigned char* chroma;
  unsigned long long pitch;
  static constexpr bool whole = true;

  AGP_EDGE_DEVICE static int lead(const unsigned char*, const PreprocessParams&,
                                  const Columns& columns) {
    return 3 * (columns.begin & 1);
  }

  AGP_EDGE_DEVICE Nv12Pairs(const unsigned char* frame, const PreprocessParams& p, int value)
      : luma(frame + value / 3),
        chroma(frame + static_cast<unsigned long long>(p.frame_height) * p.pitch + value / 3),
        pitch(p.pitch) {}

  template <bool>
  AGP_EDGE_DEVICE void load(int row, float* values) const {
    const unsigned char* y = luma + static_cast<unsigned long long>(row) * pitch;
    const unsigned char* uv = chroma + static_cast<unsigned long long>(row / 2) * pitch;
    const nv12::Chroma colour = nv12::chroma(__ldg(uv), __ldg(uv + 1));
    AGP_EDGE_UNROLL(2)
    for (int k = 0; k < 2; ++k) {
      const int brightness = nv12::brightness(__ldg(y + k));
      values[3 * k] = static_cast<float>(nv12::pixel(brightness + colour.red));
      values[3 * k + 1] = static_cast<float>(nv12::pixel(brightness + colour.green));
      values[3 * k + 2] = static_cast<float>(nv12::pixel(brightness + colour.blue));
    }
  }
};

AGP_EDGE_DEVICE void add(float4& sum, const float4& weights, float value) {
  sum.x += weights.x * value;
  sum.y += weights.y * value;
  sum.z += weights.z * value;
  sum.w += weights.w * value;
}

// `sum` holds value `i` of the tile's kTileRows lines, which begin `line` floats apart.
AGP_EDGE_DEVICE void store(float* lines, int stride, int i, const float4& sum) {
  float* at = lines + skewed(i);
  at[0] = sum.x;
  at[stride] = sum.y;
  at[2 * stride] = sum.z;
  at[3 * stride] = sum.w;
}

// Walks down the tile's rows.
template <bool kWhole, typename Unit>
AGP_EDGE_DEVICE void sum_rows(const Unit& unit, const RowTile& tile, const float4* down,
                              float4* sums) {
  AGP_EDGE_UNROLL_BY_8
  for (int j = 0; j < tile.count; ++j) {
    float values[Unit::kLanes];
    unit.template load<kWhole>(tile.begin + j, values);
    const float4 weights = __ldg(down + j);
    AGP_EDGE_UNROLL(Unit::kLanes)
    for (int k = 0; k < Unit::kLanes; ++k) add(sums[k], weights, values[k]);
  }
}

template <typename Unit, int kChannels>
AGP_EDGE_DEVICE void make_lines(const unsigned char* frame, const PreprocessParams& p,
                                const Columns& columns, int lead, float* lines) {
  const RowTile tile = p.tiles[blockIdx.y];
  const float4* down = reinterpret_cast<const float4*>(p.down + tile.weights);
  const int begin = columns.begin * kChannels - lead;
  const int count = columns.end * kChannels - begin;
  for (int i = static_cast<int>(threadIdx.x) * Unit::kLanes; i < count;
       i += static_cast<int>(blockDim.x) * Unit::kLanes) {
    const Unit unit(frame, p, begin + i);
    float4 sums[Unit::kLanes] = {};
    if (unit.whole) {
      sum_rows<true>(unit, tile, down, sums);
    } else {
      sum_rows<false>(unit, tile, down, sums);
    }
    AGP_EDGE_UNROLL(Unit::kLanes)
    for (int k = 0; k < Unit::kLanes; ++k) store(lines, p.line_stride, i + k, sums[k]);
  }
}

// Without an index that is not known when compiling, which would copy the parameters to the stack.
template <typename T>
AGP_EDGE_DEVICE T at_plane(const T (&values)[3], int plane) {
  return plane == 0 ? values[0] : plane == 1 ? values[1] : values[2];
}

AGP_EDGE_DEVICE void write_plane(const PreprocessParams& p, int plane, int y, int x, float value) {
  const long long at = (static_cast<long long>(plane) * p.out_height + y) * p.out_width + x;
  const float normalised = value * at_plane(p.scale, plane) + at_plane(p.offset, plane);
  if (p.out_is_half != 0) {
    static_cast<unsigned short*>(p.out)[at] = half_bits(normalised);
  } else {
    static_cast<float*>(p.out)[at] = normalised;
  }
}

// Interleaved colour: one thread an output value. Mono: one an output pixel, into three planes.
template <int kChannels>
AGP_EDGE_DEVICE void resize_lines(const PreprocessParams& p, const Columns& columns, int lead,
                                  const float* lines) {
  const int x_begin = static_cast<int>(blockIdx.x) * p.tile_width;
  const int y_begin = static_cast<int>(blockIdx.y) * kTileRows;
  const int width = min(p.tile_width, p.out_width - x_begin);
  const int rows = min(kTileRows, p.out_height - y_begin);
  for (int i = static_cast<int>(threadIdx.x); i < rows * kChannels * width;
       i += static_cast<int>(blockDim.x)) {
    const int x = x_begin + i % width;
    const int plane = i / width % kChannels;
    const int row = i / (width * kChannels);
    const int channel = kChannels == 1 ? 0 : at_plane(p.channel_of_plane, plane);
    const float* line = lines + row * p.line_stride;
    int at = (p.first[x] - columns.begin) * kChannels + lead + channel;
    const float* weight = p.across + x;
    float sum = 0;
    for (int t = 0; t < p.taps; ++t, at += kChannels, weight += p.out_width) {
      sum += __ldg(weight) * line[skewed(at)];
    }
    if (kChannels == 1) {
      AGP_EDGE_UNROLL(3)
      for (int each = 0; each < 3; ++each) write_plane(p, each, y_begin + row, x, sum);
    } else {
      write_plane(p, plane, y_begin + row, x, sum);
    }
  }
}

template <typename Unit, int kChannels>
AGP_EDGE_DEVICE void preprocess(const unsigned char* frame, const PreprocessParams& p) {
  AGP_EDGE_SHARED(lines);
  const Columns columns = tile_columns(p);
  const int lead = Unit::lead(frame, p, columns);
  make_lines<Unit, kChannels>(frame, p, columns, lead, lines);
  __syncthreads();
  resize_lines<kChannels>(p, columns, lead, lines);
}

// Sums of one raw column in the tile's rows; see bayer_weights.hpp.
struct BayerSums {
  float4 colour;  // red or blue, whichever the column has
  float4 own;     // green, for its own column
  float4 beside;  // green, for the columns beside it
};

template <bool kWhole, typename Unit>
AGP_EDGE_DEVICE void sum_bayer_rows(const Unit& unit, const RowTile& tile, const float4* down,
                                    int parity, BayerSums* sums) {
  AGP_EDGE_UNROLL_BY_4
  for (int j = 0; j < tile.count; ++j) {
    float values[Unit::kLanes];
    unit.template load<kWhole>(tile.begin + j, values);
    const float4 colour = __ldg(down + 3 * j);
    const float4 own = __ldg(down + 3 * j + 1);
    const float4 beside = __ldg(down + 3 * j + 2);
    // All threads agree: units begin an even number of columns apart.
    if (((tile.begin + j) & 1) == parity) {
      AGP_EDGE_UNROLL(Unit::kLanes)
      for (int k = 0; k < Unit::kLanes; k += 2) {
        add(sums[k].colour, colour, values[k]);
        add(sums[k + 1].own, own, values[k + 1]);
        add(sums[k + 1].beside, beside, values[k + 1]);
      }
    } else {
      AGP_EDGE_UNROLL(Unit::kLanes)
      for (int k = 0; k < Unit::kLanes; k += 2) {
        add(sums[k].own, own, values[k]);
        add(sums[k].beside, beside, values[k]);
        add(sums[k + 1].colour, colour, values[k + 1]);
      }
    }
  }
}

template <typename Unit>
AGP_EDGE_DEVICE void preprocess_bayer(const unsigned char* frame, const PreprocessParams& p) {
  AGP_EDGE_SHARED(lines);
  const Columns columns = tile_columns(p);
  const int lead = Unit::lead(frame, p, columns);
  const int begin = columns.begin - lead;
  const int count = columns.end - begin;
  float* const own_lines = lines + kTileRows * p.line_stride;
  float* const beside_lines = own_lines + kTileRows * p.line_stride;
  const RowTile tile = p.tiles[blockIdx.y];
  const float4* down = reinterpret_cast<const float4*>(p.down + tile.weights);
  // Rows of this parity have red or blue in the even lanes of a unit.
  const int parity = (begin + p.red_x + p.red_y) & 1;
  for (int i = static_cast<int>(threadIdx.x) * Unit::kLanes; i < count;
       i += static_cast<int>(blockDim.x) * Unit::kLanes) {
    const Unit unit(frame, p, begin + i);
    BayerSums sums[Unit::kLanes] = {};
    if (unit.whole) {
      sum_bayer_rows<true>(unit, tile, down, parity, sums);
    } else {
      sum_bayer_rows<false>(unit, tile, down, parity, sums);
    }
    AGP_EDGE_UNROLL(Unit::kLanes)
    for (int k = 0; k < Unit::kLanes; ++k) {
      store(lines, p.line_stride, i + k, sums[k].colour);
      store(own_lines, p.line_stride, i + k, sums[k].own);
      store(beside_lines, p.line_stride, i + k, sums[k].beside);
    }
  }
  __syncthreads();

  const int x_begin = static_cast<int>(blockIdx.x) * p.tile_width;
  const int y_begin = static_cast<int>(blockIdx.y) * kTileRows;
  const int width = min(p.tile_width, p.out_width - x_begin);
  const int rows = min(kTileRows, p.out_height - y_begin);
  for (int i = static_cast<int>(threadIdx.x); i < rows * width; i += static_cast<int>(blockDim.x)) {
    const int x = x_begin + i % width;
    const int row = i / width;
    const int first = p.first[x];
    const float* own_weight = p.across + x;
    const float* beside_weight = own_weight + static_cast<long long>(p.taps) * p.out_width;
    float colour[2] = {};  // of every second column: the first tap's, the second's
    float green = 0;
    for (int t = 0; t < p.taps; ++t) {
      const int at = row * p.line_stride + skewed(first - begin + t);
      const float own = __ldg(own_weight + static_cast<long long>(t) * p.out_width);
      const float half_beside = __ldg(beside_weight + static_cast<long long>(t) * p.out_width);
      const float product = (own + 2 * half_beside) * lines[at];
      colour[0] += (t & 1) == 0 ? product : 0.0F;
      colour[1] += (t & 1) == 0 ? 0.0F : product;
      green += own * own_lines[at] + half_beside * beside_lines[at];
    }
    const bool red_first = ((first + p.red_x) & 1) == 0;
    const float red = red_first ? colour[0] : colour[1];
    const float blue = red_first ? colour[1] : colour[0];
    AGP_EDGE_UNROLL(3)
    for (int plane = 0; plane < 3; ++plane) {
      const int channel = at_plane(p.channel_of_plane, plane);
      write_plane(p, plane, y_begin + row, x, channel == 0 ? red : channel == 1 ? green : blue);
    }
  }
}

}  // namespace

// The frame's address comes first, so that a graph's node can be given another one.
AGP_EDGE_KERNEL(256)
agp_edge_preprocess_colour8(const unsigned char* frame, PreprocessParams p) {
  preprocess<Words<unsigned char, 3>, 3>(frame, p);
}
AGP_EDGE_KERNEL(256)
agp_edge_preprocess_mono8(const unsigned char* frame, PreprocessParams p) {
  preprocess<Words<unsigned char, 1>, 1>(frame, p);
}
AGP_EDGE_KERNEL(256)
agp_edge_preprocess_mono16(const unsigned char* frame, PreprocessParams p) {
  preprocess<Words<unsigned short, 1>, 1>(frame, p);
}
AGP_EDGE_KERNEL(256)
agp_edge_preprocess_nv12(const unsigned char* frame, PreprocessParams p) {
  preprocess<Nv12Pairs, 3>(frame, p);
}
AGP_EDGE_KERNEL(128)
agp_edge_preprocess_bayer8(const unsigned char* frame, PreprocessParams p) {
  preprocess_bayer<Words<unsigned char, 1>>(frame, p);
}
AGP_EDGE_KERNEL(128)
agp_edge_preprocess_bayer16(const unsigned char* frame, PreprocessParams p) {
  preprocess_bayer<Words<unsigned short, 1>>(frame, p);
}

}  // namespace agp_edge::kernel
