// A TensorRT plan on an NVIDIA GPU, through a module per TensorRT major that is opened on demand
// and opens TensorRT on demand: nothing links to CUDA or TensorRT.
//
// Owns     the GPU's primary context and TensorRT's runtime, engine and context, released in the
//          reverse order. The libraries stay open until the process ends.
// Threads  as Engine.
// Blocks   open_tensorrt() until the weights are on the GPU; enqueue() returns at once.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "agp_edge/engine.hpp"

namespace agp_edge {

// One module each. TensorRT for RTX is a product of its own, its plans start differently.
enum class TensorRtFlavour : std::uint8_t { kTensorRt10, kTensorRt11, kRtx };

const char* to_string(TensorRtFlavour flavour) noexcept;  // "TensorRT 10", "TensorRT for RTX"

struct TensorRtOptions {
  int device = 0;  // index of the GPU
  // Folders searched for TensorRT's library before the system's search path.
  std::vector<std::string> library_folders;
  // The plan's bytes, where the caller has them already, e.g. to compare their hash: then the path
  // is a name only. Borrowed for the call; empty: the file is mapped.
  std::string_view content;
};

// The modules that this build has: beside the library or the Python extension, in agp_edge/ below
// that folder, or where AGP_EDGE_MODULES says.
std::vector<TensorRtFlavour> tensorrt_modules();

enum class LogLevel : std::uint8_t { kError, kWarning, kInfo, kDebug };

// Where TensorRT's own messages go; empty: nowhere. One for the process; called from any thread.
// What it throws is lost.
void set_tensorrt_log(std::function<void(LogLevel, const std::string&)> log);

// Asks the CUDA driver before anything of TensorRT is touched. Throws ModelError (not a plan, built
// for another GPU, TensorRT version or flavour, a manifest that differs from the file's),
// DeviceError (no GPU, out of memory) or DependencyError (no module, no library that fits).
std::shared_ptr<Engine> open_tensorrt(const std::string& plan_path,
                                      const TensorRtOptions& options = {});

}  // namespace agp_edge
