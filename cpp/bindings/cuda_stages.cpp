// The CUDA stages one by one, on frames and grids in host memory: for the parity tests on a machine
// with a GPU. A detector runs them in its own graph.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstring>
#include <limits>
#include <memory>
#include <mutex>

#include "cuda/cuda_module.hpp"
#include "frame.hpp"
#include "module.hpp"
#include "postprocess/postprocess_cuda.hpp"
#include "preprocess/preprocess_cuda.hpp"
#include "recipe.hpp"
#include "result.hpp"

namespace agp_edge::bindings {
namespace {

namespace py = pybind11;

// A context, a stream and pinned memory for both directions.
class Rig {
 public:
  explicit Rig(int device) : context_(std::make_shared<cuda::Context>(device)), stream_(context_) {}

  const std::shared_ptr<const cuda::Context>& context() const noexcept { return context_; }
  cuda::OwnedStream& stream() noexcept { return stream_; }

  // The context is current. Waits until the bytes are there.
  std::unique_ptr<cuda::DeviceBuffer> uploaded(const void* bytes, std::size_t size) {
    auto buffer = std::make_unique<cuda::DeviceBuffer>(context_, size);
    cuda::upload_table(context_, stream_.get(), buffer->address(), bytes, size);
    return buffer;
  }
  void download(cuda::Address from, void* to, std::size_t size) {
    const cuda::PinnedBuffer staging(context_, size);
    context_->driver().check(
        context_->driver().cuMemcpyDtoHAsync_v2(staging.data(), from, size, stream_.get()),
        "copying a result from the GPU");
    stream_.synchronize();
    std::memcpy(to, staging.data(), size);
  }

 private:
  std::shared_ptr<const cuda::Context> context_;
  cuda::OwnedStream stream_;
};

class CudaPreprocessor {
 public:
  CudaPreprocessor(const PreprocessRecipe& recipe, int device, bool half)
      : recipe_(recipe),
        half_(half),
        rig_(device),
        stage_(rig_.context(), recipe, half ? DType::kFloat16 : DType::kFloat32) {}

  py::array run(const py::object& image, const std::optional<std::string>& format) {
    const BorrowedFrame borrowed(image, format);
    py::array output(half_ ? py::dtype("float16") : py::dtype::of<float>(),
                     {3, recipe_.height, recipe_.width});
    void* const data = output.mutable_data();
    const std::size_t size = static_cast<std::size_t>(output.nbytes());
    const py::gil_scoped_release release;
    const std::lock_guard<std::mutex> lock(mutex_);
    const cuda::Current current(*rig_.context());
    const Work work(*this, borrowed.frame(), size);
    stage_.enqueue(rig_.stream().get(), work.frame->address(), work.out.address());
    rig_.download(work.out.address(), data, size);
    return output;
  }

 private:
  // One frame on the device, its tables and room for its output.
  struct Work {
    Work(CudaPreprocessor& self, const Frame& pixels, std::size_t size)
        : frame(self.rig_.uploaded(pixels.data, pixels.bytes())), out(self.rig_.context(), size) {
      self.stage_.prepare(pixels, self.rig_.stream().get());
    }
    std::unique_ptr<cuda::DeviceBuffer> frame;
    cuda::DeviceBuffer out;
  };

  PreprocessRecipe recipe_;
  bool half_;
  Rig rig_;
  PreprocessCuda stage_;
  std::mutex mutex_;
};

class CudaPostprocessor {
 public:
  CudaPostprocessor(const PostprocessRecipe& recipe, int device, bool half)
      : recipe_(recipe),
        half_(half),
        rig_(device),
        stage_(rig_.context(), recipe, half ? DType::kFloat16 : DType::kFloat32) {}

