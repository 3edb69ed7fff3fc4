// OpenVINO on a CPU, through its C interface, opened on demand: nothing links to it.
//
// Owns     core, compiled model and infer request, released in the reverse order; clones share the
//          first two.
// Threads  as Engine.
// Blocks   enqueue() returns when the outputs are written.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "agp_edge/engine.hpp"

namespace agp_edge {

struct OpenVinoOptions {
  // Folder of libopenvino_c.so*; empty: AGP_EDGE_OPENVINO_LIBS, then the system's search path.
  std::string library_folder;
  int threads = 0;  // 0: OpenVINO chooses
  // The file's bytes, where the caller has them already, e.g. to compare their hash: then the path
  // is a name only. Borrowed for the call; empty: the file is read.
  std::string_view content;
  // Frames that clones of the engine compute at a time, each on a share of the threads; at most one
  // a core. 1 gives one frame all of them: the lowest latency.
  int streams = 1;
  std::vector<int> cpus;  // the only ones to use; none: as the process's
  // Compute in bfloat16: faster, and scores differ from every other engine's in the third digit.
  // Refused on a CPU without such instructions, where it would be imitated and slower.
  bool bfloat16 = false;
};

// Whether this library was compiled with OpenVINO's headers.
bool has_openvino() noexcept;

// Throws DependencyError (not compiled in, or library not found), ModelError, or DeviceError (no
// bfloat16 on this CPU).
std::shared_ptr<Engine> open_openvino(const std::string& onnx_path,
                                      const OpenVinoOptions& options = {});

}  // namespace agp_edge
