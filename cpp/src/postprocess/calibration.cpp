#include "agp_edge/calibration.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include "agp_edge/error.hpp"

namespace agp_edge {

void CalibrationTail::check() const {
  const bool finite =
      std::all_of(scores.begin(), scores.end(), [](float score) { return std::isfinite(score); });
  if (scores.empty() || n < 1 || scores.size() > static_cast<std::size_t>(n) || !finite ||
      !std::is_sorted(scores.begin(), scores.end())) {
    throw ModelError("the calibration tail has " + std::to_string(scores.size()) +
                     " scores of n = " + std::to_string(n) +
                     " parts, 1 to n finite and rising scores are expected");
  }
}

double CalibrationTail::p_value(float score) const noexcept {
  // NaN is above nothing: the comparison is written so that it gets 1.
  const bool is_below = scores.empty() || !(score >= scores.front());
  if (is_below && scores.size() < static_cast<std::size_t>(n)) return 1;
  const auto at_least = scores.end() - std::lower_bound(scores.begin(), scores.end(), score);
  return (1.0 + static_cast<double>(at_least)) / (static_cast<double>(n) + 1.0);
}

}  // namespace agp_edge
