// A model file opened far enough to know what it is.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace agp_edge {

enum class ModelKind : std::uint8_t { kOnnx, kPlan };

struct ModelFile {
  ModelKind kind;
  std::string manifest_json;  // unparsed
  std::uint64_t begin = 0;    // bytes of the ONNX file that hold it; 0 to 0 in a plan
  std::uint64_t end = 0;
};

// Throws ModelError: missing, unreadable, empty, no file.
void check_model_file(const std::string& path);

// Told apart by content. Throws ModelError: missing, unreadable, truncated, not a model of ours.
ModelFile read_model_file(const std::string& path);
// The same of a file's bytes; `path` is its name in messages.
ModelFile read_model_bytes(std::string_view bytes, const std::string& path);

}  // namespace agp_edge
