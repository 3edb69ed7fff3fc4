#include "pipeline/frame_graph.hpp"

#include <cstring>
#include <limits>
#include <utility>

#include "agp_edge/error.hpp"
#include "pipeline/frame_path.hpp"

namespace agp_edge {
namespace {

// An engine that writes nothing must not repeat the last frame's verdict.
constexpr std::uint32_t kQuietNan = 0x7FC00000;
constexpr std::uint32_t kTwoQuietHalves = 0x7E007E00;

// Whole words, so that they can be filled.
std::size_t tensor_bytes(const std::vector<TensorSpec>& tensors) {
  const TensorSpec& tensor = tensors.front();
  const std::size_t bytes = tensor.elements() * (tensor.dtype == DType::kFloat16 ? 2 : 4);
  return (bytes + 3) / 4 * 4;
}

// The geometry as a frame without pixels.
Frame outline_of(const FrameGeometry& geometry) {
  Frame frame;
  frame.height = geometry.height;
  frame.width = geometry.width;
  frame.row_pitch = geometry.row_pitch;
  frame.format = geometry.format;
  return frame;
}

}  // namespace

bool FrameGeometry::operator==(const FrameGeometry& other) const noexcept {
  return height == other.height && width == other.width && row_pitch == other.row_pitch &&
         format == other.format && source == other.source;
}

FrameTensors::FrameTensors(const std::shared_ptr<const cuda::Context>& context,
                           const Engine& engine)
    : input(context, tensor_bytes(engine.inputs())),
      output(context, tensor_bytes(engine.outputs())) {}

FrameGraph::FrameGraph(std::shared_ptr<const cuda::Context> context, std::shared_ptr<Engine> engine,
                       const FrameTensors& tensors, const FrameGeometry& geometry,
                       const PreprocessRecipe& preprocess, const PostprocessRecipe& postprocess,
                       cuda::OwnedStream& stream, DeviceTimes* times)
    : context_(std::move(context)),
      engine_(std::move(engine)),
      tensors_(tensors),
      geometry_(geometry),
      recipe_(preprocess),
      stream_(stream),
      times_(times),
      preprocess_(context_, preprocess, engine_->inputs().front().dtype),
      postprocess_(context_, postprocess, engine_->outputs().front().dtype),
      block_(context_, postprocess_.most_result_bytes()),
      bytes_(outline_of(geometry).bytes()) {
  preprocess_.prepare(outline_of(geometry), stream_.get());
  if (geometry_.source == FrameSource::kStaged) staging_.emplace(context_, bytes_);
  if (!read_in_place()) uploaded_.emplace(context_, bytes_);
}

// On an integrated GPU pinned memory is the GPU's own.
bool FrameGraph::read_in_place() const noexcept {
  return geometry_.source == FrameSource::kDevice || context_->device().integrated;
}

void FrameGraph::prepare(const Frame& frame, const Decision& decision) {
  if (postprocess_.prepare(view_of(frame, recipe_), decision, stream_.get())) graph_.reset();
  if (geometry_.source == FrameSource::kStaged) {
    auto* const to = static_cast<std::uint8_t*>(staging_->data());
    for (int y = 0; y < frame.rows(); ++y) {
      const auto row = static_cast<std::size_t>(y);
      std::memcpy(to + row * geometry_.row_pitch, frame.data + row * frame.row_pitch,
                  geometry_.row_pitch);
    }
    source_ = to;
  } else {
    source_ = frame.data;
  }
  read_ = uploaded_ ? uploaded_->address()
          : geometry_.source == FrameSource::kDevice
              ? static_cast<cuda::Address>(reinterpret_cast<std::uintptr_t>(source_))
              : cuda::device_address(*context_, source_);
}

void FrameGraph::enqueue() {
  mark(DeviceTimes::kBegun, false);
  if (!graph_) {
    put_in_order(false);
    return;
  }
  if (uploaded_) {
    if (source_ != graph_source_) graph_->set_first(uploaded_->address(), source_, bytes_);
  } else if (read_ != graph_read_) {
    graph_->set_first(preprocess_.launch(read_, tensors_.input.address()));
  }
  graph_source_ = source_;
  graph_read_ = read_;
  graph_->launch(stream_.get());
}

void FrameGraph::put_in_order(bool recording) {
  if (uploaded_) {
    stream_.upload(uploaded_->address(), source_, bytes_);
    mark(DeviceTimes::kUploaded, recording);  // else no mark: the graph's first node is work
  }
  preprocess_.enqueue(stream_.get(), read_, tensors_.input.address());
  mark(DeviceTimes::kPreprocessed, recording);
  run_engine();
  mark(DeviceTimes::kExecuted, recording);
  postprocess_.enqueue(stream_.get(), tensors_.output.address());
  mark(DeviceTimes::kPostprocessed, recording);
  stream_.download(block_.data(), postprocess_.result(), postprocess_.result_bytes());
  mark(DeviceTimes::kEnded, recording);
}

void FrameGraph::mark(DeviceTimes::Mark mark, bool recording) {
  if (times_ != nullptr) times_->put(mark, stream_.get(), recording);
}

void FrameGraph::read_times() {
  if (times_ == nullptr) return;
  const auto first = uploaded_ ? DeviceTimes::kUploaded : DeviceTimes::kBegun;
  on_gpu_.copy_ms = uploaded_ ? times_->between(DeviceTimes::kBegun, first) : 0.0;
  on_gpu_.preprocess_ms = times_->between(first, DeviceTimes::kPreprocessed);
  on_gpu_.execute_ms = times_->between(DeviceTimes::kPreprocessed, DeviceTimes::kExecuted);
  on_gpu_.postprocess_ms = times_->between(DeviceTimes::kExecuted, DeviceTimes::kPostprocessed);
  on_gpu_.copy_back_ms = times_->between(DeviceTimes::kPostprocessed, DeviceTimes::kEnded);
}

void FrameGraph::add_times(Latency& latency) const {
  if (times_ == nullptr) return;
  latency.copy_ms = latency.preprocess_ms + on_gpu_.copy_ms.value_or(0.0);
  latency.preprocess_ms = on_gpu_.preprocess_ms;
  latency.execute_ms = on_gpu_.execute_ms;
  latency.postprocess_ms += on_gpu_.postprocess_ms;
  latency.copy_back_ms = on_gpu_.copy_back_ms;
}

void FrameGraph::run_engine() {
  const bool half = engine_->outputs().front().dtype == DType::kFloat16;
  stream_.fill(tensors_.output, half ? kTwoQuietHalves : kQuietNan);
  const void* const in[] = {tensors_.input.pointer()};
  void* const out[] = {tensors_.output.pointer()};
  engine_->enqueue(stream_.get(), in, out);
}

void FrameGraph::record() {
  const cuda::Graph engine_only(context_, stream_.get(), [this] { run_engine(); });
  if (engine_only.nodes() < 2) {  // nothing beside the filling of its output
    throw DeviceError("it puts nothing into the stream that it is given");
  }
  graph_.emplace(context_, stream_.get(), [this] { put_in_order(true); });
  graph_source_ = source_;
  graph_read_ = read_;
}

}  // namespace agp_edge
