// Scores every image of a folder: score_folder MODEL.onnx FOLDER [THRESHOLD]
//
// One line per image: verdict, score, milliseconds, file. Ends with 0 if all are good, 3 if any is
// anomalous, 1 after an error (one line on stderr), 2 when called wrongly.
#include <agp_edge/detector.hpp>
#include <agp_edge/error.hpp>
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "image.hpp"

namespace {

std::vector<std::string> images_in(const std::string& folder) {
  if (!std::filesystem::is_directory(folder)) {
    throw agp_edge::DataError("'" + folder + "' is not a folder, one with images is expected");
  }
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.is_regular_file() && is_image(entry.path().string())) {
      paths.push_back(entry.path().string());
    }
  }
  if (paths.empty()) throw agp_edge::DataError("no image that can be read is in '" + folder + "'");
  std::sort(paths.begin(), paths.end());
  return paths;
}

int score_folder(const std::string& model, const std::string& folder,
                 const agp_edge::DetectorOptions& options) {
  agp_edge::Detector detector(model, options);
  bool any_anomalous = false;
  for (const std::string& path : images_in(folder)) {
    const Image image = read_image(path);
    const agp_edge::Result result = detector.score(image.frame());
    any_anomalous = any_anomalous || result.is_anomalous;
    std::printf("%-9s score %.6g  %.2f ms  %s\n", result.is_anomalous ? "anomalous" : "good",
                static_cast<double>(result.score), result.latency.total_ms, path.c_str());
  }
  return any_anomalous ? 3 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  agp_edge::DetectorOptions options;
  options.outputs = agp_edge::kScoreOnly;
  bool is_usage_right = argc == 3 || argc == 4;
  if (argc == 4) {
    float threshold = 0;
    const char* const end = argv[3] + std::strlen(argv[3]);
    const auto [rest, error] = std::from_chars(argv[3], end, threshold);
    is_usage_right = error == std::errc() && rest == end;
    options.threshold = threshold;
  }
  if (!is_usage_right) {
    std::fprintf(stderr, "usage: score_folder MODEL.onnx FOLDER [THRESHOLD]\n");
    return 2;
  }
  try {
    return score_folder(argv[1], argv[2], options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
