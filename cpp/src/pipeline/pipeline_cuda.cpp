#include "pipeline/pipeline_cuda.hpp"

#include <algorithm>
#include <exception>
#include <list>
#include <optional>
#include <string>
#include <utility>

#include "agp_edge/error.hpp"
#include "cuda/cuda_driver.hpp"
#include "cuda/cuda_graph.hpp"
#include "engine/tensorrt_modules.hpp"
#include "pipeline/frame_graph.hpp"

namespace agp_edge {
namespace {

cuda::Address address_of(const void* pointer) {
  return static_cast<cuda::Address>(reinterpret_cast<std::uintptr_t>(pointer));
}

std::string hexadecimal(std::uintptr_t number) {
  std::string text;
  do {
    text.insert(text.begin(), "0123456789abcdef"[number % 16]);
    number /= 16;
  } while (number != 0);
  return "0x" + text;
}

class CudaPath final : public FramePath {
 public:
  CudaPath(std::shared_ptr<Engine> engine, const PreprocessRecipe& preprocess,
           const PostprocessRecipe& postprocess, const PipelineOptions& options)
      : context_(std::make_shared<cuda::Context>(engine->device())),
        engine_(std::move(engine)),
        preprocess_(preprocess),
        postprocess_(postprocess),
        geometries_(static_cast<std::size_t>(options.geometries)),
        tensors_(context_, *engine_),
        produced_(context_),
        done_(context_, options.wait),
        stream_(context_) {
    if (options.device_times) times_.emplace(context_);
    // What is wrong with the recipes or missing in the build is said now, not at the first frame.
    const cuda::Current current(*context_);
    const PreprocessCuda checked(context_, preprocess_, engine_->inputs().front().dtype);
    const PostprocessCuda also_checked(context_, postprocess_, engine_->outputs().front().dtype);
  }

  void score(const Frame& frame, const Decision& decision, Result& result) override {
    if (!broken_.empty()) throw DeviceError(broken_);
    frame.validate();
    const auto start = Clock::now();
    const cuda::Current current(*context_);
    FrameGraph* graph = nullptr;
    Clock::time_point execute;
    try {
      const FrameGeometry geometry = geometry_of(frame);
      graph = &graph_for(geometry);
      graph->prepare(frame, decision);
      execute = Clock::now();
      hold_for_producer(frame);
      graph->enqueue();
      wait();
      graph->read_times();
    } catch (const std::exception& error) {
      after_failure(error.what());
      throw;
    }
    const auto postprocess = Clock::now();
    graph->finish(result);
    result.latency.preprocess_ms = milliseconds(start, execute);
    result.latency.execute_ms = milliseconds(execute, postprocess);
    result.latency.postprocess_ms = milliseconds(postprocess, Clock::now());
    graph->add_times(result.latency);
    if (!graph->recorded() && recordable_) record(*graph);
  }

 private:
  FrameGeometry geometry_of(const Frame& frame) const {
    FrameGeometry geometry;
    geometry.height = frame.height;
    geometry.width = frame.width;
    geometry.format = frame.format;
    geometry.row_pitch = frame.row_pitch;
    geometry.source = source_of(frame);
    if (geometry.source == FrameSource::kStaged) geometry.row_pitch = row_bytes(frame);
    return geometry;
  }

  static std::size_t row_bytes(const Frame& frame) {
    return static_cast<std::size_t>(frame.width) *
           static_cast<std::size_t>(bytes_per_pixel(frame.format));
  }

  FrameSource source_of(const Frame& frame) const {
    const cuda::Address first = address_of(frame.data);
    const cuda::Address last = first + frame.bytes() - 1;
    if (frame.memory == Memory::kDevice) {
      check_device(frame, first, last);
      return FrameSource::kDevice;
    }
    // A graph's upload is one piece, the gaps between the rows included: not for a narrow part of a
    // large frame.
    const bool mostly_gaps = frame.row_pitch > 2 * row_bytes(frame);
    const bool pinned = !mostly_gaps &&
                        cuda::address_kind(*context_, first) == cuda::AddressKind::kPinnedHost &&
                        cuda::address_kind(*context_, last) == cuda::AddressKind::kPinnedHost;
    return pinned ? FrameSource::kPinned : FrameSource::kStaged;
  }

