// NVIDIA's CUDA driver, opened on demand: no toolkit at compile time, nothing linked.
//
// The types below are the driver's stable binary interface, declared here because a wheel has to
// be compiled on machines that have no cuda.h; test_cuda_abi.cpp holds them against cuda.h.
//
// Owns     each class one resource, released in its destructor, which swallows errors.
// Threads  any; a Current makes its context current on the calling thread only.
// Blocks   synchronize() until the stream's work is done.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "agp_edge/engine.hpp"

struct CUctx_st;
struct CUevent_st;
struct CUfunc_st;
struct CUgraph_st;
struct CUgraphExec_st;
struct CUgraphNode_st;
struct CUkern_st;
struct CUmod_st;

namespace agp_edge::cuda {

using Result = int;                  // CUresult, 0 is success
using DeviceHandle = int;            // CUdevice
using ContextHandle = CUctx_st*;     // CUcontext
using EventHandle = CUevent_st*;     // CUevent
using ModuleHandle = CUmod_st*;      // CUmodule
using FunctionHandle = CUfunc_st*;   // CUfunction
using GraphHandle = CUgraph_st*;     // CUgraph
using ExecHandle = CUgraphExec_st*;  // CUgraphExec
using NodeHandle = CUgraphNode_st*;  // CUgraphNode
using Address = unsigned long long;  // CUdeviceptr

// CUDA_MEMCPY3D_v2.
struct CopyParams {
  std::size_t source_x, source_y, source_z, source_lod;
  int source_type;  // CUmemorytype
  const void* source_host;
  Address source_device;
  void* source_array;
  void* source_reserved;
  std::size_t source_pitch, source_height;
  std::size_t target_x, target_y, target_z, target_lod;
  int target_type;
  void* target_host;
  Address target_device;
  void* target_array;
  void* target_reserved;
  std::size_t target_pitch, target_height;
  std::size_t width_bytes, height, depth;
};

// CUDA_KERNEL_NODE_PARAMS_v2: one launch of a kernel.
struct LaunchParams {
  FunctionHandle function;
  unsigned grid_x, grid_y, grid_z;     // blocks
  unsigned block_x, block_y, block_z;  // threads
  unsigned shared_bytes;               // dynamic shared memory of a block
  void** parameters;                   // address of each parameter
  void** extra;
  CUkern_st* kernel;
  ContextHandle context;
};

// Name, then result and parameters: one entry per driver function that is used.
#define AGP_EDGE_CUDA_FUNCTIONS(X)                                                               \
  X(cuInit, (unsigned))                                                                          \
  X(cuDriverGetVersion, (int*))                                                                  \
  X(cuGetErrorName, (Result, const char**))                                                      \
  X(cuGetErrorString, (Result, const char**))                                                    \
  X(cuDeviceGetCount, (int*))                                                                    \
  X(cuDeviceGet, (DeviceHandle*, int))                                                           \
  X(cuDeviceGetName, (char*, int, DeviceHandle))                                                 \
  X(cuDeviceGetAttribute, (int*, int, DeviceHandle))                                             \
  X(cuDevicePrimaryCtxRetain, (ContextHandle*, DeviceHandle))                                    \
  X(cuDevicePrimaryCtxRelease_v2, (DeviceHandle))                                                \
  X(cuDevicePrimaryCtxReset_v2, (DeviceHandle))                                                  \
  X(cuCtxPushCurrent_v2, (ContextHandle))                                                        \
  X(cuCtxPopCurrent_v2, (ContextHandle*))                                                        \
  X(cuCtxSynchronize, ())                                                                        \
  X(cuMemAlloc_v2, (Address*, std::size_t))                                                      \
  X(cuMemFree_v2, (Address))                                                                     \
  X(cuMemGetInfo_v2, (std::size_t*, std::size_t*))                                               \
  X(cuMemHostAlloc, (void**, std::size_t, unsigned))                                             \
  X(cuMemHostGetDevicePointer_v2, (Address*, void*, unsigned))                                   \
  X(cuMemFreeHost, (void*))                                                                      \
  X(cuMemHostRegister_v2, (void*, std::size_t, unsigned))                                        \
  X(cuMemHostUnregister, (void*))                                                                \
  X(cuPointerGetAttribute, (void*, int, Address))                                                \
  X(cuStreamCreate, (Stream*, unsigned))                                                         \
  X(cuStreamDestroy_v2, (Stream))                                                                \
  X(cuStreamSynchronize, (Stream))                                                               \
  X(cuStreamWaitEvent, (Stream, EventHandle, unsigned))                                          \
  X(cuStreamBeginCapture_v2, (Stream, int))                                                      \
  X(cuStreamEndCapture, (Stream, GraphHandle*))                                                  \
  X(cuEventCreate, (EventHandle*, unsigned))                                                     \
  X(cuEventDestroy_v2, (EventHandle))                                                            \
  X(cuEventRecord, (EventHandle, Stream))                                                        \
  X(cuEventRecordWithFlags, (EventHandle, Stream, unsigned))                                     \
  X(cuEventQuery, (EventHandle))                                                                 \
  X(cuEventSynchronize, (EventHandle))                                                           \
  X(cuEventElapsedTime, (float*, EventHandle, EventHandle))                                      \
  X(cuMemcpyHtoDAsync_v2, (Address, const void*, std::size_t, Stream))                           \
  X(cuMemcpyDtoHAsync_v2, (void*, Address, std::size_t, Stream))                                 \
  X(cuMemcpyDtoDAsync_v2, (Address, Address, std::size_t, Stream))                               \
  X(cuMemsetD32Async, (Address, unsigned, std::size_t, Stream))                                  \
  X(cuModuleLoadData, (ModuleHandle*, const void*))                                              \
  X(cuModuleUnload, (ModuleHandle))                                                              \
  X(cuModuleGetFunction, (FunctionHandle*, ModuleHandle, const char*))                           \
  X(cuFuncSetAttribute, (FunctionHandle, int, int))                                              \
  X(cuLaunchKernel, (FunctionHandle, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, \
                     unsigned, Stream, void**, void**))                                          \
  X(cuGraphInstantiateWithFlags, (ExecHandle*, GraphHandle, unsigned long long))                 \
  X(cuGraphLaunch, (ExecHandle, Stream))                                                         \
  X(cuGraphExecDestroy, (ExecHandle))                                                            \
  X(cuGraphDestroy, (GraphHandle))                                                               \
  X(cuGraphGetNodes, (GraphHandle, NodeHandle*, std::size_t*))                                   \
  X(cuGraphGetRootNodes, (GraphHandle, NodeHandle*, std::size_t*))                               \
  X(cuGraphNodeGetType, (NodeHandle, int*))                                                      \
  X(cuGraphExecKernelNodeSetParams_v2, (ExecHandle, NodeHandle, const LaunchParams*))            \
  X(cuGraphExecMemcpyNodeSetParams, (ExecHandle, NodeHandle, const CopyParams*, ContextHandle))

// The driver's functions by their own names: driver.cuInit(0).
struct Driver {
#define AGP_EDGE_CUDA_MEMBER(name, parameters) Result(*name) parameters = nullptr;
  AGP_EDGE_CUDA_FUNCTIONS(AGP_EDGE_CUDA_MEMBER)
#undef AGP_EDGE_CUDA_MEMBER

