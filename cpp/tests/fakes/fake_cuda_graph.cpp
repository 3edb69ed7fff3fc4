// The fake driver's modules, launches, capture and graphs.
#include <cstdlib>
#include <utility>

#include "fake_cuda_state.hpp"
#include "fake_kernels.hpp"

using fake_cuda::Address;
using fake_cuda::address_of;
using fake_cuda::Exec;
using fake_cuda::Graph;
using fake_cuda::inside;
using fake_cuda::Kernel;
using fake_cuda::kIllegalAddress;
using fake_cuda::kInvalidContext;
using fake_cuda::kInvalidValue;
using fake_cuda::kOutOfMemory;
using fake_cuda::kSuccess;
using fake_cuda::Module;
using fake_cuda::Node;
using fake_cuda::Result;
using fake_cuda::state;
using fake_cuda::Stream;
using fake_cuda::stream_of;
using fake_cuda::Work;

namespace {

constexpr Result kNotFound = 500;

// As cuda_driver.hpp declares them, which test_cuda_abi holds against cuda.h.
struct LaunchParams {
  Kernel* function;
  unsigned grid[3];
  unsigned block[3];
  unsigned shared_bytes;
  void** parameters;
  void** extra;
  void* kernel;
  void* context;
};
struct CopySide {
  std::size_t x, y, z, lod;
  int type;
  void* host;
  Address device;
  void* array;
  void* reserved;
  std::size_t pitch, height;

  char* pointer() const {
    constexpr int kHost = 1;
    constexpr int kDevice = 2;
    if (x != 0 || y != 0 || z != 0) return nullptr;
    return type == kHost     ? static_cast<char*>(host)
           : type == kDevice ? fake_cuda::pointer_to(device)
                             : nullptr;
  }
};
struct CopyParams {
  CopySide source, target;
  std::size_t width_bytes, height, depth;
};

Work* work_of(Exec* exec, const Node* node, Work::Kind kind) {
  if (state().execs.count(exec) == 0) std::abort();
  const auto found = exec->index.find(node);
  if (found == exec->index.end()) return nullptr;
  Work& work = exec->works[found->second];
  return work.kind == kind ? &work : nullptr;
}

Result give_nodes(const std::vector<Node*>& from, Node** nodes, std::size_t* count) {
  if (nodes != nullptr) {
    for (std::size_t i = 0; i < *count; ++i) nodes[i] = i < from.size() ? from[i] : nullptr;
    if (*count < from.size()) return kSuccess;
  }
  *count = from.size();
  return kSuccess;
}

}  // namespace

namespace fake_cuda {
void set_capturing(Stream* stream);
Stream* capturing_stream();
}  // namespace fake_cuda

FAKE_API Result cuModuleLoadData(Module** module, const void* image) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kOutOfMemory);
  NEEDS_CONTEXT;
  NOT_WHILE_CAPTURING;
  if (image == nullptr) return kInvalidValue;
  *module = new Module;
  state().modules[*module] = fake_cuda::current_device();
  return kSuccess;
}

FAKE_API Result cuModuleUnload(Module* module) {
  FAKE_ENTER;
  if (fake_cuda::context_stack().empty()) return kInvalidContext;
  if (state().modules.erase(module) == 0) std::abort();
  delete module;
  FAIL_IF_CHOSEN(kIllegalAddress);
  return fake_cuda::usable_context();
}

FAKE_API Result cuModuleGetFunction(Kernel** function, Module* module, const char* name) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kNotFound);
  NEEDS_CONTEXT;
  std::vector<std::size_t> parameter_bytes;
  if (!fake_cuda::find_kernel(name, parameter_bytes)) return kNotFound;
  std::unique_ptr<Kernel>& kernel = module->kernels[name];
  if (!kernel) kernel = std::make_unique<Kernel>(Kernel{name, std::move(parameter_bytes)});
  *function = kernel.get();
  return kSuccess;
}

FAKE_API Result cuFuncSetAttribute(Kernel* /*function*/, int /*attribute*/, int /*value*/) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kInvalidValue);
  NEEDS_CONTEXT;
  return kSuccess;
}

FAKE_API Result cuLaunchKernel(Kernel* function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                               unsigned block_x, unsigned block_y, unsigned block_z,
                               unsigned shared_bytes, void* handle, void** parameters,
                               void** extra) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kInvalidValue);
  NEEDS_CONTEXT;
  const unsigned grid[] = {grid_x, grid_y, grid_z};
  const unsigned block[] = {block_x, block_y, block_z};
  Work work;
  if (extra != nullptr ||
      !fake_cuda::make_launch(function, grid, block, shared_bytes, parameters, work.launch)) {
    return kInvalidValue;
  }
  return enqueue(stream_of(handle), std::move(work));
}

FAKE_API Result cuStreamBeginCapture_v2(void* handle, int mode) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kInvalidValue);
  NEEDS_CONTEXT;
  constexpr int kThreadLocal = 1;
  Stream& stream = stream_of(handle);
  if (mode != kThreadLocal || stream.captured || fake_cuda::capturing_stream() != nullptr) {
    return kInvalidValue;
  }
  stream.captured = std::make_unique<Graph>();
  stream.invalidated = false;
  fake_cuda::set_capturing(&stream);
  return kSuccess;
}

