#include "cuda/cuda_driver.hpp"

#include <dlfcn.h>

#include <array>
#include <cstdlib>
#include <map>
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
constexpr unsigned kEventBlockingSync = 1;
constexpr unsigned kEventDisableTiming = 2;
constexpr unsigned kEventRecordExternal = 1;
constexpr Result kNotReady = 600;
constexpr unsigned kHostPortable = 1;   // pinned for every context
constexpr unsigned kHostDeviceMap = 2;  // and with an address for the GPU
constexpr int kPointerMemoryType = 2;
constexpr int kPointerDevice = 9;

constexpr const char* kNoGpu = "no NVIDIA GPU can be used here: ";
constexpr const char* kAdvice =
    ": check the driver with nvidia-smi, or open the .onnx file on the CPU";

// Tells the core that this is a loop of waiting.
void pause_core() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

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

std::shared_ptr<std::atomic<unsigned>> resets_of(int device) {
  static std::mutex mutex;
  static std::map<int, std::shared_ptr<std::atomic<unsigned>>> counts;
  const std::lock_guard<std::mutex> lock(mutex);
  auto& count = counts[device];
  if (!count) count = std::make_shared<std::atomic<unsigned>>(0);
  return count;
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

std::string Driver::text(Result result) const { return error_text(*this, result); }

void Driver::check(Result result, const char* doing) const {
  if (result == 0) return;
  throw DeviceError(std::string(doing) + " failed with " + text(result) +
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

Context::Context(int device_index)
    : device_(device_at(device_index)),
      driver_(Driver::open()),
      all_resets_(resets_of(device_index)) {
  driver_.check(driver_.cuDeviceGet(&ordinal_, device_index), "opening a GPU");
  const std::lock_guard<std::mutex> lock(capture_mutex());
  retain();
  try {
    if (!works()) reset();
  } catch (...) {
    driver_.cuDevicePrimaryCtxRelease_v2(ordinal_);
    throw;
  }
}

void Context::reset() {
  // Broken by an earlier error of this process: nothing of it is of use to anybody.
  const Result result = driver_.cuDevicePrimaryCtxReset_v2(ordinal_);
  resets_ = ++*all_resets_;
  driver_.check(result, "resetting the GPU after an error");
  // The driver makes the context anew when it is retained: once more, and the first one given back.
  driver_.check(driver_.cuDevicePrimaryCtxRetain(&handle_, ordinal_),
                "creating a context on the GPU");
  driver_.cuDevicePrimaryCtxRelease_v2(ordinal_);
  if (works()) return;
  throw DeviceError("the GPU " + device_.name +
                    " does not answer after an error and a reset: start this program again, and "
                    "check the GPU with nvidia-smi");
}

void Context::retain() {
  driver_.check(driver_.cuDevicePrimaryCtxRetain(&handle_, ordinal_),
                "creating a context on the GPU");
  resets_ = *all_resets_;
}

bool Context::works() const {
  const Current current(*this);
  return driver_.cuCtxSynchronize() == 0;
}

Context::~Context() { driver_.cuDevicePrimaryCtxRelease_v2(ordinal_); }

std::mutex& capture_mutex() {
  static std::mutex mutex;
  return mutex;
}

Current::Current(const Context& context) : context_(context) {
  if (context.lost()) {
    throw DeviceError("the GPU " + context.device().name +
                      " was reset after an error, and what this detector had there is gone: close "
                      "it and open the model again");
  }
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
  context_->driver().check(
      context_->driver().cuMemHostAlloc(&data_, bytes, kHostPortable | kHostDeviceMap),
      doing.c_str());
}

PinnedBuffer::~PinnedBuffer() {
  release_in(*context_, [this](const Driver& driver) { driver.cuMemFreeHost(data_); });
}

PinnedPages::PinnedPages(std::shared_ptr<const Context> context, void* memory, std::size_t bytes)
    : context_(std::move(context)), memory_(memory) {
  const Current current(*context_);
  const std::string doing = "page-locking " + std::to_string(bytes) + " bytes for the GPU";
  context_->driver().check(
      context_->driver().cuMemHostRegister_v2(memory, bytes, kHostPortable | kHostDeviceMap),
      doing.c_str());
}

PinnedPages::~PinnedPages() {
  release_in(*context_, [this](const Driver& driver) { driver.cuMemHostUnregister(memory_); });
}

Address device_address(const Context& context, const void* pinned) {
  const Driver& driver = context.driver();
  Address address = 0;
  driver.check(driver.cuMemHostGetDevicePointer_v2(&address, const_cast<void*>(pinned), 0),
               "asking for the GPU's address of pinned memory");
  return address;
}

AddressKind address_kind(const Context& context, Address address) noexcept {
  unsigned type = 0;
  if (context.driver().cuPointerGetAttribute(&type, kPointerMemoryType, address) != 0) {
    return AddressKind::kUnknown;
  }
  constexpr unsigned kHost = 1;
  return type == kHost ? AddressKind::kPinnedHost : AddressKind::kDevice;
}

int address_device(const Context& context, Address address) noexcept {
  int device = -1;
  const Result result = context.driver().cuPointerGetAttribute(&device, kPointerDevice, address);
  return result == 0 ? device : -1;
}

Event::Event(std::shared_ptr<const Context> context, Wait wait)
    : context_(std::move(context)), wait_(wait) {
  const Current current(*context_);
  const unsigned flags = kEventDisableTiming | (wait == Wait::kBlock ? kEventBlockingSync : 0U);
  context_->driver().check(context_->driver().cuEventCreate(&event_, flags),
                           "creating a CUDA event");
}

Event::~Event() {
  release_in(*context_, [this](const Driver& driver) { driver.cuEventDestroy_v2(event_); });
}

Result Event::record(Stream stream) noexcept {
  return context_->driver().cuEventRecord(event_, stream);
}

void Event::hold(Stream stream) {
  const Driver& driver = context_->driver();
  driver.check(driver.cuStreamWaitEvent(stream, event_, 0), "waiting for another stream");
}

void Event::wait() {
  const Driver& driver = context_->driver();
  Result result = 0;
  if (wait_ == Wait::kBlock) {
    result = driver.cuEventSynchronize(event_);
  } else {
    while ((result = driver.cuEventQuery(event_)) == kNotReady) pause_core();
  }
  driver.check(result, "the work on the GPU");
}

TimedEvent::TimedEvent(std::shared_ptr<const Context> context) : context_(std::move(context)) {
  const Current current(*context_);
  context_->driver().check(context_->driver().cuEventCreate(&event_, 0), "creating a CUDA event");
}

TimedEvent::~TimedEvent() {
  release_in(*context_, [this](const Driver& driver) { driver.cuEventDestroy_v2(event_); });
}

void TimedEvent::mark(Stream stream, bool recording) {
  const Driver& driver = context_->driver();
  driver.check(recording ? driver.cuEventRecordWithFlags(event_, stream, kEventRecordExternal)
                         : driver.cuEventRecord(event_, stream),
               "marking a part of the frame's work");
}

double TimedEvent::milliseconds_since(const TimedEvent& earlier) const {
  float milliseconds = 0;
  const Driver& driver = context_->driver();
  driver.check(driver.cuEventElapsedTime(&milliseconds, earlier.event_, event_),
               "reading the times of the frame's work");
  return static_cast<double>(milliseconds);
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

void OwnedStream::upload(Address to, const void* from, std::size_t bytes) {
  const Driver& driver = context_->driver();
  driver.check(driver.cuMemcpyHtoDAsync_v2(to, from, bytes, stream_),
               "copying the input to the GPU");
}

void OwnedStream::download(void* to, Address from, std::size_t bytes) {
  const Driver& driver = context_->driver();
  driver.check(driver.cuMemcpyDtoHAsync_v2(to, from, bytes, stream_),
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

bool OwnedStream::drain() noexcept { return context_->driver().cuStreamSynchronize(stream_) == 0; }

}  // namespace agp_edge::cuda
