// A CUDA driver on the CPU, for tests of lifetimes and failures: the functions of cuda_driver.hpp
// over host memory. Opened through AGP_EDGE_CUDA_DRIVER.
//
// It is stricter than a GPU. Work of a stream is done when somebody waits for it and not before.
// Device memory can be touched by that work only. A call without a current context, a copy from
// memory that is not pinned, and a free of anything unknown fail. Everything is counted.
//
//   AGP_EDGE_FAKE_CUDA_FAIL=NAME[:N][:sticky]  the N-th call (default 1, from the first one on) of
//                                      that function, or of any ("*"), fails; allocations with out
//                                      of memory; sticky: and every later call of that context
//   AGP_EDGE_FAKE_CUDA_MEMORY=BYTES    device memory that there is; default without end
//   AGP_EDGE_FAKE_CUDA_DEVICES=N       how many devices there are; default 1
//   AGP_EDGE_FAKE_CUDA_SM=MAJOR.MINOR  their compute capability; default 8.7
//   AGP_EDGE_FAKE_CUDA_INTEGRATED=1    CPU and GPU share their memory, as on a Jetson
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "fake_cuda_state.hpp"

using fake_cuda::Address;
using fake_cuda::address_of;
using fake_cuda::Block;
using fake_cuda::Context;
using fake_cuda::context_stack;
using fake_cuda::Event;
using fake_cuda::inside;
using fake_cuda::kIllegalAddress;
using fake_cuda::kInvalidContext;
using fake_cuda::kInvalidValue;
using fake_cuda::kNotReady;
using fake_cuda::kOutOfMemory;
using fake_cuda::kSuccess;
using fake_cuda::pointer_to;
using fake_cuda::Result;
using fake_cuda::run;
using fake_cuda::state;
using fake_cuda::Stream;
using fake_cuda::stream_of;
using fake_cuda::Work;

namespace {

constexpr unsigned kPortableAndMapped = 3;

int number_from(const char* variable, int otherwise) {
  const char* const chosen = std::getenv(variable);
  return chosen != nullptr ? std::atoi(chosen) : otherwise;
}

std::size_t device_bytes_in_use() {
  std::size_t bytes = 0;
  for (const auto& [address, block] : state().device) bytes += block.bytes;
  return bytes;
}

// Fresh addresses each time: who remembers an old one is found out.
void* map_device_memory(std::size_t bytes) {
  static std::uintptr_t next = 0x200000000000;
  void* const hint = reinterpret_cast<void*>(next);
  constexpr std::size_t kPage = 4096;
  next += (bytes / kPage + 2) * kPage;
  const int protection = state().unlocked > 0 ? PROT_READ | PROT_WRITE : PROT_NONE;
  return mmap(hint, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

// What a context takes with it when it goes.
template <typename Key, typename Value, typename DeviceOf, typename Release>
void take_all(std::map<Key, Value>& all, int device, DeviceOf device_of, Release release) {
  for (auto each = all.begin(); each != all.end();) {
    if (device_of(each->second) != device) {
      ++each;
      continue;
    }
    release(*each);
    each = all.erase(each);
  }
}

void destroy_all_of(const Context& context) {
  const auto of_block = [](const Block& block) { return block.device; };
  const auto itself = [](int device) { return device; };
  const auto drop = [](const auto& each) { delete each.first; };
  take_all(state().device, context.device, of_block,
           [](const auto& each) { munmap(pointer_to(each.first), each.second.bytes); });
  take_all(state().pinned, context.device, of_block, [](const auto& each) {
    if (!each.second.registered) std::free(pointer_to(each.first));
  });
  take_all(state().streams, context.device, itself, drop);
  take_all(state().events, context.device, itself, drop);
  take_all(state().modules, context.device, itself, drop);
  take_all(state().graphs, context.device, itself, drop);
  take_all(state().execs, context.device, itself, drop);
}

}  // namespace

FAKE_API int fake_cuda_live() {
  FAKE_ENTER;
  std::size_t live = state().device.size() + state().pinned.size() + state().streams.size() +
                     state().events.size() + state().modules.size() + state().graphs.size() +
                     state().execs.size() + context_stack().size();
  for (const auto& [device, context] : state().contexts) {
    live += static_cast<std::size_t>(context.retained);
  }
  return static_cast<int>(live);
}

FAKE_API int fake_cuda_has_context() { return context_stack().empty() ? 0 : 1; }

FAKE_API int fake_cuda_calls(const char* function) {
  FAKE_ENTER;
  const auto found = state().calls.find(function);
  return found == state().calls.end() ? 0 : found->second;
}

// By all downloads since the start, or since the calls were forgotten.
FAKE_API std::size_t fake_cuda_downloaded() {
  FAKE_ENTER;
  return state().downloaded;
}

FAKE_API const char* fake_cuda_failed() {
  FAKE_ENTER;
  return state().failed;
}

FAKE_API void fake_cuda_forget_calls() {
  FAKE_ENTER;
  state().calls.clear();
  state().downloaded = 0;
}

// The pointer itself where it is device memory of that size, else null.
FAKE_API void* fake_cuda_host(const void* device_pointer, std::size_t bytes) {
  FAKE_ENTER;
  return inside(state().device, address_of(device_pointer), bytes)
             ? const_cast<void*>(device_pointer)
             : nullptr;
}

FAKE_API Result cuMemGetInfo_v2(std::size_t* free, std::size_t* total) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kInvalidValue);
  NEEDS_CONTEXT;
  const char* const limit = std::getenv("AGP_EDGE_FAKE_CUDA_MEMORY");
  *total = limit != nullptr ? std::strtoull(limit, nullptr, 10) : std::size_t{8} << 30;
  *free = *total - device_bytes_in_use();
  return kSuccess;
}

