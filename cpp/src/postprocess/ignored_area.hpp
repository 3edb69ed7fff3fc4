// The part of the anomaly map that has no say in the verdict: don't-care polygons, drawn once.
//
// Owns     one byte per map pixel and a copy of the polygons that it was drawn from.
// Threads  not re-entrant.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "agp_edge/frame.hpp"
#include "agp_edge/postprocess.hpp"

namespace agp_edge {

class IgnoredArea {
 public:
  IgnoredArea(int map_height, int map_width) : height_(map_height), width_(map_width) {}

  // Draws the polygons (frame pixels) into the map of `view`, unless they are drawn already; a
  // pixel is ignored when its centre lies inside one of them (even-odd rule). Throws FrameError
  // when nothing is left to judge.
  void draw(const std::vector<Polygon>& polygons, const Rect& view);

  bool empty() const noexcept { return mask_.empty(); }
  std::size_t counted() const noexcept { return counted_; }  // pixels that are not ignored

  // (map_height, map_width), 1 where ignored; none when empty().
  const std::vector<std::uint8_t>& mask() const noexcept { return mask_; }

  // The functions below ask for drawn polygons: !empty().
  float largest(const float* map) const noexcept;                  // of the counted pixels
  void copy_counted(const float* map, float* out) const noexcept;  // `counted()` values
  void clear(std::uint8_t* mask) const noexcept;                   // zeros where ignored

 private:
  void draw_one(const Polygon& polygon);

  int height_;
  int width_;
  Rect view_;
  std::vector<Polygon> polygons_;
  std::vector<std::uint8_t> mask_;  // 1: ignored; empty: no polygons
  std::size_t counted_ = 0;
  std::vector<double> crossings_;
};

}  // namespace agp_edge
