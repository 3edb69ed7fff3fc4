// What the fake driver remembers: memory, streams and what is queued in them, graphs.
//
// Owns     everything that was made and not released yet; never destroyed.
// Threads  every function of the driver holds `mutex`, also while work runs.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#define FAKE_API extern "C" __attribute__((visibility("default")))

namespace fake_cuda {

using Result = int;
using Address = unsigned long long;

constexpr Result kSuccess = 0;
constexpr Result kInvalidValue = 1;
constexpr Result kOutOfMemory = 2;
constexpr Result kInvalidContext = 201;
constexpr Result kNotReady = 600;
constexpr Result kIllegalAddress = 700;
constexpr Result kCaptureUnsupported = 900;
constexpr Result kCaptureInvalidated = 901;

struct Context {
  int device = 0;
  int retained = 0;
  bool broken = false;  // an error that stays until the context is gone
};

struct Block {
  std::size_t bytes = 0;
  int device = 0;
  bool registered = false;  // pinned, and the memory of somebody else
  bool managed = false;     // the host may touch it at any time
};

struct Kernel {
  std::string name;
  std::vector<std::size_t> parameter_bytes;
};

struct Launch {
  const Kernel* kernel = nullptr;
  unsigned grid[3] = {};
  unsigned block[3] = {};
  unsigned shared_bytes = 0;
  std::vector<std::vector<char>> parameters;  // copied when the launch is queued, as a driver does
};

struct Event {
  std::uint64_t recorded = 0;
  std::uint64_t done = 0;
  struct Stream* stream = nullptr;  // of the last record
  bool blocking = false;            // made for waiting without spinning
  bool timed = false;
  std::chrono::steady_clock::time_point time;  // when the work before it was done
};

struct Work {
  // The first four are CUgraphNodeType's numbers.
  enum Kind { kKernel, kCopy, kFill, kHost, kRecord, kWait } kind = kKernel;
  Launch launch;
  char* to = nullptr;  // device or pinned memory
  const char* from = nullptr;
  std::size_t bytes = 0;
  unsigned word = 0;
  void (*function)(void*) = nullptr;
  void* user = nullptr;
  Event* event = nullptr;
  std::uint64_t sequence = 0;
};

struct Node {
  Work work;
};

struct Graph {
  std::vector<std::unique_ptr<Node>> nodes;  // each depends on the one before
};

struct Exec {
  std::vector<Work> works;
  std::map<const Node*, std::size_t> index;
};

struct Stream {
  std::vector<Work> work;
  bool waits_for_legacy = false;
  std::unique_ptr<Graph> captured;  // while it captures
  bool invalidated = false;
};

struct Module {
  std::map<std::string, std::unique_ptr<Kernel>> kernels;
};

struct State {
  std::recursive_mutex mutex;
  std::map<int, Context> contexts;
  std::map<Address, Block> device;
  std::map<Address, Block> pinned;
  // Each with its device.
  std::map<Stream*, int> streams;
  std::map<Event*, int> events;
  std::map<Module*, int> modules;
  std::map<Graph*, int> graphs;
  std::map<Exec*, int> execs;
  std::map<std::string, int, std::less<>> calls;
  const char* failed = "";     // the last function that was made to fail
  Stream legacy;               // the handles 0 and 1
  Stream per_thread;           // the handle 2
  int unlocked = 0;            // while work runs, device memory can be touched
  std::size_t downloaded = 0;  // bytes that copies brought to the host
};

State& state();
std::vector<Context*>& context_stack();

// Counts the call; whether AGP_EDGE_FAKE_CUDA_FAIL chose it.
bool should_fail(const char* function);

// 0, or why the calling thread cannot make this call: no context, or one that is broken.
Result usable_context();

// Whether [at, at + bytes) lies in one of the blocks.
bool inside(const std::map<Address, Block>& blocks, Address at, std::size_t bytes);

Stream& stream_of(void* handle);
int current_device();  // of the context that is current

// In the thread that captures, calls that could wait for other streams are refused, and end it.
Result refuse_while_capturing();

// Into the stream, or into the graph that it captures.
Result enqueue(Stream& stream, Work work);

// Runs what is queued: all, or up to the record of an event.
void run(Stream& stream, const Event* until = nullptr, std::uint64_t sequence = 0);

// What cuLaunchKernel and a kernel node take; nothing where parameters do not fit.
bool make_launch(const Kernel* kernel, const unsigned* grid, const unsigned* block,
                 unsigned shared_bytes, void** parameters, Launch& launch);
// Of the memory that a copy may use; false where it may not.
bool may_copy(const Work& work);

inline Address address_of(const void* pointer) {
  return static_cast<Address>(reinterpret_cast<std::uintptr_t>(pointer));
}
inline char* pointer_to(Address address) { return reinterpret_cast<char*>(address); }

}  // namespace fake_cuda

// At the start of a function of the driver.
#define FAKE_ENTER const std::lock_guard<std::recursive_mutex> entered(fake_cuda::state().mutex)
#define FAIL_IF_CHOSEN(code) \
  if (fake_cuda::should_fail(__func__)) return code
#define NEEDS_CONTEXT                                                 \
  if (const fake_cuda::Result unusable = fake_cuda::usable_context(); \
      unusable != fake_cuda::kSuccess)                                \
  return unusable
#define NOT_WHILE_CAPTURING                                                  \
  if (const fake_cuda::Result refused = fake_cuda::refuse_while_capturing(); \
      refused != fake_cuda::kSuccess)                                        \
  return refused
