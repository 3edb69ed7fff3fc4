// The metadata_props of an ONNX file, read without the rest of it.
//
// An ONNX file is a protobuf message ModelProto (onnx/onnx.proto): a sequence of fields, each a key
// (field number and wire type), a length where the type needs one, and the content.
#pragma once

#include <cstdint>
#include <istream>
#include <string>

namespace agp_edge {

// Whether the first byte can be the key of a ModelProto's first field.
bool may_start_onnx(unsigned char first) noexcept;

enum class OnnxWalk : std::uint8_t {
  kFound,      // `value` is set
  kNoKey,      // a whole ModelProto without that key
  kNoGraph,    // a whole sequence of fields, but no graph among them
  kMalformed,  // not a ModelProto, or cut off
};

struct OnnxMetadata {
  OnnxWalk walk;
  std::string value;
  std::string problem;      // kMalformed: which, and at which byte
  std::uint64_t begin = 0;  // of the whole entry in the file, kFound only
  std::uint64_t end = 0;
};

// `size`: bytes in `file`. Contents other than the wanted entry are skipped, not read.
// Throws ModelError naming `path`: the key stands there twice, or its value is over `value_limit`.
OnnxMetadata read_onnx_metadata(std::istream& file, std::uint64_t size, const std::string& key,
                                std::uint64_t value_limit, const std::string& path);

}  // namespace agp_edge
