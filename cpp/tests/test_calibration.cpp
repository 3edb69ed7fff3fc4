#include <limits>

#include "agp_edge/calibration.hpp"
#include "agp_edge/error.hpp"
#include "check.hpp"

using agp_edge::CalibrationTail;
using agp_edge::ModelError;

TEST(equal_scores_count_as_at_least_as_high) {
  const CalibrationTail all{3, {1, 2, 2}};
  CHECK(all.p_value(0) == 1.0);
  CHECK(all.p_value(1) == 1.0);
  CHECK(all.p_value(1.5F) == 0.75);
  CHECK(all.p_value(2) == 0.75);
  CHECK(all.p_value(2.5F) == 0.25);
}

TEST(below_the_tail_nothing_is_known) {
  const CalibrationTail tail{99, {5, 6}};
  CHECK(tail.p_value(4.9F) == 1.0);
  CHECK(tail.p_value(5) == 0.03);
  CHECK(tail.p_value(7) == 0.01);
  CHECK(tail.p_value(std::numeric_limits<float>::quiet_NaN()) == 1.0);
}

TEST(impossible_tails_are_refused) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  CHECK_THROWS((CalibrationTail{0, {}}.check()), ModelError, "0 scores of n = 0");
  CHECK_THROWS((CalibrationTail{1, {1, 2}}.check()), ModelError, "2 scores of n = 1");
  CHECK_THROWS((CalibrationTail{2, {2, 1}}.check()), ModelError, "rising");
  CHECK_THROWS((CalibrationTail{2, {1, kInfinity}}.check()), ModelError, "finite");
  CalibrationTail{2, {1, 1}}.check();
}

CHECK_MAIN()
