#include "cuda_driver.hpp"

#include <dlfcn.h>

#include <array>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <utility>

#include "agp_edge/error.hpp"

namespace agp_edge::cuda {
namespace {

// Constants of cuda.h.
constexpr Result kOutOfMemory = 2;
constexpr int kAttributeIntegrated = 18;
constexpr int kAttributeMajor = 75;
constexpr int kAttributeMinor = 76;
constexpr unsigned kStreamNonBlocking = 1;

constexpr const char* kNoGpu = "no NVIDIA GPU can be used here: ";
constexpr const char* kAdvice =
    ": check the driver with nvidia-smi, or open the .onnx file on the CPU";

std::string error_text(const Driver& driver, Result result) {
  const char* name = nullptr;
  const char* text = nullptr;
  driver.cuGetErrorName(result, &name);
  driver.cuGetErrorString(result, &text);
  return (name != nullptr ? std::string(name) : "CUDA error " + std::to_string(result)) +
         (text != nullptr ? std::string(" (") + text + ")" : "");
}

Driver load() {
  const char* chosen = std::getenv("AGP_EDGE_CUDA_DRIVER");
  const std::string file = chosen != nullptr && *chosen != '\0' ? chosen : "libcuda.so.1";
  // Never closed: the driver keeps threads and thread-local state of its own.
  void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (library == nullptr) {
    throw DeviceError(std::string(kNoGpu) + "the driver's library " + file +
                      " was not found; run on a machine with an NVIDIA GPU and driver, or open "
                      "the .onnx file on the CPU");
  }
  Driver driver;
#define AGP_EDGE_CUDA_LOOK_UP(name, parameters)                                                   \
  driver.name = reinterpret_cast<Result(*) parameters>(dlsym(library, #name));                    \
  if (driver.name == nullptr) {                                                                   \
    throw DeviceError(std::string(kNoGpu) + "the driver's library " + file +                      \
                      " has no " #name ", a driver for CUDA 12 or newer is expected: update it"); \
  }
  AGP_EDGE_CUDA_FUNCTIONS(AGP_EDGE_CUDA_LOOK_UP)
#undef AGP_EDGE_CUDA_LOOK_UP
  for (const Result result : {driver.cuInit(0), driver.cuDriverGetVersion(&driver.version)}) {
    if (result != 0) {
      throw DeviceError(std::string(kNoGpu) + "starting the driver failed with " +
                        error_text(driver, result) + kAdvice);
    }
  }
  return driver;
}

// For destructors: an error has nobody to go to, and the rest must still be released.
template <typename Release>
void release_in(const Context& context, Release release) noexcept {
  const Driver& driver = context.driver();
  const bool pushed = driver.cuCtxPushCurrent_v2(context.handle()) == 0;
  release(driver);
  ContextHandle popped = nullptr;
  if (pushed) driver.cuCtxPopCurrent_v2(&popped);
}

int attribute(const Driver& driver, int which, DeviceHandle device) {
  int value = 0;
  driver.check(driver.cuDeviceGetAttribute(&value, which, device), "asking a GPU's properties");
  return value;
}

}  // namespace

const Driver& Driver::open() {
  static std::mutex mutex;
  static std::optional<Driver> opened;  // empty until it worked: a failure is asked again
  const std::lock_guard<std::mutex> lock(mutex);
  if (!opened) opened = load();
  return *opened;
}

void Driver::check(Result result, const char* doing) const {
  if (result == 0) return;
  throw DeviceError(std::string(doing) + " failed with " + error_text(*this, result) +
                    (result == kOutOfMemory
                         ? ": close other programs that use the GPU, or take a smaller model"
                         : ": open the model again, and check the GPU with nvidia-smi"));
}

std::string Device::text() const {
  return name + " (SM " + std::to_string(major) + "." + std::to_string(minor) +
         ", driver for CUDA " + std::to_string(driver_version / 1000) + "." +
         std::to_string(driver_version % 1000 / 10) + ")";
}

Device device_at(int index) {
  const Driver& driver = Driver::open();
  int count = 0;
  driver.check(driver.cuDeviceGetCount(&count), "counting the GPUs");
  if (count == 0) {
    throw DeviceError(std::string(kNoGpu) +
                      "the driver runs and lists no device; check nvidia-smi and "
                      "CUDA_VISIBLE_DEVICES");
  }
  if (index < 0 || index >= count) {
    throw DeviceError("the GPU " + std::to_string(index) + " was asked for, 0 to " +
                      std::to_string(count - 1) + " are there: choose one of these");
  }
  DeviceHandle handle = 0;
  driver.check(driver.cuDeviceGet(&handle, index), "opening a GPU");
  std::array<char, 256> name{};
  driver.check(driver.cuDeviceGetName(name.data(), static_cast<int>(name.size()) - 1, handle),
               "asking a GPU's name");
  Device device;
  device.index = index;
  device.name = name.data();
  device.major = attribute(driver, kAttributeMajor, handle);
  device.minor = attribute(driver, kAttributeMinor, handle);
  device.integrated = attribute(driver, kAttributeIntegrated, handle) != 0;
  device.driver_version = driver.version;
  return device;
}

Context::Context(int device_index) : device_(device_at(device_index)), driver_(Driver::open()) {
  driver_.check(driver_.cuDeviceGet(&ordinal_, device_index), "opening a GPU");
  driver_.check(driver_.cuDevicePrimaryCtxRetain(&handle_, ordinal_),
                "creating a context on the GPU");
}

Context::~Context() { driver_.cuDevicePrimaryCtxRelease_v2(ordinal_); }

Current::Current(const Context& context) : context_(context) {
  const Driver& driver = context.driver();
  driver.check(driver.cuCtxPushCurrent_v2(context.handle()), "making the GPU's context current");
}

Current::~Current() {
  ContextHandle popped = nullptr;
  context_.driver().cuCtxPopCurrent_v2(&popped);
}

DeviceBuffer::DeviceBuffer(std::shared_ptr<const Context> context, std::size_t bytes)
    : context_(std::move(context)), bytes_(bytes) {
  const Current current(*context_);
  const std::string doing =
      "allocating " + std::to_string(bytes) + " bytes on " + context_->device().name;
  context_->driver().check(context_->driver().cuMemAlloc_v2(&address_, bytes), doing.c_str());
}

DeviceBuffer::~DeviceBuffer() {
  release_in(*context_, [this](const Driver& driver) { driver.cuMemFree_v2(address_); });
}

PinnedBuffer::PinnedBuffer(std::shared_ptr<const Context> context, std::size_t bytes)
    : context_(std::move(context)), bytes_(bytes) {
  const Current current(*context_);
  const std::string doing = "allocating " + std::to_string(bytes) + " bytes of pinned memory";
  context_->driver().check(context_->driver().cuMemHostAlloc(&data_, bytes, 0), doing.c_str());
}

PinnedBuffer::~PinnedBuffer() {
  release_in(*context_, [this](const Driver& driver) { driver.cuMemFreeHost(data_); });
}

OwnedStream::OwnedStream(std::shared_ptr<const Context> context) : context_(std::move(context)) {
  const Current current(*context_);
  context_->driver().check(context_->driver().cuStreamCreate(&stream_, kStreamNonBlocking),
                           "creating a CUDA stream");
}

OwnedStream::~OwnedStream() {
  release_in(*context_, [this](const Driver& driver) {
    driver.cuStreamSynchronize(stream_);
    driver.cuStreamDestroy_v2(stream_);
  });
}

void OwnedStream::upload(const DeviceBuffer& to, const PinnedBuffer& from) {
  const Driver& driver = context_->driver();
  driver.check(driver.cuMemcpyHtoDAsync_v2(to.address(), from.data(), from.bytes(), stream_),
               "copying the input to the GPU");
}

void OwnedStream::download(const PinnedBuffer& to, const DeviceBuffer& from) {
  const Driver& driver = context_->driver();
  driver.check(driver.cuMemcpyDtoHAsync_v2(to.data(), from.address(), to.bytes(), stream_),
               "copying the output from the GPU");
}

void OwnedStream::fill(const DeviceBuffer& buffer, std::uint32_t word) {
  const Driver& driver = context_->driver();
  driver.check(
      driver.cuMemsetD32Async(buffer.address(), word, buffer.bytes() / sizeof(word), stream_),
      "clearing the output on the GPU");
}

void OwnedStream::synchronize() {
  context_->driver().check(context_->driver().cuStreamSynchronize(stream_), "the work on the GPU");
}

void OwnedStream::drain() noexcept { context_->driver().cuStreamSynchronize(stream_); }

}  // namespace agp_edge::cuda
