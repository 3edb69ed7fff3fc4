// A CUDA driver on the CPU, for tests of lifetimes and failures: the functions of cuda_driver.hpp
// over malloc. Opened through AGP_EDGE_CUDA_DRIVER.
//
// It is stricter than a GPU. Work of a stream is done when the stream is synchronised and not
// before. Device addresses cannot be dereferenced. A call without a current context, a copy from
// memory that is not pinned, and a free of anything unknown fail. Everything is counted.
//
//   AGP_EDGE_FAKE_CUDA_FAIL=NAME[:N]   the N-th call (default 1, from the first one on) of that
//                                      function fails; cuMem*Alloc with out of memory
//   AGP_EDGE_FAKE_CUDA_DEVICES=N       how many devices there are; default 1
//   AGP_EDGE_FAKE_CUDA_SM=MAJOR.MINOR  their compute capability; default 8.7
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#define FAKE_API extern "C" __attribute__((visibility("default")))

namespace {

using Result = int;
using Address = unsigned long long;

constexpr Result kSuccess = 0;
constexpr Result kInvalidValue = 1;
constexpr Result kOutOfMemory = 2;
constexpr Result kInvalidContext = 201;
constexpr Result kIllegalAddress = 700;
// Not canonical on x86-64 and aarch64: a dereference on the CPU ends the program.
constexpr Address kDeviceBit = 1ULL << 62U;

struct Stream {
  std::vector<std::function<void()>> work;
};

struct State {
  std::mutex mutex;
  std::map<Address, std::size_t> device;
  std::map<const char*, std::size_t> pinned;
  std::map<Stream*, int> streams;
  int contexts = 0;
  std::map<std::string, int> calls;
};

State& state() {
  static auto* const made = new State;
  return *made;
}

std::vector<void*>& context_stack() {
  thread_local std::vector<void*> stack;
  return stack;
}

int dummy_context = 0;

bool should_fail(const char* function) {
  const std::lock_guard<std::mutex> lock(state().mutex);
  const int call = ++state().calls[function];
  const char* chosen = std::getenv("AGP_EDGE_FAKE_CUDA_FAIL");
  if (chosen == nullptr) return false;
  const std::string text = chosen;
  const std::size_t colon = text.find(':');
  const int which = colon == std::string::npos ? 1 : std::atoi(text.c_str() + colon + 1);
  return text.substr(0, colon) == function && call == which;
}

bool has_context() { return !context_stack().empty(); }

// Whether [at, at + bytes) lies in one of the blocks.
template <typename Key>
bool inside(const std::map<Key, std::size_t>& blocks, Key at, std::size_t bytes) {
  auto block = blocks.upper_bound(at);
  if (block == blocks.begin()) return false;
  --block;
  return at + bytes <= block->first + block->second;
}

char* host(Address address) { return reinterpret_cast<char*>(address & ~kDeviceBit); }

}  // namespace

#define FAIL_IF_CHOSEN(code) \
  if (should_fail(__func__)) return code
#define NEEDS_CONTEXT \
  if (!has_context()) return kInvalidContext

FAKE_API int fake_cuda_live() {
  const std::lock_guard<std::mutex> lock(state().mutex);
  return static_cast<int>(state().device.size() + state().pinned.size() + state().streams.size()) +
         state().contexts + static_cast<int>(context_stack().size());
}

FAKE_API int fake_cuda_has_context() { return has_context() ? 1 : 0; }

FAKE_API int fake_cuda_calls(const char* function) {
  const std::lock_guard<std::mutex> lock(state().mutex);
  return state().calls[function];
}

FAKE_API void fake_cuda_forget_calls() {
  const std::lock_guard<std::mutex> lock(state().mutex);
  state().calls.clear();
}

// What a kernel would see behind a device address; null when it is none.
FAKE_API void* fake_cuda_host(const void* device_pointer, std::size_t bytes) {
  const auto address = static_cast<Address>(reinterpret_cast<std::uintptr_t>(device_pointer));
  const std::lock_guard<std::mutex> lock(state().mutex);
  return inside(state().device, address, bytes) ? host(address) : nullptr;
}

FAKE_API Result cuInit(unsigned flags) {
  FAIL_IF_CHOSEN(100);
  return flags == 0 ? kSuccess : kInvalidValue;
}

