// Stands in for openvino_engine.cpp where OpenVINO's headers were not found.
#include "agp_edge/error.hpp"
#include "agp_edge/openvino_engine.hpp"

namespace agp_edge {

bool has_openvino() noexcept { return false; }

std::shared_ptr<Engine> open_openvino(const std::string& onnx_path, const OpenVinoOptions&) {
  throw DependencyError("'" + onnx_path +
                        "' cannot be opened, this build has no OpenVINO engine: build agp_edge "
                        "where OpenVINO's headers are found (pip install openvino)");
}

}  // namespace agp_edge
