// What an engine says of one of its inputs or outputs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace agp_edge {

enum class DType : std::uint8_t { kFloat32, kFloat16 };

struct TensorSpec {
  std::string name;
  DType dtype = DType::kFloat32;
  std::vector<std::int64_t> shape;  // NCHW; static, every entry > 0

  std::size_t elements() const noexcept;
};

}  // namespace agp_edge