FAKE_API Result cuDriverGetVersion(int* version) {
  FAIL_IF_CHOSEN(kInvalidValue);
  *version = 12060;
  return kSuccess;
}

FAKE_API Result cuGetErrorName(Result error, const char** name) {
  static const std::map<Result, const char*> names = {{1, "CUDA_ERROR_INVALID_VALUE"},
                                                      {2, "CUDA_ERROR_OUT_OF_MEMORY"},
                                                      {100, "CUDA_ERROR_NO_DEVICE"},
                                                      {201, "CUDA_ERROR_INVALID_CONTEXT"},
                                                      {700, "CUDA_ERROR_ILLEGAL_ADDRESS"}};
  const auto found = names.find(error);
  *name = found == names.end() ? nullptr : found->second;
  return found == names.end() ? kInvalidValue : kSuccess;
}

FAKE_API Result cuGetErrorString(Result error, const char** text) {
  *text = error == kOutOfMemory ? "out of memory" : "a failure that the test asked for";
  return kSuccess;
}

FAKE_API Result cuDeviceGetCount(int* count) {
  FAIL_IF_CHOSEN(kInvalidValue);
  const char* chosen = std::getenv("AGP_EDGE_FAKE_CUDA_DEVICES");
  *count = chosen != nullptr ? std::atoi(chosen) : 1;
  return kSuccess;
}

FAKE_API Result cuDeviceGet(int* device, int index) {
  FAIL_IF_CHOSEN(kInvalidValue);
  *device = index;
  return kSuccess;
}

FAKE_API Result cuDeviceGetName(char* name, int length, int device) {
  FAIL_IF_CHOSEN(kInvalidValue);
  std::snprintf(name, static_cast<std::size_t>(length), "Fake GPU %d", device);
  return kSuccess;
}

FAKE_API Result cuDeviceGetAttribute(int* value, int attribute, int /*device*/) {
  FAIL_IF_CHOSEN(kInvalidValue);
  const char* chosen = std::getenv("AGP_EDGE_FAKE_CUDA_SM");
  int major = 8;
  int minor = 7;
  if (chosen != nullptr) std::sscanf(chosen, "%d.%d", &major, &minor);
  *value = attribute == 75 ? major : attribute == 76 ? minor : 0;
  return kSuccess;
}

FAKE_API Result cuDevicePrimaryCtxRetain(void** context, int /*device*/) {
  FAIL_IF_CHOSEN(kOutOfMemory);
  const std::lock_guard<std::mutex> lock(state().mutex);
  ++state().contexts;
  *context = &dummy_context;
  return kSuccess;
}

FAKE_API Result cuDevicePrimaryCtxRelease_v2(int /*device*/) {
  FAIL_IF_CHOSEN(kInvalidContext);
  const std::lock_guard<std::mutex> lock(state().mutex);
  if (state().contexts == 0) std::abort();  // released more often than retained
  --state().contexts;
  return kSuccess;
}

FAKE_API Result cuCtxPushCurrent_v2(void* context) {
  FAIL_IF_CHOSEN(kInvalidContext);
  {
    const std::lock_guard<std::mutex> lock(state().mutex);
    if (state().contexts == 0) return kInvalidContext;  // the last owner has released it
  }
  context_stack().push_back(context);
  return kSuccess;
}

FAKE_API Result cuCtxPopCurrent_v2(void** context) {
  FAIL_IF_CHOSEN(kInvalidContext);
  NEEDS_CONTEXT;
  *context = context_stack().back();
  context_stack().pop_back();
  return kSuccess;
}

FAKE_API Result cuMemAlloc_v2(Address* address, std::size_t bytes) {
  FAIL_IF_CHOSEN(kOutOfMemory);
  NEEDS_CONTEXT;
  *address =
      static_cast<Address>(reinterpret_cast<std::uintptr_t>(std::malloc(bytes))) | kDeviceBit;
  const std::lock_guard<std::mutex> lock(state().mutex);
  state().device[*address] = bytes;
  return kSuccess;
}

