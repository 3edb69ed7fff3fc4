// What a model is: the JSON document inside the ONNX file or the plan, checked.
// docs/manifest.md lists every key; agp_edge/manifest.py writes it.
//
// Owns     everything; a value.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "agp_edge/calibration.hpp"
#include "agp_edge/postprocess.hpp"
#include "agp_edge/preprocess.hpp"

namespace agp_edge {

struct Manifest {
  int major = 0;
  int minor = 0;
  std::string name;
  std::string input_name;   // tensor (1, 3, height, width)
  std::string output_name;  // tensor (1, 1, grid_height, grid_width)
  PreprocessRecipe preprocess;
  PostprocessRecipe postprocess;
  std::optional<float> threshold;                   // none: the model has no default threshold yet
  std::optional<float> mask_threshold;              // none: the same as threshold
  std::optional<CalibrationTail> calibration_tail;  // none: no p-values
  std::string json;                                 // the document, as it stands in the file

  // Newest version that this library reads; a newer minor is read too, a newer major is refused.
  static constexpr int kMajor = 1;
  static constexpr int kMinor = 1;

  // Throws ModelError naming `source`, the key and what was expected.
  static Manifest parse(const std::string& json, const std::string& source);
};

// The key under which the document stands in an ONNX file's metadata_props.
inline constexpr const char* kManifestKey = "agp_edge.manifest";

// The document of an .onnx file or a plan, unparsed, found without loading the model. Told apart by
// content, not by name. Throws ModelError: missing, unreadable, truncated, not a model of ours.
std::string read_manifest_json(const std::string& path);
// The same of a file's bytes; `path` is its name in messages.
std::string read_manifest_json(std::string_view bytes, const std::string& path);

// Throws ModelError where an .onnx file keeps weights in another file: no hash of the model covers
// them. A plan has its weights in itself.
void refuse_external_data(const std::string& path);
void refuse_external_data(std::string_view bytes, const std::string& path);

// Where the document stands in an .onnx file: first byte of its metadata entry and the one after
// it. Another entry in its place leaves graph and weights as they are. Both 0 for a plan.
// Throws as read_manifest_json.
std::pair<std::uint64_t, std::uint64_t> manifest_extent(const std::string& path);

}  // namespace agp_edge
