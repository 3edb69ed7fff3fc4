// How messages write a tensor: "'image' float32 (1, 3, 256, 256)".
#pragma once

#include <string>

#include "agp_edge/tensor.hpp"

namespace agp_edge {

inline const char* to_string(DType dtype) noexcept {
  return dtype == DType::kFloat32 ? "float32" : "float16";
}

inline std::string to_string(const std::vector<std::int64_t>& shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  return text + ")";
}

inline std::string to_string(const TensorSpec& tensor) {
  return "'" + tensor.name + "' " + to_string(tensor.dtype) + " " + to_string(tensor.shape);
}

}  // namespace agp_edge