FAKE_API Result cuMemFree_v2(Address address) {
  NEEDS_CONTEXT;
  {
    const std::lock_guard<std::mutex> lock(state().mutex);
    if (state().device.erase(address) == 0) std::abort();
  }
  std::free(host(address));
  FAIL_IF_CHOSEN(kIllegalAddress);  // an earlier kernel's failure, as the driver reports them
  return kSuccess;
}

FAKE_API Result cuMemHostAlloc(void** memory, std::size_t bytes, unsigned /*flags*/) {
  FAIL_IF_CHOSEN(kOutOfMemory);
  NEEDS_CONTEXT;
  *memory = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  const std::lock_guard<std::mutex> lock(state().mutex);
  state().pinned[static_cast<const char*>(*memory)] = bytes;
  return kSuccess;
}

FAKE_API Result cuMemFreeHost(void* memory) {
  NEEDS_CONTEXT;
  {
    const std::lock_guard<std::mutex> lock(state().mutex);
    if (state().pinned.erase(static_cast<const char*>(memory)) == 0) std::abort();
  }
  std::free(memory);
  FAIL_IF_CHOSEN(kIllegalAddress);
  return kSuccess;
}

FAKE_API Result cuStreamCreate(Stream** stream, unsigned /*flags*/) {
  FAIL_IF_CHOSEN(kOutOfMemory);
  NEEDS_CONTEXT;
  *stream = new Stream;
  const std::lock_guard<std::mutex> lock(state().mutex);
  state().streams[*stream] = 1;
  return kSuccess;
}

FAKE_API Result cuStreamDestroy_v2(Stream* stream) {
  NEEDS_CONTEXT;
  {
    const std::lock_guard<std::mutex> lock(state().mutex);
    if (state().streams.erase(stream) == 0) std::abort();
    if (!stream->work.empty()) std::abort();  // its buffers may be freed before the work is done
  }
  delete stream;
  FAIL_IF_CHOSEN(kIllegalAddress);
  return kSuccess;
}

FAKE_API Result cuStreamSynchronize(Stream* stream) {
  NEEDS_CONTEXT;
  for (const auto& work : stream->work) work();
  stream->work.clear();
  FAIL_IF_CHOSEN(kIllegalAddress);
  return kSuccess;
}

FAKE_API Result cuLaunchHostFunc(Stream* stream, void (*function)(void*), void* user) {
  FAIL_IF_CHOSEN(kInvalidValue);
  NEEDS_CONTEXT;
  stream->work.emplace_back([function, user] { function(user); });
  return kSuccess;
}

FAKE_API Result cuMemcpyHtoDAsync_v2(Address to, const void* from, std::size_t bytes,
                                     Stream* stream) {
  FAIL_IF_CHOSEN(kInvalidValue);
  NEEDS_CONTEXT;
  const std::lock_guard<std::mutex> lock(state().mutex);
  if (!inside(state().device, to, bytes) ||
      !inside(state().pinned, static_cast<const char*>(from), bytes)) {
    return kInvalidValue;
  }
  stream->work.emplace_back([to, from, bytes] { std::memcpy(host(to), from, bytes); });
  return kSuccess;
}

FAKE_API Result cuMemcpyDtoHAsync_v2(void* to, Address from, std::size_t bytes, Stream* stream) {
  FAIL_IF_CHOSEN(kInvalidValue);
  NEEDS_CONTEXT;
  const std::lock_guard<std::mutex> lock(state().mutex);
  if (!inside(state().device, from, bytes) ||
      !inside(state().pinned, static_cast<const char*>(to), bytes)) {
    return kInvalidValue;
  }
  stream->work.emplace_back([to, from, bytes] { std::memcpy(to, host(from), bytes); });
  return kSuccess;
}

FAKE_API Result cuMemsetD32Async(Address to, unsigned word, std::size_t count, Stream* stream) {
  FAIL_IF_CHOSEN(kInvalidValue);
  NEEDS_CONTEXT;
  const std::lock_guard<std::mutex> lock(state().mutex);
  if (!inside(state().device, to, count * sizeof(word))) return kInvalidValue;
  stream->work.emplace_back([to, word, count] {
    for (std::size_t i = 0; i < count; ++i) {
      std::memcpy(host(to) + i * sizeof(word), &word, sizeof(word));
    }
  });
  return kSuccess;
}
