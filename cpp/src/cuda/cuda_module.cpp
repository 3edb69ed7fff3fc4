#include "cuda/cuda_module.hpp"

#include <cstring>
#include <utility>

#include "agp_edge/error.hpp"
#include "cuda/cuda_image.hpp"

namespace agp_edge::cuda {
namespace {

// Errors of cuda.h that say that the code is not for this device or driver.
constexpr Result kNoBinaryForGpu = 209;
constexpr Result kUnsupportedPtx = 222;
constexpr Result kInvalidImage = 200;

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace

bool has_kernels() noexcept { return image_of(KernelSet::kPreprocess) != nullptr; }

Module::Module(std::shared_ptr<const Context> context, KernelSet set)
    : context_(std::move(context)) {
  const void* const image = image_of(set);
  if (image == nullptr) {
    throw DeviceError(
        "this agp_edge was built without nvcc, so that it has no kernels for the GPU: build it "
        "where the CUDA toolkit is installed");
  }
  const Current current(*context_);
  const Driver& driver = context_->driver();
  const Result result = driver.cuModuleLoadData(&module_, image);
  if (result == kNoBinaryForGpu || result == kUnsupportedPtx || result == kInvalidImage) {
    throw DeviceError(
        "the kernels of this agp_edge, compiled with CUDA " + version_text(compiler_version()) +
        ", do not run on " + context_->device().text() +
        ": update the driver, or build agp_edge with this machine's own CUDA toolkit");
  }
  driver.check(result, "loading our kernels on the GPU");
}

Module::~Module() {
  release_in(*context_, [this](const Driver& driver) { driver.cuModuleUnload(module_); });
}

FunctionHandle Module::function(const std::string& name) const {
  FunctionHandle function = nullptr;
  const Current current(*context_);
  context_->driver().check(context_->driver().cuModuleGetFunction(&function, module_, name.c_str()),
                           ("finding the kernel " + name).c_str());
  return function;
}

void launch(const Driver& driver, const LaunchParams& params, Stream stream, const char* doing) {
  driver.check(driver.cuLaunchKernel(params.function, params.grid_x, params.grid_y, params.grid_z,
                                     params.block_x, params.block_y, params.block_z,
                                     params.shared_bytes, stream, params.parameters, nullptr),
               doing);
}

void upload_table(const std::shared_ptr<const Context>& context, Stream stream, Address to,
                  const void* from, std::size_t bytes) {
  const PinnedBuffer staging(context, bytes);
  std::memcpy(staging.data(), from, bytes);
  const Driver& driver = context->driver();
  driver.check(driver.cuMemcpyHtoDAsync_v2(to, staging.data(), bytes, stream),
               "copying tables to the GPU");
  driver.check(driver.cuStreamSynchronize(stream), "copying tables to the GPU");
}

}  // namespace agp_edge::cuda