  int version = 0;  // newest CUDA that the driver runs: 12060 is 12.6

  // Opens and starts the driver: libcuda.so.1, or the file that AGP_EDGE_CUDA_DRIVER names. It
  // stays open until the process ends. Throws DeviceError: no driver, or it does not start.
  static const Driver& open();

  std::string text(Result result) const;  // "CUDA_ERROR_X (text)"

  // Throws DeviceError "<doing> failed with CUDA_ERROR_X (text)" unless `result` is 0.
  void check(Result result, const char* doing) const;
};

struct Device {
  int index = 0;
  std::string name;
  int major = 0;  // compute capability
  int minor = 0;
  bool integrated = false;  // CPU and GPU share one memory, as on a Jetson
  int driver_version = 0;

  std::string text() const;  // "Orin (SM 8.7, driver for CUDA 12.6)"
};

// Throws DeviceError: no driver, no device, or no device of that index (those that are, named).
Device device_at(int index);

// The device's primary context, the one that CUDA's runtime and TensorRT use too.
//
// After some errors (an illegal address, a kernel that fails) every call of that context fails, in
// the whole process. The constructor then resets the device, and whoever used the old context is
// left with one that is lost(): what it owned is gone, its releases do nothing.
class Context {
 public:
  // Throws DeviceError.
  explicit Context(int device_index);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  const Driver& driver() const noexcept { return driver_; }
  const Device& device() const noexcept { return device_; }
  ContextHandle handle() const noexcept { return handle_; }
  bool lost() const noexcept { return resets_ != *all_resets_; }

 private:
  void retain();
  bool works() const;
  void reset();

  Device device_;
  const Driver& driver_;
  DeviceHandle ordinal_ = 0;
  ContextHandle handle_ = nullptr;
  std::shared_ptr<std::atomic<unsigned>> all_resets_;  // of the device, in this process
  unsigned resets_ = 0;                                // when this object was made
};

// Held while a stream captures: a reset of the device would meet it half way.
std::mutex& capture_mutex();

// Makes a context current on this thread until the end of the scope. Throws DeviceError, also where
// the context is lost.
class Current {
 public:
  explicit Current(const Context& context);
  ~Current();
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;

