// A device, a stream and copies in both directions, for tests of the CUDA stages.
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <vector>

#include "cuda/cuda_driver.hpp"

// Owns the device's context and one stream; everything is current in its scope.
struct CudaRig {
  std::shared_ptr<const agp_edge::cuda::Context> context =
      std::make_shared<agp_edge::cuda::Context>(0);
  agp_edge::cuda::Current current{*context};
  agp_edge::cuda::OwnedStream stream{context};

  void write(const agp_edge::cuda::DeviceBuffer& to, const void* from, std::size_t bytes) {
    const agp_edge::cuda::PinnedBuffer staging(context, bytes);
    std::memcpy(staging.data(), from, bytes);
    const auto& driver = context->driver();
    driver.check(driver.cuMemcpyHtoDAsync_v2(to.address(), staging.data(), bytes, stream.get()),
                 "write");
    stream.synchronize();
  }

  std::vector<char> read(agp_edge::cuda::Address from, std::size_t bytes) {
    const agp_edge::cuda::PinnedBuffer staging(context, bytes);
    const auto& driver = context->driver();
    driver.check(driver.cuMemcpyDtoHAsync_v2(staging.data(), from, bytes, stream.get()), "read");
    stream.synchronize();
    const char* const data = static_cast<const char*>(staging.data());
    return {data, data + bytes};
  }
};
