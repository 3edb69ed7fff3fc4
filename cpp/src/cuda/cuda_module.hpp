// Our kernels on one device: compiled to every architecture by nvcc, carried in the library as
// bytes, loaded through the driver.
//
// Owns     the loaded module, one per object; shares the context.
// Threads  const after construction.
// Blocks   the constructor, while the driver loads the code.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "cuda/cuda_driver.hpp"

namespace agp_edge::cuda {

enum class KernelSet : std::uint8_t { kPreprocess, kPostprocess };

// Whether the library was built with nvcc, so that it carries kernels at all.
bool has_kernels() noexcept;

class Module {
 public:
  // Throws DeviceError: built without nvcc, or no code in it for this device.
  Module(std::shared_ptr<const Context> context, KernelSet set);
  ~Module();
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  // Throws DeviceError.
  FunctionHandle function(const std::string& name) const;

 private:
  std::shared_ptr<const Context> context_;
  ModuleHandle module_ = nullptr;
};

// Queues one launch; nothing is allocated, a stream may be capturing. Its context is current.
// Throws DeviceError.
void launch(const Driver& driver, const LaunchParams& params, Stream stream, const char* doing);

// Copies `bytes` of ordinary host memory to the device and waits for the stream. Allocates: for
// tables, outside of any capture. Its context is current. Throws DeviceError.
void upload_table(const std::shared_ptr<const Context>& context, Stream stream, Address to,
                  const void* from, std::size_t bytes);

}  // namespace agp_edge::cuda