FAKE_API Result cuStreamIsCapturing(void* handle, int* status) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kInvalidValue);
  *status = stream_of(handle).captured ? 1 : 0;
  return kSuccess;
}

FAKE_API Result cuStreamEndCapture(void* handle, Graph** graph) {
  FAKE_ENTER;
  *graph = nullptr;
  Stream& stream = stream_of(handle);
  if (!stream.captured || fake_cuda::capturing_stream() != &stream) return kInvalidValue;
  fake_cuda::set_capturing(nullptr);
  const std::unique_ptr<Graph> captured = std::move(stream.captured);
  FAIL_IF_CHOSEN(kIllegalAddress);
  NEEDS_CONTEXT;
  if (stream.invalidated) return fake_cuda::kCaptureInvalidated;
  *graph = new Graph(std::move(*captured));
  state().graphs[*graph] = fake_cuda::current_device();
  return kSuccess;
}

FAKE_API Result cuGraphInstantiateWithFlags(Exec** exec, Graph* graph, unsigned long long flags) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kOutOfMemory);
  NEEDS_CONTEXT;
  if (flags != 0 || state().graphs.count(graph) == 0) return kInvalidValue;
  *exec = new Exec;
  for (const auto& node : graph->nodes) {
    (*exec)->index[node.get()] = (*exec)->works.size();
    (*exec)->works.push_back(node->work);
  }
  state().execs[*exec] = fake_cuda::current_device();
  return kSuccess;
}

FAKE_API Result cuGraphLaunch(Exec* exec, void* handle) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kOutOfMemory);
  NEEDS_CONTEXT;
  if (state().execs.count(exec) == 0) std::abort();
  for (Work work : exec->works) {
    if (work.kind == Work::kRecord) {
      if (state().events.count(work.event) == 0) std::abort();
      work.sequence = ++work.event->recorded;
      work.event->stream = &stream_of(handle);
    }
    const Result result = enqueue(stream_of(handle), std::move(work));
    if (result != kSuccess) return result;
  }
  return kSuccess;
}

FAKE_API Result cuGraphExecDestroy(Exec* exec) {
  FAKE_ENTER;
  if (state().execs.erase(exec) == 0) std::abort();
  delete exec;
  FAIL_IF_CHOSEN(kIllegalAddress);
  return fake_cuda::usable_context();
}

FAKE_API Result cuGraphDestroy(Graph* graph) {
  FAKE_ENTER;
  if (state().graphs.erase(graph) == 0) std::abort();
  delete graph;
  FAIL_IF_CHOSEN(kIllegalAddress);
  return fake_cuda::usable_context();
}

FAKE_API Result cuGraphGetNodes(Graph* graph, Node** nodes, std::size_t* count) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kInvalidValue);
  std::vector<Node*> all;
  for (const auto& node : graph->nodes) all.push_back(node.get());
  return give_nodes(all, nodes, count);
}

FAKE_API Result cuGraphGetRootNodes(Graph* graph, Node** nodes, std::size_t* count) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kInvalidValue);
  std::vector<Node*> roots;
  if (!graph->nodes.empty()) roots.push_back(graph->nodes.front().get());
  return give_nodes(roots, nodes, count);
}

FAKE_API Result cuGraphNodeGetType(Node* node, int* type) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kInvalidValue);
  *type = node->work.kind;
  return kSuccess;
}

FAKE_API Result cuGraphExecKernelNodeSetParams_v2(Exec* exec, Node* node,
                                                  const LaunchParams* params) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kInvalidValue);
  NEEDS_CONTEXT;
  Work* const work = work_of(exec, node, Work::kKernel);
  if (work == nullptr || params->function != work->launch.kernel || params->extra != nullptr ||
      !fake_cuda::make_launch(params->function, params->grid, params->block, params->shared_bytes,
                              params->parameters, work->launch)) {
    return kInvalidValue;
  }
  return kSuccess;
}

// One dimension only, and memory of the same kinds: that is all that the driver takes.
FAKE_API Result cuGraphExecMemcpyNodeSetParams(Exec* exec, Node* node, const CopyParams* params,
                                               void* context) {
  FAKE_ENTER;
  FAIL_IF_CHOSEN(kInvalidValue);
  NEEDS_CONTEXT;
  Work* const work = work_of(exec, node, Work::kCopy);
  if (work == nullptr || context != fake_cuda::context_stack().back() || params->height != 1 ||
      params->depth != 1 || params->width_bytes == 0) {
    return kInvalidValue;
  }
  Work changed = *work;
  changed.from = params->source.pointer();
  changed.to = params->target.pointer();
  changed.bytes = params->width_bytes;
  const bool to_device = inside(state().device, address_of(work->to), 1);
  if (changed.from == nullptr || changed.to == nullptr || !may_copy(changed) ||
      inside(state().device, address_of(changed.to), 1) != to_device) {
    return kInvalidValue;
  }
  *work = changed;
  return kSuccess;
}
