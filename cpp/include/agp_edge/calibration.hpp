// The largest scores of held-out good parts: what p-values are read from.
//
// Owns     everything; a value.
// Threads  reading from any number of threads.
#pragma once

#include <vector>

namespace agp_edge {

struct CalibrationTail {
  int n = 0;                  // good parts that were scored in all
  std::vector<float> scores;  // the largest of their scores (each part's largest), rising

  // Throws ModelError unless there are 1 to n scores, finite and rising.
  void check() const;

  // Conformal p-value, in (0, 1]: (1 + good parts with at least this score) / (n + 1). A new good
  // part, exchangeable with the n, gets one of alpha or less with a probability of at most alpha,
  // for every alpha (Vovk, Gammerman, Shafer 2005). Below the listed scores it is 1, an upper
  // bound.
  double p_value(float score) const noexcept;
};

}  // namespace agp_edge
