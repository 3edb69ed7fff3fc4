#include "cuda/cuda_graph.hpp"

#include <mutex>
#include <utility>

#include "agp_edge/error.hpp"

namespace agp_edge::cuda {
namespace {

// Calls of other threads are none of the capture's business.
constexpr int kCaptureThreadLocal = 1;
constexpr int kMemoryHost = 1;
constexpr int kMemoryDevice = 2;
constexpr const char* kRecording = "recording a frame's work as a CUDA graph";

}  // namespace

Graph::Graph(std::shared_ptr<const Context> context, Stream stream,
             const std::function<void()>& work)
    : context_(std::move(context)) {
  const Driver& driver = context_->driver();
  {
    const std::lock_guard<std::mutex> lock(capture_mutex());
    driver.check(driver.cuStreamBeginCapture_v2(stream, kCaptureThreadLocal), kRecording);
    try {
      work();
    } catch (...) {
      if (driver.cuStreamEndCapture(stream, &graph_) == 0 && graph_ != nullptr) {
        driver.cuGraphDestroy(graph_);
      }
      throw;
    }
    driver.check(driver.cuStreamEndCapture(stream, &graph_), kRecording);
  }
  try {
    driver.check(driver.cuGraphGetNodes(graph_, nullptr, &nodes_), kRecording);
    std::size_t roots = 1;
    if (nodes_ > 0) {
      driver.check(driver.cuGraphGetRootNodes(graph_, &first_, &roots), kRecording);
    }
    driver.check(driver.cuGraphInstantiateWithFlags(&exec_, graph_, 0), kRecording);
  } catch (...) {
    driver.cuGraphDestroy(graph_);
    throw;
  }
}

Graph::~Graph() {
  release_in(*context_, [this](const Driver& driver) {
    driver.cuGraphExecDestroy(exec_);
    driver.cuGraphDestroy(graph_);
  });
}

void Graph::set_first(const LaunchParams& launch) {
  const Driver& driver = context_->driver();
  driver.check(driver.cuGraphExecKernelNodeSetParams_v2(exec_, first_, &launch),
               "giving the graph the frame's address");
}

void Graph::set_first(Address to, const void* from, std::size_t bytes) {
  CopyParams copy{};
  copy.source_type = kMemoryHost;
  copy.source_host = from;
  copy.target_type = kMemoryDevice;
  copy.target_device = to;
  copy.source_pitch = copy.target_pitch = copy.width_bytes = bytes;
  copy.source_height = copy.target_height = copy.height = copy.depth = 1;
  const Driver& driver = context_->driver();
  driver.check(driver.cuGraphExecMemcpyNodeSetParams(exec_, first_, &copy, context_->handle()),
               "giving the graph the frame's address");
}

void Graph::launch(Stream stream) {
  const Driver& driver = context_->driver();
  driver.check(driver.cuGraphLaunch(exec_, stream), "launching the frame's work on the GPU");
}

}  // namespace agp_edge::cuda
