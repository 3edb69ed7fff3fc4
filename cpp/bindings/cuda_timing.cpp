// Times and memory of a GPU, for benchmarks/gpu_check.py: by CUDA events where the GPU's own time
// is asked for, by the clock where the host's is.
#include <pybind11/stl.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "agp_edge/engine.hpp"
#include "agp_edge/error.hpp"
#include "cuda/cuda_graph.hpp"
#include "cuda/cuda_image.hpp"
#include "cuda/cuda_module.hpp"
#include "frame.hpp"
#include "module.hpp"
#include "preprocess/preprocess_cuda.hpp"

namespace agp_edge::bindings {
namespace {

namespace py = pybind11;
using SharedContext = std::shared_ptr<const cuda::Context>;

// Seconds that the work took on the GPU. The context is current.
template <typename Work>
double measured(cuda::TimedEvent& begin, cuda::TimedEvent& end, cuda::OwnedStream& stream,
                const Work& work) {
  begin.mark(stream.get(), false);
  work();
  end.mark(stream.get(), false);
  stream.synchronize();
  return end.milliseconds_since(begin) * 1e-3;
}

// Each run is one launch of what `work` puts into the stream, divided by `parts`.
template <typename Work>
std::vector<double> graph_seconds(const SharedContext& context, cuda::OwnedStream& stream, int runs,
                                  int parts, const Work& work) {
  work();  // what is done once: loading, the driver's own first time
  stream.synchronize();
  cuda::Graph graph(context, stream.get(), work);
  cuda::TimedEvent begin(context);
  cuda::TimedEvent end(context);
  const auto run = [&] {
    return measured(begin, end, stream, [&] { graph.launch(stream.get()); }) / parts;
  };
  for (int i = 0; i < 3; ++i) run();  // clocks
  std::vector<double> seconds;
  for (int i = 0; i < runs; ++i) seconds.push_back(run());
  return seconds;
}

void check_counts(int runs, int copies) {
  if (runs < 1 || copies < 1) {
    throw py::value_error("runs is " + std::to_string(runs) + " and copies " +
                          std::to_string(copies) + ", 1 or more is expected of both");
  }
}

// `copies` frames, one after the other, so that together they may be more than a cache holds.
std::vector<double> preprocess_seconds(const py::object& image,
                                       const std::optional<std::string>& format, int height,
                                       int width, bool half, int copies, int runs, int device) {
  check_counts(runs, copies);
  const BorrowedFrame borrowed(image, format);
  const py::gil_scoped_release release;
  PreprocessRecipe recipe;
  recipe.height = height;
  recipe.width = width;
  recipe.mean = {{118.0F, 120.0F, 122.0F}};
  recipe.stddev = {{57.0F, 57.0F, 57.0F}};
  const auto context = std::make_shared<cuda::Context>(device);
  const cuda::Current current(*context);
  cuda::OwnedStream stream(context);
  PreprocessCuda stage(context, recipe, half ? DType::kFloat16 : DType::kFloat32);
  const Frame& frame = borrowed.frame();
  stage.prepare(frame, stream.get());
  struct Copy {
    cuda::DeviceBuffer frame;
    cuda::DeviceBuffer out;
  };
  std::vector<std::unique_ptr<Copy>> all;
  const std::size_t out_bytes = std::size_t{3} * static_cast<std::size_t>(height) *
                                static_cast<std::size_t>(width) * (half ? 2U : 4U);
  for (int i = 0; i < copies; ++i) {
    all.push_back(std::unique_ptr<Copy>(new Copy{{context, frame.bytes()}, {context, out_bytes}}));
    cuda::upload_table(context, stream.get(), all.back()->frame.address(), frame.data,
                       frame.bytes());
  }
  return graph_seconds(context, stream, runs, copies, [&] {
    for (const auto& each : all) {
      stage.enqueue(stream.get(), each->frame.address(), each->out.address());
    }
  });
}

// Device memory to device memory: `bytes` are read and as many written.
std::vector<double> copy_seconds(std::size_t bytes, int runs, int device) {
  check_counts(runs, 1);
  const py::gil_scoped_release release;
  const auto context = std::make_shared<cuda::Context>(device);
  const cuda::Current current(*context);
  cuda::OwnedStream stream(context);
  const cuda::DeviceBuffer from(context, (bytes + 3) / 4 * 4);
  const cuda::DeviceBuffer to(context, bytes);
  stream.fill(from, 0x5A5A5A5A);
  const cuda::Driver& driver = context->driver();
  return graph_seconds(context, stream, runs, 1, [&] {
    driver.check(driver.cuMemcpyDtoDAsync_v2(to.address(), from.address(), bytes, stream.get()),
                 "copying on the GPU");
  });
}

struct EngineTimes {
  std::vector<double> host;    // launch to the end of the wait, as score() waits
  std::vector<double> device;  // by events
  bool recorded = true;        // as a graph; else each run is a call
};

// The engine alone, on tensors of its own; as a graph where it can be recorded.
EngineTimes engine_times(const std::shared_ptr<Engine>& engine, int runs) {
  check_counts(runs, 1);
  const py::gil_scoped_release release;
  if (engine->memory() != Memory::kDevice) {
    throw Error(engine->name() + " is on the CPU: an engine on a GPU is expected");
  }
  const auto context = std::make_shared<cuda::Context>(engine->device());
  const cuda::Current current(*context);
  std::vector<std::unique_ptr<cuda::DeviceBuffer>> buffers;
  std::vector<const void*> in;
  std::vector<void*> out;
  cuda::OwnedStream stream(context);
  const auto allocate = [&](const TensorSpec& tensor) {
    buffers.push_back(std::make_unique<cuda::DeviceBuffer>(
        context, (tensor.elements() * (tensor.dtype == DType::kFloat16 ? 2 : 4) + 3) / 4 * 4));
    stream.fill(*buffers.back(), 0);
    return buffers.back()->pointer();
  };
  for (const TensorSpec& tensor : engine->inputs()) in.push_back(allocate(tensor));
  for (const TensorSpec& tensor : engine->outputs()) out.push_back(allocate(tensor));
  const auto call = [&] { engine->enqueue(stream.get(), in.data(), out.data()); };
  EngineTimes times;
  std::optional<cuda::Graph> graph;
  try {
    call();
    stream.synchronize();
    try {
      graph.emplace(context, stream.get(), call);
      if (graph->nodes() == 0) graph.reset();
    } catch (const Error&) {
      graph.reset();
    }
    times.recorded = graph.has_value();
    const auto launch = [&] { graph ? graph->launch(stream.get()) : call(); };
    cuda::Event done(context);
    cuda::TimedEvent begin(context);
    cuda::TimedEvent end(context);
    for (int i = -10; i < runs; ++i) {
      const auto start = std::chrono::steady_clock::now();
      launch();
      context->driver().check(done.record(stream.get()), "marking the end of the engine's work");
      done.wait();
      const std::chrono::duration<double> host = std::chrono::steady_clock::now() - start;
      const double device = measured(begin, end, stream, launch);
      if (i < 0) continue;  // clocks
      times.host.push_back(host.count());
      times.device.push_back(device);
    }
  } catch (...) {
    stream.drain();  // what was enqueued still uses the buffers
    throw;
  }
  return times;
}

py::tuple memory_of(int device) {
  std::size_t free = 0;
  std::size_t total = 0;
  {
    const py::gil_scoped_release release;
    const cuda::Context context(device);
    const cuda::Current current(context);
    context.driver().check(context.driver().cuMemGetInfo_v2(&free, &total),
                           "asking for the GPU's memory");
  }
  return py::make_tuple(free, total);
}

}  // namespace

void register_cuda_timing(py::module_& module) {
  module.def("cuda_compiler_version", &cuda::compiler_version);
  module.def("cuda_memory", &memory_of, py::arg("device") = 0);
  module.def("cuda_copy_seconds", &copy_seconds, py::arg("bytes"), py::arg("runs") = 20,
             py::arg("device") = 0);
  module.def("cuda_preprocess_seconds", &preprocess_seconds, py::arg("frame"),
             py::arg("format") = py::none(), py::kw_only(), py::arg("height"), py::arg("width"),
             py::arg("half") = false, py::arg("copies") = 1, py::arg("runs") = 20,
             py::arg("device") = 0);
  py::class_<EngineTimes>(module, "EngineTimes")
      .def_readonly("host", &EngineTimes::host)
      .def_readonly("device", &EngineTimes::device)
      .def_readonly("recorded", &EngineTimes::recorded);
  module.def("cuda_engine_times", &engine_times, py::arg("engine"), py::arg("runs") = 1000);
}

}  // namespace agp_edge::bindings
