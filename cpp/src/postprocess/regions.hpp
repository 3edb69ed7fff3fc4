// 8-connected regions of a mask, by runs and union-find.
//
// Owns     scratch memory, reused from call to call.
// Threads  one call at a time on one object.
#pragma once

#include <cstdint>
#include <vector>

#include "agp_edge/result.hpp"

namespace agp_edge {

class RegionFinder {
 public:
  // Room for every mask of this shape, so that find() allocates only inside `regions`.
  RegionFinder(int height, int width);

  // `mask`: (height, width), 0 or 1; regions of fewer than `min_area` pixels are erased in it.
  // `map`: (height, width), for the peaks. `view`: the part of the frame that both cover.
  // Fills `regions`, largest peak first; equal peaks from top to bottom, left to right.
  void find(std::uint8_t* mask, const float* map, const Rect& view, int min_area,
            std::vector<Region>& regions);

 private:
  struct Run {
    int y, begin, end;  // pixels [begin, end) of row y
    int parent;         // index of a run of the same region, never a later one
  };
  struct Part {
    int left, top, right, bottom;  // exclusive right and bottom, map pixels
    int area;
    float peak;
    int peak_x, peak_y;
  };

  int root(int run) noexcept;
  void collect_runs(const std::uint8_t* mask) noexcept;
  void join_runs() noexcept;

  int height_;
  int width_;
  std::vector<Run> runs_;
  int run_count_ = 0;
  std::vector<int> part_of_root_;
  std::vector<Part> parts_;
};

}  // namespace agp_edge
