// What PostprocessCuda hands to its kernels, and what they leave; the layout is the same for host
// and device.
#pragma once

namespace agp_edge::kernel {

constexpr int kPostThreads = 256;   // of every block
constexpr int kSmoothColumns = 32;  // of a block's tile of the map

// Radix select over 32 bits, most significant first: 11, 11 and 10 bits.
constexpr int kDigits = 3;
constexpr int kBins = 2048;

// What one block of the smoothing kernel found.
struct BlockPeak {
  float largest;  // of the pixels that are not ignored; -infinity without any
  unsigned bad;   // values of its part of the grid that are not finite
};

// The first bytes of the result block.
struct PostprocessHeader {
  float score;
  float largest;
  unsigned bad;  // values of the grid that are not finite
  unsigned reserved;
};

struct SmoothParams {
  const int* across_first;       // (map_width)
  const float* across;           // (across_taps, map_width)
  const int* down_first;         // (map_height)
  const float* down;             // (map_height, down_taps)
  const unsigned char* ignored;  // (map_height, map_width), 1 ignored; or null
  float* map;                    // (map_height, map_width); or null
  unsigned char* mask;           // the same; or null
  BlockPeak* peaks;              // one per block
  unsigned* histograms;          // (kDigits, kBins), zeroed here; or null
  int grid_height, grid_width;
  int map_height, map_width;
  int across_taps, down_taps;
  int tile_rows;
  float mask_threshold;
};

// The count-th largest value of the map.
struct TopCut {
  float value;
  unsigned taken;  // how many of those that equal it belong to the count
};

struct TopParams {
  const float* map;
  const unsigned char* ignored;  // or null
  unsigned* histograms;
  double* sums;  // one per block of the summing kernel: of its values above the cut
  TopCut* cut;
  int size;        // pixels of the map
  unsigned count;  // of the largest that are averaged
};

struct PowerParams {
  const float* map;
  const unsigned char* ignored;  // or null
  const BlockPeak* peaks;
  double* sums;  // one per block of the summing kernel
  int size;      // pixels of the map
  int peak_count;
  int power;
  float least;  // shares of the largest value below it count as 0
};

struct FinishParams {
  const BlockPeak* peaks;
  const double* sums;  // null: the score is the largest value
  const TopCut* cut;   // null: the sums are of powers
  PostprocessHeader* header;
  int peak_count;
  int sum_count;   // 0 without
  unsigned count;  // of values that are averaged
  int power;
};

}  // namespace agp_edge::kernel