  void check_device(const Frame& frame, cuda::Address first, cuda::Address last) const {
    for (const cuda::Address address : {first, last}) {
      if (cuda::address_kind(*context_, address) == cuda::AddressKind::kUnknown) {
        throw FrameError("the frame's address " + hexadecimal(first) +
                         " is given as memory of a GPU, and the CUDA driver does not know " +
                         std::to_string(last - first + 1) +
                         " bytes there: keep the frame's memory until score() returns, and check "
                         "its size and row pitch");
      }
    }
    const int here = context_->device().index;
    // Pinned memory has a device too, which does not matter.
    const bool pinned = cuda::address_kind(*context_, first) == cuda::AddressKind::kPinnedHost;
    const int owner = pinned ? here : cuda::address_device(*context_, first);
    const int there = owner >= 0 && owner != here ? owner : frame.device;
    if (there < 0 || there == here) return;
    throw FrameError("the frame is in the memory of GPU " + std::to_string(there) +
                     " and the detector works on GPU " + std::to_string(here) +
                     ": copy it there, or open the model on the frame's GPU");
  }

  // The one of this geometry, made if need be in the place of the one that was not used for
  // longest.
  FrameGraph& graph_for(const FrameGeometry& geometry) {
    const auto found =
        std::find_if(graphs_.begin(), graphs_.end(),
                     [&geometry](const FrameGraph& each) { return each.geometry() == geometry; });
    if (found != graphs_.end()) {
      graphs_.splice(graphs_.begin(), graphs_, found);
      return graphs_.front();
    }
    if (graphs_.size() >= geometries_) graphs_.pop_back();
    graphs_.emplace_front(context_, engine_, tensors_, geometry, preprocess_, postprocess_, stream_,
                          times_ ? &*times_ : nullptr);
    return graphs_.front();
  }

  // The frame's pixels are made by another stream: the GPU waits for it, the host does not.
  void hold_for_producer(const Frame& frame) {
    if (frame.memory != Memory::kDevice || frame.stream == nullptr) return;
    const cuda::Result result = produced_.record(frame.stream);
    if (result != 0) {
      throw FrameError(
          "the frame's stream " + hexadecimal(reinterpret_cast<std::uintptr_t>(frame.stream)) +
          " cannot be waited for (" + context_->driver().text(result) + "): give the stream of " +
          context_->device().name + " on which the frame is made, or none when it is there");
    }
    produced_.hold(stream_.get());
  }

  void wait() {
    const cuda::Result result = done_.record(stream_.get());
    context_->driver().check(result, "marking the end of the frame's work");
    done_.wait();
  }

  void after_failure(const std::string& what) {
    if (stream_.drain()) return;
    // The driver's own word that nothing of this context works any more.
    broken_ = "the detector on " + context_->device().name + " is broken since an earlier error (" +
              what + "): close it and open the model again";
  }

  // The frame has its result: what goes wrong here only makes later ones slower.
  void record(FrameGraph& graph) {
    try {
      graph.record();
    } catch (const std::exception& error) {
      recordable_ = false;
      after_failure(error.what());
      const std::string message = "the work of " + engine_->name() +
                                  " cannot be recorded as a CUDA graph (" + error.what() +
                                  "): each step is started by itself, which takes longer";
      constexpr int kWarning = 2;
      tensorrt_log_forwarder()(kWarning, message.c_str());
    }
  }

  // In creation order: the stream goes first and waits, then what it used.
  std::shared_ptr<const cuda::Context> context_;
  std::shared_ptr<Engine> engine_;
  PreprocessRecipe preprocess_;
  PostprocessRecipe postprocess_;
  std::size_t geometries_;
  FrameTensors tensors_;
  std::optional<DeviceTimes> times_;
  std::list<FrameGraph> graphs_;  // the last used one first
  cuda::Event produced_;
  cuda::Event done_;
  cuda::OwnedStream stream_;
  bool recordable_ = true;
  std::string broken_;  // what every further call is told
};

}  // namespace

std::unique_ptr<FramePath> make_cuda_path(std::shared_ptr<Engine> engine,
                                          const PreprocessRecipe& preprocess,
                                          const PostprocessRecipe& postprocess,
                                          const PipelineOptions& options) {
  return std::make_unique<CudaPath>(std::move(engine), preprocess, postprocess, options);
}

}  // namespace agp_edge
