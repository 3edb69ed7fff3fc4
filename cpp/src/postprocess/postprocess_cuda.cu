// Grid -> anomaly map, mask and score. Same grid, same bits: sums have a fixed order, and what is
// counted by atomics is whole numbers.
#include "cuda/cuda_kernel.hpp"
#include "postprocess/postprocess_kernel.hpp"

namespace agp_edge::kernel {
namespace {

AGP_EDGE_DEVICE int thread() { return static_cast<int>(threadIdx.x); }

AGP_EDGE_DEVICE int block() { return static_cast<int>(blockIdx.y * gridDim.x + blockIdx.x); }

AGP_EDGE_DEVICE int blocks() { return static_cast<int>(gridDim.x * gridDim.y); }

AGP_EDGE_DEVICE bool is_counted(const unsigned char* ignored, int i) {
  return ignored == nullptr || __ldg(ignored + i) == 0;
}

// Of a grid of floats, or of FP16 numbers.
template <bool kHalf>
AGP_EDGE_DEVICE float grid_value(const void* grid, int i) {
  if (kHalf) return value_of_half(__ldg(static_cast<const unsigned short*>(grid) + i));
  return __ldg(static_cast<const float*>(grid) + i);
}

AGP_EDGE_DEVICE float no_peak() { return __uint_as_float(0xFF800000U); }  // -infinity

// Whether others can be shares of it.
AGP_EDGE_DEVICE bool is_normal(float largest) { return largest >= 1.17549435e-38F; }

// Largest peak and sum of the bad ones, in thread 0. `scratch`: kPostThreads of them.
AGP_EDGE_DEVICE BlockPeak reduce(BlockPeak mine, BlockPeak* scratch) {
  scratch[thread()] = mine;
  for (int step = kPostThreads / 2; step > 0; step /= 2) {
    __syncthreads();
    if (thread() < step) {
      const BlockPeak other = scratch[thread() + step];
      mine.largest = max(mine.largest, other.largest);
      mine.bad += other.bad;
      scratch[thread()] = mine;
    }
  }
  return mine;
}

// The peaks that the smoothing left as one, in thread 0.
AGP_EDGE_DEVICE BlockPeak reduce_all(const BlockPeak* peaks, int count, BlockPeak* scratch) {
  BlockPeak peak = {no_peak(), 0};
  for (int i = thread(); i < count; i += kPostThreads) {
    peak.largest = max(peak.largest, peaks[i].largest);
    peak.bad += peaks[i].bad;
  }
  return reduce(peak, scratch);
}

// Sum in thread 0. `scratch`: kPostThreads numbers.
AGP_EDGE_DEVICE double reduce(double mine, double* scratch) {
  scratch[thread()] = mine;
  for (int step = kPostThreads / 2; step > 0; step /= 2) {
    __syncthreads();
    if (thread() < step) {
      mine += scratch[thread() + step];
      scratch[thread()] = mine;
    }
  }
  return mine;
}

// value^power by squaring; `power` is at least 1.
AGP_EDGE_DEVICE float to_power(float value, int power) {
  float result = 1;
  for (; power > 1; power /= 2) {
    if (power % 2 != 0) result *= value;
    value *= value;
  }
  return result * value;
}

// Floats in an order that unsigned numbers have too.
AGP_EDGE_DEVICE unsigned key_of(float value) {
  const unsigned bits = __float_as_uint(value);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

AGP_EDGE_DEVICE float value_of(unsigned key) {
  return __uint_as_float((key & 0x80000000U) != 0 ? key & 0x7FFFFFFFU : ~key);
}

AGP_EDGE_DEVICE int shift_of(int digit) { return digit == 0 ? 21 : digit == 1 ? 10 : 0; }

AGP_EDGE_DEVICE unsigned digit_of(unsigned key, int digit) {
  return (key >> shift_of(digit)) & (digit == 2 ? 1023U : 2047U);
}

struct Selection {
  unsigned prefix;  // the digits found, in place
  unsigned rank;    // among the values that have them, from 1
};

// The digit of the value that has this rank, largest first. All threads of the block take part;
// `scratch`: kPostThreads + 2 numbers.
AGP_EDGE_DEVICE Selection select(const unsigned* histogram, int digit, const Selection& before,
                                 unsigned* scratch) {
  constexpr int kBinsPerThread = kBins / kPostThreads;
  const int top = kBins - 1 - thread() * kBinsPerThread;  // this thread's bins, downwards
  unsigned mine = 0;
  for (int i = 0; i < kBinsPerThread; ++i) mine += histogram[top - i];
  __syncthreads();
  scratch[thread()] = mine;
  unsigned upto = mine;  // and all threads before
  for (int step = 1; step < kPostThreads; step *= 2) {
    __syncthreads();
    const unsigned other = thread() >= step ? scratch[thread() - step] : 0;
    __syncthreads();
    upto += other;
    scratch[thread()] = upto;
  }
  unsigned above = upto - mine;
  if (above < before.rank && before.rank <= upto) {
    int bin = top;
    while (above + histogram[bin] < before.rank) above += histogram[bin--];
    scratch[kPostThreads] = before.prefix | (static_cast<unsigned>(bin) << shift_of(digit));
    scratch[kPostThreads + 1] = before.rank - above;
  }
  __syncthreads();
  return {scratch[kPostThreads], scratch[kPostThreads + 1]};
}

AGP_EDGE_DEVICE Selection select_upto(const TopParams& p, int digits, unsigned* scratch) {
  Selection found = {0, p.count};
  for (int digit = 0; digit < digits; ++digit) {
    found = select(p.histograms + digit * kBins, digit, found, scratch);
  }
  return found;
}

// Upsampling and blur, one banded matrix per axis: rows of the grid become wide rows in shared
// memory, those the tile's rows of the map.
template <bool kHalf>
AGP_EDGE_DEVICE void smooth(const void* grid, const SmoothParams& p) {
  AGP_EDGE_SHARED(wide);
  const int lane = thread() % kSmoothColumns;
  const int group = thread() / kSmoothColumns;
  const int groups = kPostThreads / kSmoothColumns;
  const int x = static_cast<int>(blockIdx.x) * kSmoothColumns + lane;
  const int y_begin = static_cast<int>(blockIdx.y) * p.tile_rows;
  const int y_end = min(y_begin + p.tile_rows, p.map_height);
  const int row_begin = p.down_first[y_begin];
  const int row_end = p.down_first[y_end - 1] + p.down_taps;
  const bool inside = x < p.map_width;

  const int first = inside ? p.across_first[x] : 0;
  for (int row = row_begin + group; row < row_end; row += groups) {
    const int values = row * p.grid_width + first;
    float sum = 0;
    if (inside) {
      for (int t = 0; t < p.across_taps; ++t) {
        sum += __ldg(p.across + t * p.map_width + x) * grid_value<kHalf>(grid, values + t);
      }
    }
    wide[(row - row_begin) * kSmoothColumns + lane] = sum;
  }
  __syncthreads();

  BlockPeak peak = {no_peak(), 0};
  for (int y = y_begin + group; y < y_end; y += groups) {
    if (!inside) continue;
    const float* weights = p.down + y * p.down_taps;
    const float* column = wide + (p.down_first[y] - row_begin) * kSmoothColumns + lane;
    float value = 0;
    for (int t = 0; t < p.down_taps; ++t) value += __ldg(weights + t) * column[t * kSmoothColumns];
    const int i = y * p.map_width + x;
    const bool counted = is_counted(p.ignored, i);
    if (counted) peak.largest = max(peak.largest, value);
    if (p.map != nullptr) p.map[i] = value;
    if (p.mask != nullptr) {
      p.mask[i] = static_cast<unsigned char>(counted && value > p.mask_threshold ? 1 : 0);
    }
  }

  const int stride = blocks() * kPostThreads;
  for (int i = block() * kPostThreads + thread(); i < p.grid_height * p.grid_width; i += stride) {
    const unsigned bits = __float_as_uint(grid_value<kHalf>(grid, i));
    peak.bad += (bits & 0x7F800000U) == 0x7F800000U ? 1U : 0U;
  }
  if (p.histograms != nullptr) {
    for (int i = block() * kPostThreads + thread(); i < kDigits * kBins; i += stride) {
      p.histograms[i] = 0;
    }
  }
  __syncthreads();  // `wide` is free
  peak = reduce(peak, reinterpret_cast<BlockPeak*>(wide));
  if (thread() == 0) p.peaks[block()] = peak;
}

}  // namespace

AGP_EDGE_KERNEL(256) agp_edge_smooth(const void* grid, SmoothParams p) { smooth<false>(grid, p); }
AGP_EDGE_KERNEL(256) agp_edge_smooth_half(const void* grid, SmoothParams p) {
  smooth<true>(grid, p);
}

// Counts one digit of the values that share the digits before it with the count-th largest.
AGP_EDGE_KERNEL(256) agp_edge_top_count(TopParams p, int digit) {
  AGP_EDGE_SHARED(shared);
  unsigned* const bins = reinterpret_cast<unsigned*>(shared);
  for (int i = thread(); i < kBins; i += kPostThreads) bins[i] = 0;
  const Selection found = select_upto(p, digit, bins + kBins);
  __syncthreads();
  const int stride = blocks() * kPostThreads;
  for (int i = block() * kPostThreads + thread(); i < p.size; i += stride) {
    if (!is_counted(p.ignored, i)) continue;
    const unsigned key = key_of(p.map[i]);
    if (digit > 0 && key >> shift_of(digit - 1) != found.prefix >> shift_of(digit - 1)) continue;
    atomicAdd(bins + digit_of(key, digit), 1U);
  }
  __syncthreads();
  for (int i = thread(); i < kBins; i += kPostThreads) {
    if (bins[i] != 0) atomicAdd(p.histograms + digit * kBins + i, bins[i]);
  }
}

// Sums what lies above the count-th largest value.
AGP_EDGE_KERNEL(256) agp_edge_top_sum(TopParams p) {
  AGP_EDGE_SHARED(shared);
  double* const sums = reinterpret_cast<double*>(shared);
  const Selection found =
      select_upto(p, kDigits, reinterpret_cast<unsigned*>(shared + 2 * kPostThreads));
  const int stride = blocks() * kPostThreads;
  double mine = 0;
  for (int i = block() * kPostThreads + thread(); i < p.size; i += stride) {
    if (is_counted(p.ignored, i) && key_of(p.map[i]) > found.prefix) {
      mine += static_cast<double>(p.map[i]);
    }
  }
  mine = reduce(mine, sums);
  if (thread() != 0) return;
  p.sums[block()] = mine;
  if (block() == 0) *p.cut = {value_of(found.prefix), found.rank};
}

// Sums the powers of the values' shares of the largest.
AGP_EDGE_KERNEL(256) agp_edge_power_sum(PowerParams p) {
  AGP_EDGE_SHARED(shared);
  BlockPeak* const peaks = reinterpret_cast<BlockPeak*>(shared);
  reduce_all(p.peaks, p.peak_count, peaks);
  __syncthreads();
  const float largest = peaks[0].largest;
  __syncthreads();  // the sums take its place
  const float scale = is_normal(largest) ? 1.0F / largest : 0.0F;
  const int stride = blocks() * kPostThreads;
  double mine = 0;
  for (int i = block() * kPostThreads + thread(); i < p.size; i += stride) {
    const float share = p.map[i] * scale;
    if (is_counted(p.ignored, i) && share > p.least) {
      mine += static_cast<double>(to_power(share, p.power));
    }
  }
  mine = reduce(mine, reinterpret_cast<double*>(shared));
  if (thread() == 0) p.sums[block()] = mine;
}

// One block: the score and what the host checks.
AGP_EDGE_KERNEL(256) agp_edge_finish(FinishParams p) {
  AGP_EDGE_SHARED(shared);
  const BlockPeak peak = reduce_all(p.peaks, p.peak_count, reinterpret_cast<BlockPeak*>(shared));
  if (thread() != 0) return;
  float score = peak.largest;
  double sum = 0;
  for (int i = 0; i < p.sum_count; ++i) sum += p.sums[i];
  if (p.cut != nullptr) {
    sum += static_cast<double>(p.cut->taken) * static_cast<double>(p.cut->value);
    score = static_cast<float>(sum / static_cast<double>(p.count));
  } else if (p.sums != nullptr && is_normal(peak.largest)) {
    score = static_cast<float>(static_cast<double>(peak.largest) *
                               pow(sum / static_cast<double>(p.count), 1.0 / p.power));
  }
  *p.header = {score, peak.largest, peak.bad, 0};
}

}  // namespace agp_edge::kernel
