#include "preprocess/preprocess_cuda.hpp"

#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "agp_edge/error.hpp"
#include "cuda/cuda_module.hpp"
#include "cuda/device_layout.hpp"
#include "preprocess/preprocess_plan.hpp"
#include "preprocess/preprocess_recipe.hpp"

namespace agp_edge {
namespace {

constexpr int kAttributeProcessors = 16;  // CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT

int processors_of(const cuda::Context& context) {
  const cuda::Driver& driver = context.driver();
  cuda::DeviceHandle device = 0;
  int count = 0;
  driver.check(driver.cuDeviceGet(&device, context.device().index), "opening a GPU");
  driver.check(driver.cuDeviceGetAttribute(&count, kAttributeProcessors, device),
               "asking a GPU's properties");
  return count;
}

bool same_geometry(const Frame& a, const Frame& b) {
  return a.height == b.height && a.width == b.width && a.row_pitch == b.row_pitch &&
         a.format == b.format;
}

template <typename T>
std::size_t bytes_of(const std::vector<T>& values) {
  return values.size() * sizeof(T);
}

}  // namespace

struct PreprocessCuda::Impl {
  Impl(std::shared_ptr<const cuda::Context> used, const PreprocessRecipe& r, DType out)
      : context(std::move(used)),
        recipe(r),
        output(out),
        processors(processors_of(*context)),
        module(context, cuda::KernelSet::kPreprocess) {}

  std::shared_ptr<const cuda::Context> context;
  PreprocessRecipe recipe;
  DType output;
  int processors;
  cuda::Module module;

  // Of the prepared geometry.
  std::optional<Frame> geometry;
  std::unique_ptr<cuda::DeviceBuffer> tables;
  kernel::PreprocessParams params{};

  cuda::Address frame_data = 0;
  void* parameters[2] = {&frame_data, &params};
  cuda::LaunchParams launch{};

  void upload(const PreprocessPlan& plan, Stream stream);
};

void PreprocessCuda::Impl::upload(const PreprocessPlan& plan, Stream stream) {
  DeviceLayout layout;
  const std::size_t tiles = layout.add(bytes_of(plan.tiles));
  const std::size_t down = layout.add(bytes_of(plan.down));
  const std::size_t first = layout.add(bytes_of(plan.first));
  const std::size_t across = layout.add(bytes_of(plan.across));
  std::vector<char> host(layout.size());
  std::memcpy(host.data() + tiles, plan.tiles.data(), bytes_of(plan.tiles));
  std::memcpy(host.data() + down, plan.down.data(), bytes_of(plan.down));
  std::memcpy(host.data() + first, plan.first.data(), bytes_of(plan.first));
  std::memcpy(host.data() + across, plan.across.data(), bytes_of(plan.across));

  tables = std::make_unique<cuda::DeviceBuffer>(context, host.size());
  cuda::upload_table(context, stream, tables->address(), host.data(), host.size());
  const char* const base = static_cast<const char*>(tables->pointer());
  params = plan.params;
  params.tiles = reinterpret_cast<const kernel::RowTile*>(base + tiles);
  params.down = reinterpret_cast<const float*>(base + down);
  params.first = reinterpret_cast<const int*>(base + first);
  params.across = reinterpret_cast<const float*>(base + across);
}

PreprocessCuda::PreprocessCuda(std::shared_ptr<const cuda::Context> context,
                               const PreprocessRecipe& recipe, DType output) {
  check(recipe);
  impl_ = std::make_unique<Impl>(std::move(context), recipe, output);
}

PreprocessCuda::~PreprocessCuda() = default;

bool PreprocessCuda::prepare(const Frame& geometry, Stream stream) {
  Impl& impl = *impl_;
  geometry.validate_geometry();
  if (impl.geometry && same_geometry(*impl.geometry, geometry)) return false;
  const PreprocessPlan plan(impl.recipe, geometry, impl.output, impl.processors);
  const cuda::FunctionHandle function = impl.module.function(plan.kernel);
  impl.geometry.reset();  // until everything below is there
  impl.upload(plan, stream);
  impl.launch = cuda::LaunchParams{};
  impl.launch.function = function;
  impl.launch.grid_x = plan.grid_x;
  impl.launch.grid_y = plan.grid_y;
  impl.launch.grid_z = 1;
  impl.launch.block_x = plan.threads;
  impl.launch.block_y = 1;
  impl.launch.block_z = 1;
  impl.launch.shared_bytes = plan.shared_bytes;
  impl.launch.parameters = impl.parameters;
  impl.geometry = geometry;
  impl.geometry->data = nullptr;
  return true;
}

const cuda::LaunchParams& PreprocessCuda::launch(cuda::Address frame_data, cuda::Address out) {
  Impl& impl = *impl_;
  if (!impl.geometry) throw DeviceError("the GPU's preprocessing was not prepared for a frame");
  impl.frame_data = frame_data;
  impl.params.out = reinterpret_cast<void*>(out);
  return impl.launch;
}

void PreprocessCuda::enqueue(Stream stream, cuda::Address frame_data, cuda::Address out) {
  cuda::launch(impl_->context->driver(), launch(frame_data, out), stream,
               "preprocessing on the GPU");
}

}  // namespace agp_edge
