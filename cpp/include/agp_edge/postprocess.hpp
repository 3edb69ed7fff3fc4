// Distance grid -> anomaly map, image score, mask, regions.
//
// Owns     the combined upsample-and-blur tables and scratch memory.
// Borrows  the grid for the length of run().
// Threads  not re-entrant: one run() at a time on one object. Starts none: a tenth of a millisecond
//          is not worth sharing.
// Blocks   run() returns when the result is written; it allocates only inside the result.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "agp_edge/frame.hpp"
#include "agp_edge/result.hpp"

namespace agp_edge {

//   kMax        largest value of the anomaly map
//   kTopMean    mean of the largest `top_share` of its values
//   kPowerMean  mean(max(value, 0)^power)^(1 / power) over its values: near the largest where that
//               stands out, a mean of many where a wide area is a little raised. Where no value is
//               above 0 it is the largest.
enum class ScoreRule : std::uint8_t { kMax, kTopMean, kPowerMean };

const char* to_string(ScoreRule rule) noexcept;
ScoreRule score_rule_from(const std::string& name);  // "max", "top_mean", "power_mean"

// Bits of Decision::outputs; the score is always there.
enum Outputs : std::uint8_t { kScoreOnly = 0, kMap = 1, kMask = 2, kRegions = 4, kAll = 7 };

struct PostprocessRecipe {
  int grid_height = 0;  // of the engine's output
  int grid_width = 0;
  int map_height = 0;  // of the anomaly map: the network's input size
  int map_width = 0;
  // Gaussian, standard deviation in map pixels, cut at 4 sigma, border reflected without repeating
  // the edge (cv2.BORDER_REFLECT_101); 0: none. Applied after bilinear half-pixel upsampling.
  float sigma = 0.0F;
  ScoreRule score = ScoreRule::kMax;
  float top_share = 0.01F;  // (0, 1], of the map's pixels; kTopMean only
  int power = 24;           // 1 to 64; kPowerMean only
};

// What may change from one call to the next.
struct Decision {
  float threshold = 0.0F;       // of the score: anomalous when score > threshold
  float mask_threshold = 0.0F;  // of the map: in the mask when value > mask_threshold
  int min_area = 0;             // regions of fewer map pixels leave mask and list
  std::uint8_t outputs = kAll;
  // Don't-care areas, frame pixels: score, mask and regions ignore what lies inside; the anomaly
  // map shows it all the same. A share of pixels (kTopMean) is a share of those that are left.
  std::vector<Polygon> ignored;
};

class Postprocessor {
 public:
  explicit Postprocessor(const PostprocessRecipe& recipe);
  ~Postprocessor();
  Postprocessor(Postprocessor&&) noexcept;
  Postprocessor& operator=(Postprocessor&&) noexcept;

  const PostprocessRecipe& recipe() const noexcept;

  // `grid`: float32 (grid_height, grid_width). `view`: the part of the frame that the map covers,
  // frame pixels; regions are given in it. Reuses the result's memory.
  // Throws ModelError when the grid holds a value that is not finite, FrameError when the
  // don't-care areas leave nothing of the view.
  void run(const float* grid, const Rect& view, const Decision& decision, Result& result);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace agp_edge
