#include "agp_edge/tensor.hpp"

namespace agp_edge {

std::size_t TensorSpec::elements() const noexcept {
  std::size_t count = 1;
  for (const std::int64_t side : shape) count *= static_cast<std::size_t>(side);
  return count;
}

}  // namespace agp_edge
