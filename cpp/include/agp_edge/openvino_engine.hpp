// OpenVINO on a CPU, through its C interface, opened on demand: nothing links to it.
//
// Owns     core, compiled model and infer request, released in the reverse order.
// Threads  as Engine.
// Blocks   enqueue() returns when the outputs are written.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "agp_edge/engine.hpp"

namespace agp_edge {

struct OpenVinoOptions {
  // Folder of libopenvino_c.so*; empty: AGP_EDGE_OPENVINO_LIBS, then the system's search path.
  std::string library_folder;
  int threads = 0;  // 0: OpenVINO chooses
  // The file's bytes, where the caller has them already, e.g. to compare their hash: then the path
  // is a name only. Borrowed for the call; empty: the file is read.
  std::string_view content;
};

// Whether this library was compiled with OpenVINO's headers.
bool has_openvino() noexcept;

// Throws DependencyError (not compiled in, or library not found) or ModelError.
std::shared_ptr<Engine> open_openvino(const std::string& onnx_path,
                                      const OpenVinoOptions& options = {});

}  // namespace agp_edge