FAKE_API Result cuInit(unsigned flags) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(100);
  return flags == 0 ? kSuccess : kInvalidValue;
}

FAKE_API Result cuDriverGetVersion(int* version) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kInvalidValue);
  *version = 12060;
  return kSuccess;
}

FAKE_API Result cuGetErrorName(Result error, const char** name) {
  static const std::map<Result, const char*> names = {
      {1, "CUDA_ERROR_INVALID_VALUE"},
      {2, "CUDA_ERROR_OUT_OF_MEMORY"},
      {100, "CUDA_ERROR_NO_DEVICE"},
      {201, "CUDA_ERROR_INVALID_CONTEXT"},
      {500, "CUDA_ERROR_NOT_FOUND"},
      {600, "CUDA_ERROR_NOT_READY"},
      {700, "CUDA_ERROR_ILLEGAL_ADDRESS"},
      {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"},
      {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"}};
  const auto found = names.find(error);
  *name = found == names.end() ? nullptr : found->second;
  return found == names.end() ? kInvalidValue : kSuccess;
}

FAKE_API Result cuGetErrorString(Result error, const char** text) {
  *text = error == kOutOfMemory ? "out of memory" : "a failure that the test asked for";
  return kSuccess;
}

FAKE_API Result cuDeviceGetCount(int* count) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kInvalidValue);
  *count = number_from("AGP_EDGE_FAKE_CUDA_DEVICES", 1);
  return kSuccess;
}

FAKE_API Result cuDeviceGet(int* device, int index) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kInvalidValue);
  *device = index;
  return kSuccess;
}

FAKE_API Result cuDeviceGetName(char* name, int length, int device) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kInvalidValue);
  std::snprintf(name, static_cast<std::size_t>(length), "Fake GPU %d", device);
  return kSuccess;
}

FAKE_API Result cuDeviceGetAttribute(int* value, int attribute, int /*device*/) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kInvalidValue);
  const char* const chosen = std::getenv("AGP_EDGE_FAKE_CUDA_SM");
  int major = 8;
  int minor = 7;
  if (chosen != nullptr) std::sscanf(chosen, "%d.%d", &major, &minor);
  *value = attribute == 75   ? major
           : attribute == 76 ? minor
           : attribute == 18 ? number_from("AGP_EDGE_FAKE_CUDA_INTEGRATED", 0)
           : attribute == 16 ? 4       // multiprocessors
           : attribute == 97 ? 101376  // shared memory that a block may opt in to
                             : 0;
  return kSuccess;
}

FAKE_API Result cuDevicePrimaryCtxRetain(Context** context, int device) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kOutOfMemory);
  *context = &state().contexts[device];
  (*context)->device = device;
  ++(*context)->retained;
  return kSuccess;
}