 private:
  const Context& context_;
};

// For destructors: an error has nobody to go to, and the rest must still be released.
template <typename Release>
void release_in(const Context& context, Release release) noexcept {
  if (context.lost()) return;
  const Driver& driver = context.driver();
  // The first call may only report what an earlier launch did.
  const bool pushed = driver.cuCtxPushCurrent_v2(context.handle()) == 0 ||
                      driver.cuCtxPushCurrent_v2(context.handle()) == 0;
  release(driver);
  ContextHandle popped = nullptr;
  if (pushed) driver.cuCtxPopCurrent_v2(&popped);
}

class DeviceBuffer {
 public:
  DeviceBuffer(std::shared_ptr<const Context> context, std::size_t bytes);
  ~DeviceBuffer();
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  Address address() const noexcept { return address_; }
  void* pointer() const noexcept { return reinterpret_cast<void*>(address_); }
  std::size_t bytes() const noexcept { return bytes_; }

 private:
  std::shared_ptr<const Context> context_;
  std::size_t bytes_;
  Address address_ = 0;
};

// Page-locked host memory: the only kind that is copied without waiting. The GPU can read it where
// it is, which pays where both share one memory.
class PinnedBuffer {
 public:
  PinnedBuffer(std::shared_ptr<const Context> context, std::size_t bytes);
  ~PinnedBuffer();
  PinnedBuffer(const PinnedBuffer&) = delete;
  PinnedBuffer& operator=(const PinnedBuffer&) = delete;

  void* data() const noexcept { return data_; }
  std::size_t bytes() const noexcept { return bytes_; }

 private:
  std::shared_ptr<const Context> context_;
  std::size_t bytes_;
  void* data_ = nullptr;
};

// Page-locks memory of somebody else's until the end of its life.
class PinnedPages {
 public:
  PinnedPages(std::shared_ptr<const Context> context, void* memory, std::size_t bytes);
  ~PinnedPages();
  PinnedPages(const PinnedPages&) = delete;
  PinnedPages& operator=(const PinnedPages&) = delete;

 private:
  std::shared_ptr<const Context> context_;
  void* memory_;
};

// The GPU's address of pinned memory. Its context is current. Throws DeviceError.
Address device_address(const Context& context, const void* pinned);

// What the driver knows of an address. The context is current.
enum class AddressKind : std::uint8_t { kUnknown, kPinnedHost, kDevice };  // unknown: pageable
AddressKind address_kind(const Context& context, Address address) noexcept;
int address_device(const Context& context, Address address) noexcept;  // -1: unknown

// A mark in a stream, for another stream or for the host to wait at. Functions need its context to
// be current, and throw DeviceError.
class Event {
 public:
  // kSpin: wait() asks until the work is done; kBlock: it sleeps.
  explicit Event(std::shared_ptr<const Context> context, Wait wait = Wait::kSpin);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  Result record(Stream stream) noexcept;  // the driver's answer: the stream may be a stranger's
  void hold(Stream stream);               // until what was recorded is done
  void wait();                            // the host, until what was recorded is done

 private:
  std::shared_ptr<const Context> context_;
  Wait wait_;
  EventHandle event_ = nullptr;
};

// A mark in a stream that keeps the GPU's time. Functions need its context to be current, and throw
// DeviceError.
class TimedEvent {
 public:
  explicit TimedEvent(std::shared_ptr<const Context> context);
  ~TimedEvent();
  TimedEvent(const TimedEvent&) = delete;
  TimedEvent& operator=(const TimedEvent&) = delete;

  // `recording`: the stream captures a graph, of which the mark becomes a node.
  void mark(Stream stream, bool recording);
  double milliseconds_since(const TimedEvent& earlier) const;  // both are done

 private:
  std::shared_ptr<const Context> context_;
  EventHandle event_ = nullptr;
};

// A stream that does not wait for the legacy default stream. Its functions need its context to be
// current, and throw DeviceError.
class OwnedStream {
 public:
  explicit OwnedStream(std::shared_ptr<const Context> context);
  ~OwnedStream();  // waits for the stream's work: its buffers may die next
  OwnedStream(const OwnedStream&) = delete;
  OwnedStream& operator=(const OwnedStream&) = delete;

  Stream get() const noexcept { return stream_; }
  // Host memory is pinned.
  void upload(Address to, const void* from, std::size_t bytes);
  void download(void* to, Address from, std::size_t bytes);
  void fill(const DeviceBuffer& buffer, std::uint32_t word);  // bytes() is a multiple of 4
  void synchronize();
  // Waits as synchronize() does, for those who report another error. False: the GPU's context does
  // not work any more.
  bool drain() noexcept;

 private:
  std::shared_ptr<const Context> context_;
  Stream stream_ = nullptr;
};

}  // namespace agp_edge::cuda
