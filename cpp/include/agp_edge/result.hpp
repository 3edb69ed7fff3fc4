// What the line gets for one frame.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <optional>
#include <vector>

#include "agp_edge/frame.hpp"

namespace agp_edge {

// One connected (8-neighbour) part of the mask.
struct Region {
  Rect box;               // frame pixels, the region of interest's offset included
  int area = 0;           // pixels of the anomaly map that belong to it
  double frame_area = 0;  // the same in frame pixels
  float peak = 0;         // largest value of the anomaly map inside
  int peak_x = 0;         // where that is, frame pixels
  int peak_y = 0;
};

// Milliseconds of the steady clock; the total counts from the call. With PipelineOptions.
// device_times the parts on a GPU are the GPU's own, and starting it and waking up are in none.
struct Latency {
  double wait_ms = 0;  // for room in the queue and for a free pipeline: other frames' time
  std::optional<double> copy_ms;       // to the GPU, by the CPU and by the GPU; device_times only
  std::optional<double> copy_back_ms;  // device_times only
  double preprocess_ms = 0;
  double execute_ms = 0;
  double postprocess_ms = 0;
  double total_ms = 0;
};

struct Result {
  float score = 0;            // raw, never squeezed or clipped; larger is more anomalous
  float threshold = 0;        // the one used
  bool is_anomalous = false;  // score > threshold
  Rect view;                  // what was judged: the region of interest, or the whole frame
  // Set by Detector where there is a calibration tail: CalibrationTail::p_value of the score.
  std::optional<double> p_value;
  int map_height = 0;
  int map_width = 0;
  std::vector<float> anomaly_map;  // map_height x map_width, row-major; covers the ROI
  std::vector<std::uint8_t> mask;  // the same shape; 1 where the map exceeds the mask threshold
  std::vector<Region> regions;     // largest peak first
  Latency latency;
};

// What became of a frame that was handed in.
struct Answer {
  Result result;
  std::exception_ptr error;  // null, or why there is no result
};
using Answered = std::function<void(Answer&&)>;

}  // namespace agp_edge