FAKE_API Result cuDevicePrimaryCtxRelease_v2(int device) {
  FAKE_ENTER;
  Context& context = state().contexts[device];
  if (context.retained == 0) std::abort();  // released more often than retained
  if (--context.retained == 0 && context.broken) {
    destroy_all_of(context);
    context.broken = false;
  }
  FAIL_IF_CHOSEN(kIllegalAddress);  // an earlier kernel's failure, as the driver reports them
  return kSuccess;
}

FAKE_API Result cuDevicePrimaryCtxReset_v2(int device) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kInvalidContext);
  destroy_all_of(state().contexts[device]);
  state().contexts[device].broken = false;
  return kSuccess;
}

FAKE_API Result cuCtxPushCurrent_v2(Context* context) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kInvalidContext);
  if (context->retained == 0) return kInvalidContext;  // the last owner has released it
  context_stack().push_back(context);
  return kSuccess;
}

FAKE_API Result cuCtxPopCurrent_v2(Context** context) {
  FAKE_ENTER;
  if (context_stack().empty()) return kInvalidContext;
  *context = context_stack().back();
  context_stack().pop_back();
  FAIL_IF_CHOSEN(kIllegalAddress);
  return kSuccess;
}

FAKE_API Result cuCtxSynchronize() {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kIllegalAddress);
  NEEDS_CONTEXT;
  NOT_WHILE_CAPTURING;
  for (const auto& [stream, count] : state().streams) run(*stream);
  run(state().legacy);
  run(state().per_thread);
  return kSuccess;
}

FAKE_API Result cuMemAlloc_v2(Address* address, std::size_t bytes) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kOutOfMemory);
  NEEDS_CONTEXT;
  NOT_WHILE_CAPTURING;
  if (bytes == 0) return kInvalidValue;
  const char* const limit = std::getenv("AGP_EDGE_FAKE_CUDA_MEMORY");
  if (limit != nullptr && device_bytes_in_use() + bytes > std::strtoull(limit, nullptr, 10)) {
    return kOutOfMemory;
  }
  void* const mapped = map_device_memory(bytes);
  if (mapped == MAP_FAILED) return kOutOfMemory;
  *address = address_of(mapped);
  state().device[*address] = {bytes, context_stack().back()->device, false};
  return kSuccess;
}

// For producers of frames: nothing of ours asks for it.
FAKE_API Result cuMemAllocManaged(Address* address, std::size_t bytes, unsigned flags) {
  if (flags != 1) return kInvalidValue;
  const Result result = cuMemAlloc_v2(address, bytes);
  if (result != kSuccess) return result;
  FAKE_ENTER;
  state().device[*address].managed = true;
  mprotect(pointer_to(*address), bytes, PROT_READ | PROT_WRITE);
  return kSuccess;
}

FAKE_API Result cuMemFree_v2(Address address) {
  FAKE_ENTER;
  if (context_stack().empty()) return kInvalidContext;
  const auto block = state().device.find(address);
  if (block == state().device.end()) std::abort();
  munmap(pointer_to(address), block->second.bytes);
  state().device.erase(block);
  FAIL_IF_CHOSEN(kIllegalAddress);
  return fake_cuda::usable_context();
}

FAKE_API Result cuMemHostAlloc(void** memory, std::size_t bytes, unsigned flags) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kOutOfMemory);
  NEEDS_CONTEXT;
  NOT_WHILE_CAPTURING;
  if (flags != kPortableAndMapped) return kInvalidValue;
  *memory = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (*memory == nullptr) return kOutOfMemory;
  state().pinned[address_of(*memory)] = {bytes, context_stack().back()->device, false};
  return kSuccess;
}

FAKE_API Result cuMemHostGetDevicePointer_v2(Address* address, void* memory, unsigned flags) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kInvalidValue);
  NEEDS_CONTEXT;
  if (flags != 0 || !inside(state().pinned, address_of(memory), 1)) return kInvalidValue;
  *address = address_of(memory);
  return kSuccess;
}

FAKE_API Result cuMemFreeHost(void* memory) {
  FAKE_ENTER;
  if (context_stack().empty()) return kInvalidContext;
  const auto block = state().pinned.find(address_of(memory));
  if (block == state().pinned.end() || block->second.registered) std::abort();
  state().pinned.erase(block);
  std::free(memory);
  FAIL_IF_CHOSEN(kIllegalAddress);
  return fake_cuda::usable_context();
}