  NativeResult run(const py::array& given, std::optional<float> threshold,
                   std::optional<float> mask_threshold, int min_area, std::uint8_t outputs) {
    // Values of the other type are converted, by NumPy's rounding.
    const py::array grid = py::module_::import("numpy").attr("ascontiguousarray")(
        given, half_ ? py::dtype("float16") : py::dtype::of<float>());
    if (grid.ndim() != 2 || grid.shape(0) != recipe_.grid_height ||
        grid.shape(1) != recipe_.grid_width) {
      throw py::value_error("grid is " + py::str(grid.attr("shape")).cast<std::string>() + ", (" +
                            std::to_string(recipe_.grid_height) + ", " +
                            std::to_string(recipe_.grid_width) + ") is expected");
    }
    Decision decision;
    decision.threshold = threshold.value_or(std::numeric_limits<float>::infinity());
    decision.mask_threshold = mask_threshold.value_or(decision.threshold);
    decision.min_area = min_area;
    decision.outputs = outputs;
    const void* const data = grid.data();
    const std::size_t size = static_cast<std::size_t>(grid.nbytes());
    Result result;
    {
      const py::gil_scoped_release release;
      const std::lock_guard<std::mutex> lock(mutex_);
      const cuda::Current current(*rig_.context());
      const Rect view{0, 0, recipe_.map_width, recipe_.map_height};
      stage_.prepare(view, decision, rig_.stream().get());
      const auto on_device = rig_.uploaded(data, size);
      stage_.enqueue(rig_.stream().get(), on_device->address());
      const std::size_t bytes = stage_.result_bytes();
      const auto block = std::make_unique<double[]>(bytes / sizeof(double) + 1);
      rig_.download(stage_.result(), block.get(), bytes);
      stage_.finish(block.get(), result);
    }
    return NativeResult(std::move(result));
  }

 private:
  PostprocessRecipe recipe_;
  bool half_;
  Rig rig_;
  PostprocessCuda stage_;
  std::mutex mutex_;
};

}  // namespace

void register_cuda_stages(py::module_& module) {
  module.def("has_cuda_kernels", &cuda::has_kernels);
  py::class_<CudaPreprocessor>(module, "CudaPreprocessor")
      .def(py::init([](int height, int width, const std::array<float, 3>& mean,
                       const std::array<float, 3>& stddev, const std::string& channels,
                       const std::string& resize, const std::optional<py::tuple>& roi, int device,
                       bool half) {
             PreprocessRecipe recipe;
             recipe.height = height;
             recipe.width = width;
             recipe.mean = mean;
             recipe.stddev = stddev;
             recipe.channels = channel_order_from(channels);
             recipe.resize = resize_rule_from(resize);
             if (roi) recipe.roi = rect_from(*roi, "roi");
             return std::make_unique<CudaPreprocessor>(recipe, device, half);
           }),
           py::kw_only(), py::arg("height"), py::arg("width"), py::arg("mean"), py::arg("std"),
           py::arg("channels") = "rgb", py::arg("resize") = "antialias",
           py::arg("roi") = py::none(), py::arg("device") = 0, py::arg("half") = false)
      .def("run", &CudaPreprocessor::run, py::arg("frame"), py::arg("format") = py::none());
  py::class_<CudaPostprocessor>(module, "CudaPostprocessor")
      .def(
          py::init([](int grid_height, int grid_width, int map_height, int map_width, float sigma,
                      const std::string& score, float top_share, int power, int device, bool half) {
            return std::make_unique<CudaPostprocessor>(
                postprocess_recipe(grid_height, grid_width, map_height, map_width, sigma, score,
                                   top_share, power),
                device, half);
          }),
          py::kw_only(), py::arg("grid_height"), py::arg("grid_width"), py::arg("map_height"),
          py::arg("map_width"), py::arg("sigma"), py::arg("score") = "max",
          py::arg("top_share") = 0.01F, py::arg("power") = 24, py::arg("device") = 0,
          py::arg("half") = false)
      .def("run", &CudaPostprocessor::run, py::arg("grid"), py::kw_only(),
           py::arg("threshold") = py::none(), py::arg("mask_threshold") = py::none(),
           py::arg("min_area") = 0, py::arg("outputs") = static_cast<std::uint8_t>(kAll));
}

}  // namespace agp_edge::bindings
