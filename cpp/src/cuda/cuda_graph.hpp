// A stream's work, recorded once and launched as one thing.
//
// Owns     the graph and its executable form.
// Borrows  the buffers that its work uses, until the last launch is done.
// Threads  not re-entrant. Its context is current in every call.
// Blocks   the constructor, while the driver builds the executable form.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

#include "cuda/cuda_driver.hpp"

namespace agp_edge::cuda {

class Graph {
 public:
  // Records what `work` puts into the stream; nothing of it runs. What `work` throws comes out, and
  // the stream is as before. Throws DeviceError where the driver refuses one of its calls.
  Graph(std::shared_ptr<const Context> context, Stream stream, const std::function<void()>& work);
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  std::size_t nodes() const noexcept { return nodes_; }

  // For later launches, the first of the recorded works: a launch of the same kernel, or a copy of
  // `bytes` from pinned memory. Nothing is allocated. Throws DeviceError.
  void set_first(const LaunchParams& launch);
  void set_first(Address to, const void* from, std::size_t bytes);

  void launch(Stream stream);  // returns at once; throws DeviceError

 private:
  std::shared_ptr<const Context> context_;
  GraphHandle graph_ = nullptr;
  ExecHandle exec_ = nullptr;
  NodeHandle first_ = nullptr;
  std::size_t nodes_ = 0;
};

}  // namespace agp_edge::cuda