FAKE_API Result cuMemHostRegister_v2(void* memory, std::size_t bytes, unsigned flags) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kOutOfMemory);
  NEEDS_CONTEXT;
  NOT_WHILE_CAPTURING;
  if (flags != kPortableAndMapped || inside(state().pinned, address_of(memory), 1)) {
    return kInvalidValue;
  }
  state().pinned[address_of(memory)] = {bytes, context_stack().back()->device, true};
  return kSuccess;
}

FAKE_API Result cuMemHostUnregister(void* memory) {
  FAKE_ENTER;
  if (context_stack().empty()) return kInvalidContext;
  const auto block = state().pinned.find(address_of(memory));
  if (block == state().pinned.end() || !block->second.registered) std::abort();
  state().pinned.erase(block);
  FAIL_IF_CHOSEN(kIllegalAddress);
  return fake_cuda::usable_context();
}

FAKE_API Result cuPointerGetAttribute(void* data, int attribute, Address address) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kInvalidValue);
  NEEDS_CONTEXT;
  const bool on_device = inside(state().device, address, 1);
  if (!on_device && !inside(state().pinned, address, 1)) return kInvalidValue;  // pageable
  const auto& blocks = on_device ? state().device : state().pinned;
  const Block& block = std::prev(blocks.upper_bound(address))->second;
  constexpr int kMemoryType = 2;
  constexpr int kDeviceOrdinal = 9;
  if (attribute == kMemoryType) {
    *static_cast<unsigned*>(data) = on_device ? 2 : 1;
  } else if (attribute == kDeviceOrdinal) {
    *static_cast<int*>(data) = block.device;
  } else {
    return kInvalidValue;
  }
  return kSuccess;
}

FAKE_API Result cuStreamCreate(Stream** stream, unsigned flags) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kOutOfMemory);
  NEEDS_CONTEXT;
  *stream = new Stream;
  (*stream)->waits_for_legacy = flags == 0;
  state().streams[*stream] = fake_cuda::current_device();
  return kSuccess;
}

FAKE_API Result cuStreamDestroy_v2(Stream* stream) {
  FAKE_ENTER;
  if (context_stack().empty()) return kInvalidContext;
  if (state().streams.erase(stream) == 0) std::abort();
  // Its buffers may be freed before the work is done; what a broken context had queued is lost.
  if (!stream->work.empty() && !context_stack().back()->broken) std::abort();
  delete stream;
  FAIL_IF_CHOSEN(kIllegalAddress);
  return fake_cuda::usable_context();
}

FAKE_API Result cuStreamSynchronize(void* handle) {
  FAKE_ENTER;
  NEEDS_CONTEXT;
  Stream& stream = stream_of(handle);
  if (stream.captured) {
    stream.invalidated = true;
    return fake_cuda::kCaptureUnsupported;
  }
  run(stream);
  FAIL_IF_CHOSEN(kIllegalAddress);
  return kSuccess;
}

FAKE_API Result cuStreamWaitEvent(void* handle, Event* event, unsigned flags) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kInvalidValue);
  NEEDS_CONTEXT;
  if (flags != 0 || state().events.count(event) == 0) return kInvalidValue;
  Work work;
  work.kind = Work::kWait;
  work.event = event;
  work.sequence = event->recorded;
  return enqueue(stream_of(handle), std::move(work));
}

FAKE_API Result cuEventCreate(Event** event, unsigned flags) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kOutOfMemory);
  NEEDS_CONTEXT;
  *event = new Event;
  (*event)->blocking = (flags & 1U) != 0;
  (*event)->timed = (flags & 2U) == 0;
  state().events[*event] = fake_cuda::current_device();
  return kSuccess;
}

FAKE_API Result cuEventDestroy_v2(Event* event) {
  FAKE_ENTER;
  if (context_stack().empty()) return kInvalidContext;
  if (state().events.erase(event) == 0) std::abort();
  delete event;
  FAIL_IF_CHOSEN(kIllegalAddress);
  return fake_cuda::usable_context();
}

