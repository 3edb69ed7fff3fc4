// ONNX files whose weights lie in other files: found without parsing the graph.
#pragma once

#include <istream>
#include <string>

namespace agp_edge {

// Reads the whole stream, in pieces. Throws ModelError naming `path` and the other file.
void refuse_external_data(std::istream& file, const std::string& path);

}  // namespace agp_edge
