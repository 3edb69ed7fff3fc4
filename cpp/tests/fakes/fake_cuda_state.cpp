#include "fake_cuda_state.hpp"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <utility>

#include "fake_kernels.hpp"

namespace fake_cuda {
namespace {

// Where a stream of this thread captures; one at a time is enough.
Stream*& capturing() {
  thread_local Stream* stream = nullptr;
  return stream;
}

void protect(int protection) {
  for (const auto& [address, block] : state().device) {
    if (!block.managed) mprotect(pointer_to(address), block.bytes, protection);
  }
}

// Device memory can be touched while work runs, and at no other time.
class Unlocked {
 public:
  Unlocked() {
    if (state().unlocked++ == 0) protect(PROT_READ | PROT_WRITE);
  }
  ~Unlocked() {
    if (--state().unlocked == 0) protect(PROT_NONE);
  }
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;
};

void perform(Work& work) {
  switch (work.kind) {
    case Work::kKernel:
      run_kernel(work.launch);
      break;
    case Work::kCopy:
      if (!may_copy(work)) std::abort();  // freed between the call and its turn
      std::memcpy(work.to, work.from, work.bytes);
      if (inside(state().pinned, address_of(work.to), work.bytes)) {
        state().downloaded += work.bytes;
      }
      break;
    case Work::kFill:
      if (!inside(state().device, address_of(work.to), work.bytes)) std::abort();
      for (std::size_t i = 0; i < work.bytes; i += sizeof(work.word)) {
        std::memcpy(work.to + i, &work.word, sizeof(work.word));
      }
      break;
    case Work::kHost:
      work.function(work.user);
      break;
    case Work::kRecord:
      work.event->done = work.sequence;
      work.event->time = std::chrono::steady_clock::now();
      break;
    case Work::kWait:
      if (work.event->done < work.sequence) run(*work.event->stream, work.event, work.sequence);
      break;
  }
}

}  // namespace

State& state() {
  static auto* const made = new State;
  return *made;
}

std::vector<Context*>& context_stack() {
  thread_local std::vector<Context*> stack;
  return stack;
}

int current_device() { return context_stack().back()->device; }

bool should_fail(const char* function) {
  const auto count = [](const char* name) {
    const auto found = state().calls.find(name);
    return found != state().calls.end() ? ++found->second : (state().calls[name] = 1);
  };
  const int call = count(function);
  const int any = count("*");
  const char* chosen = std::getenv("AGP_EDGE_FAKE_CUDA_FAIL");
  if (chosen == nullptr) return false;
  const std::string text = chosen;
  const std::size_t colon = text.find(':');
  const std::string name = text.substr(0, colon);
  const int which = colon == std::string::npos ? 1 : std::atoi(text.c_str() + colon + 1);
  if ((name != function || call != which) && (name != "*" || any != which)) return false;
  state().failed = function;
  if (text.find(":sticky") != std::string::npos) {
    for (auto& [device, context] : state().contexts) context.broken = context.retained > 0;
  }
  return true;
}

Result usable_context() {
  if (context_stack().empty()) return kInvalidContext;
  return context_stack().back()->broken ? kIllegalAddress : kSuccess;
}

bool inside(const std::map<Address, Block>& blocks, Address at, std::size_t bytes) {
  auto block = blocks.upper_bound(at);
  if (block == blocks.begin()) return false;
  --block;
  return at + bytes <= block->first + block->second.bytes;
}

Stream& stream_of(void* handle) {
  const auto number = reinterpret_cast<std::uintptr_t>(handle);
  if (number <= 1) return state().legacy;
  if (number == 2) return state().per_thread;
  auto* const stream = static_cast<Stream*>(handle);
  if (state().streams.count(stream) == 0) std::abort();  // destroyed before
  return *stream;
}

Result refuse_while_capturing() {
  if (capturing() == nullptr) return kSuccess;
  capturing()->invalidated = true;
  return kCaptureUnsupported;
}

Result enqueue(Stream& stream, Work work) {
  if (!stream.captured) {
    stream.work.push_back(std::move(work));
    return kSuccess;
  }
  // A record that was asked for as a node of the graph has no number yet.
  const bool is_node =
      work.kind != Work::kWait && (work.kind != Work::kRecord || work.sequence == 0);
  if (!is_node) {
    stream.invalidated = true;  // forks are not played
    return kCaptureUnsupported;
  }
  if (stream.invalidated) return kCaptureInvalidated;
  stream.captured->nodes.push_back(std::make_unique<Node>(Node{std::move(work)}));
  return kSuccess;
}

void run(Stream& stream, const Event* until, std::uint64_t sequence) {
  const Unlocked unlocked;
  if (&stream == &state().legacy) {
    for (const auto& [other, count] : state().streams) {
      if (other->waits_for_legacy) run(*other);
    }
  }
  while (!stream.work.empty()) {
    if (until != nullptr && until->done >= sequence) return;
    Work work = std::move(stream.work.front());
    stream.work.erase(stream.work.begin());
    perform(work);
  }
}

bool make_launch(const Kernel* kernel, const unsigned* grid, const unsigned* block,
                 unsigned shared_bytes, void** parameters, Launch& launch) {
  launch.kernel = kernel;
  launch.shared_bytes = shared_bytes;
  unsigned long threads = 1;
  for (int i = 0; i < 3; ++i) {
    if (grid[i] == 0 || block[i] == 0) return false;
    launch.grid[i] = grid[i];
    launch.block[i] = block[i];
    threads *= block[i];
  }
  if (threads > 1024) return false;
  launch.parameters.clear();
  for (std::size_t i = 0; i < kernel->parameter_bytes.size(); ++i) {
    const char* const value = static_cast<const char*>(parameters[i]);
    launch.parameters.emplace_back(value, value + kernel->parameter_bytes[i]);
  }
  return true;
}

bool may_copy(const Work& work) {
  const Address to = address_of(work.to);
  const Address from = address_of(work.from);
  const State& s = state();
  const bool to_device = inside(s.device, to, work.bytes);
  const bool from_device = inside(s.device, from, work.bytes);
  return (to_device && (from_device || inside(s.pinned, from, work.bytes))) ||
         (inside(s.pinned, to, work.bytes) && from_device);
}

void set_capturing(Stream* stream) { capturing() = stream; }
Stream* capturing_stream() { return capturing(); }

}  // namespace fake_cuda
