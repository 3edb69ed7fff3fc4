// What PreprocessCuda hands to its kernels; the layout is the same for host and device.
#pragma once

#include "cuda/host_device.hpp"

namespace agp_edge::kernel {

// Output rows of a block: a frame row is loaded once and weighed into all of them.
constexpr int kTileRows = 4;

// Frame rows [begin, begin + count) reach the output rows of one tile; their weights are
// count x kTileRows (three times that for bayer) floats from `weights` on.
struct RowTile {
  int begin;
  int count;
  int weights;
};

struct PreprocessParams {
  const RowTile* tiles;  // one per kTileRows output rows
  // Per frame row of a tile one float4: its weight in each output row. Bayer: three, the weights of
  // red and blue, of green as its own column's, of green as its neighbours'.
  const float* down;
  const int* first;     // (out_width): frame column of the first tap
  const float* across;  // (taps, out_width); bayer: own, then half of beside, see bayer_weights.hpp
  void* out;            // (3, out_height, out_width)
  int out_is_half;      // FP16, else float
  unsigned long long pitch;
  int frame_width;
  int frame_height;
  int out_height;
  int out_width;
  int taps;
  int tile_width;   // output columns of a block
  int line_stride;  // floats of one line in shared memory
  int red_x;        // bayer: first red pixel
  int red_y;
  int channel_of_plane[3];  // 0 red or blue as in memory, 2 the other
  float scale[3];           // of each plane: out = value * scale + offset
  float offset[3];
};

// Where value i of a line lies in shared memory: neighbours that are a multiple of 32 apart, which
// is what a resize by a power of two asks for at once, fall into different banks.
AGP_EDGE_HOST_DEVICE constexpr int skewed(int i) { return i + (i >> 5); }

}  // namespace agp_edge::kernel
