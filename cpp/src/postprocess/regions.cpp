#include "postprocess/regions.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>

namespace agp_edge {

RegionFinder::RegionFinder(int height, int width) : height_(height), width_(width) {
  // Runs of one row are at least one pixel apart.
  const std::size_t runs = static_cast<std::size_t>(height) * ((width + 1) / 2);
  runs_.resize(runs);
  part_of_root_.resize(runs);
  // Isolated pixels are 8-connected unless a row and a column lie between them.
  parts_.resize(static_cast<std::size_t>((height + 1) / 2) * ((width + 1) / 2));
}

int RegionFinder::root(int run) noexcept {
  while (runs_[run].parent != run) {
    runs_[run].parent = runs_[runs_[run].parent].parent;
    run = runs_[run].parent;
  }
  return run;
}

void RegionFinder::collect_runs(const std::uint8_t* mask) noexcept {
  run_count_ = 0;
  for (int y = 0; y < height_; ++y) {
    const std::uint8_t* row = mask + static_cast<std::size_t>(y) * width_;
    for (int x = 0; x < width_;) {
      const void* found = std::memchr(row + x, 1, static_cast<std::size_t>(width_ - x));
      if (found == nullptr) break;
      const int begin = static_cast<int>(static_cast<const std::uint8_t*>(found) - row);
      found = std::memchr(row + begin, 0, static_cast<std::size_t>(width_ - begin));
      x = found == nullptr ? width_
                           : static_cast<int>(static_cast<const std::uint8_t*>(found) - row);
      runs_[run_count_] = Run{y, begin, x, run_count_};
      ++run_count_;
    }
  }
}

void RegionFinder::join_runs() noexcept {
  int above = 0;  // first run that can still touch the current one
  for (int i = 0; i < run_count_; ++i) {
    const Run run = runs_[i];
    while (above < i && (runs_[above].y < run.y - 1 ||
                         (runs_[above].y == run.y - 1 && runs_[above].end < run.begin))) {
      ++above;
    }
    for (int j = above; j < i && runs_[j].y == run.y - 1 && runs_[j].begin <= run.end; ++j) {
      const int a = root(i);
      const int b = root(j);
      runs_[std::max(a, b)].parent = std::min(a, b);
    }
  }
}

void RegionFinder::find(std::uint8_t* mask, const float* map, const Rect& view, int min_area,
                        std::vector<Region>& regions) {
  regions.clear();
  collect_runs(mask);
  join_runs();

  int part_count = 0;
  for (int i = 0; i < run_count_; ++i) {
    const Run& run = runs_[i];
    const int top = root(i);
    if (top == i) {
      part_of_root_[i] = part_count;
      parts_[part_count++] =
          Part{run.begin, run.y, run.end,
               run.y + 1, 0,     map[static_cast<std::size_t>(run.y) * width_ + run.begin],
               run.begin, run.y};
    }
    Part& part = parts_[part_of_root_[top]];
    part.left = std::min(part.left, run.begin);
    part.right = std::max(part.right, run.end);
    part.bottom = run.y + 1;
    part.area += run.end - run.begin;
    const float* row = map + static_cast<std::size_t>(run.y) * width_;
    for (int x = run.begin; x < run.end; ++x) {
      if (row[x] > part.peak) {
        part.peak = row[x];
        part.peak_x = x;
        part.peak_y = run.y;
      }
    }
  }

  const double scale_x = static_cast<double>(view.width) / width_;
  const double scale_y = static_cast<double>(view.height) / height_;
  for (int i = 0; i < part_count; ++i) {
    const Part& part = parts_[i];
    if (part.area < min_area) continue;
    Region region;
    const int left = static_cast<int>(std::floor(part.left * scale_x));
    const int top = static_cast<int>(std::floor(part.top * scale_y));
    region.box =
        Rect{view.x + left, view.y + top, static_cast<int>(std::ceil(part.right * scale_x)) - left,
             static_cast<int>(std::ceil(part.bottom * scale_y)) - top};
    region.area = part.area;
    region.frame_area = part.area * scale_x * scale_y;
    region.peak = part.peak;
    region.peak_x = view.x + static_cast<int>((part.peak_x + 0.5) * scale_x);
    region.peak_y = view.y + static_cast<int>((part.peak_y + 0.5) * scale_y);
    regions.push_back(region);
  }
  if (min_area > 1) {
    for (int i = 0; i < run_count_; ++i) {
      const Run& run = runs_[i];
      if (parts_[part_of_root_[root(i)]].area >= min_area) continue;
      std::memset(mask + static_cast<std::size_t>(run.y) * width_ + run.begin, 0,
                  static_cast<std::size_t>(run.end - run.begin));
    }
  }
  // Ties keep the order in which the regions begin: std::stable_sort would allocate.
  std::sort(regions.begin(), regions.end(), [](const Region& a, const Region& b) {
    if (a.peak != b.peak) return a.peak > b.peak;
    if (a.box.y != b.box.y) return a.box.y < b.box.y;
    return a.box.x < b.box.x;
  });
}

}  // namespace agp_edge
