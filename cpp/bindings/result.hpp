// A Result handed to Python.
//
// Owns     Python objects: made and destroyed with the GIL held.
#pragma once

#include <pybind11/numpy.h>

#include "agp_edge/result.hpp"

namespace agp_edge::bindings {

struct NativeResult {
  // Takes the map's and mask's memory over, without a copy: it lives as long as the arrays.
  explicit NativeResult(Result result);

  float score;
  float threshold;
  bool is_anomalous;
  std::optional<double> p_value;
  Rect view;
  pybind11::object anomaly_map;  // None where it was not asked for
  pybind11::object mask;
  std::vector<Region> regions;
  Latency latency;
};

}  // namespace agp_edge::bindings