FAKE_API Result cuEventRecord(Event* event, void* handle) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kInvalidValue);
  NEEDS_CONTEXT;
  if (state().events.count(event) == 0) return kInvalidValue;
  Stream& stream = stream_of(handle);
  Work work;
  work.kind = Work::kRecord;
  work.event = event;
  work.sequence = event->recorded + 1;
  const Result result = enqueue(stream, std::move(work));
  if (result != kSuccess) return result;
  ++event->recorded;
  event->stream = &stream;
  return kSuccess;
}

// As a node of the graph that the stream captures, which is all that the flag is for.
FAKE_API Result cuEventRecordWithFlags(Event* event, void* handle, unsigned flags) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kInvalidValue);
  NEEDS_CONTEXT;
  Stream& stream = stream_of(handle);
  if (flags != 1 || !stream.captured || state().events.count(event) == 0) return kInvalidValue;
  Work work;
  work.kind = Work::kRecord;
  work.event = event;
  return enqueue(stream, std::move(work));
}

FAKE_API Result cuEventElapsedTime(float* milliseconds, Event* start, Event* end) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kIllegalAddress);
  NEEDS_CONTEXT;
  for (const Event* event : {start, end}) {
    if (state().events.count(const_cast<Event*>(event)) == 0 || !event->timed) {
      return kInvalidValue;
    }
    if (event->recorded == 0 || event->done < event->recorded) return kNotReady;
  }
  *milliseconds = std::chrono::duration<float, std::milli>(end->time - start->time).count();
  return kSuccess;
}

// The second question finds the work done, so that both ways of asking are seen.
FAKE_API Result cuEventQuery(Event* event) {
  FAKE_ENTER;
  NEEDS_CONTEXT;
  if (event->done >= event->recorded) {
    FAIL_IF_CHOSEN(kIllegalAddress);
    return kSuccess;
  }
  run(*event->stream, event, event->recorded);
  return kNotReady;
}

FAKE_API Result cuEventSynchronize(Event* event) {
  FAKE_ENTER;
  NEEDS_CONTEXT;
  if (event->done < event->recorded) run(*event->stream, event, event->recorded);
  FAIL_IF_CHOSEN(kIllegalAddress);
  return kSuccess;
}

FAKE_API Result cuLaunchHostFunc(void* handle, void (*function)(void*), void* user) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kInvalidValue);
  NEEDS_CONTEXT;
  Work work;
  work.kind = Work::kHost;
  work.function = function;
  work.user = user;
  return enqueue(stream_of(handle), std::move(work));
}

FAKE_API Result cuMemcpyHtoDAsync_v2(Address to, const void* from, std::size_t bytes,
                                     void* handle) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kInvalidValue);
  NEEDS_CONTEXT;
  Work work;
  work.kind = Work::kCopy;
  work.to = pointer_to(to);
  work.from = static_cast<const char*>(from);
  work.bytes = bytes;
  if (!inside(state().device, to, bytes) || !may_copy(work)) return kInvalidValue;
  return enqueue(stream_of(handle), std::move(work));
}

FAKE_API Result cuMemcpyDtoHAsync_v2(void* to, Address from, std::size_t bytes, void* handle) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kInvalidValue);
  NEEDS_CONTEXT;
  Work work;
  work.kind = Work::kCopy;
  work.to = static_cast<char*>(to);
  work.from = pointer_to(from);
  work.bytes = bytes;
  if (!inside(state().device, from, bytes) || !may_copy(work)) return kInvalidValue;
  return enqueue(stream_of(handle), std::move(work));
}

FAKE_API Result cuMemcpyDtoDAsync_v2(Address to, Address from, std::size_t bytes, void* handle) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kInvalidValue);
  NEEDS_CONTEXT;
  Work work;
  work.kind = Work::kCopy;
  work.to = pointer_to(to);
  work.from = pointer_to(from);
  work.bytes = bytes;
  if (!inside(state().device, to, bytes) || !inside(state().device, from, bytes)) {
    return kInvalidValue;
  }
  return enqueue(stream_of(handle), std::move(work));
}

FAKE_API Result cuMemsetD32Async(Address to, unsigned word, std::size_t count, void* handle) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kInvalidValue);
  NEEDS_CONTEXT;
  if (!inside(state().device, to, count * sizeof(word))) return kInvalidValue;
  Work work;
  work.kind = Work::kFill;
  work.to = pointer_to(to);
  work.word = word;
  work.bytes = count * sizeof(word);
  return enqueue(stream_of(handle), std::move(work));
}
