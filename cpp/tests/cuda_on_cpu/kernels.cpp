// The kernels themselves, and what cuLaunchKernel has to know of each.
#include <iterator>
#include <utility>

#include "fibers.hpp"
#include "postprocess/postprocess_cuda.cu"
#include "preprocess/preprocess_cuda.cu"
#include "run_kernel.hpp"

namespace cuda_on_cpu {
namespace {

template <auto kFunction>
struct Launcher;

template <typename... Parameters, void (*kFunction)(Parameters...)>
struct Launcher<kFunction> {
  template <std::size_t... kIndices>
  static void call(void** parameters, std::index_sequence<kIndices...>) {
    kFunction(*static_cast<Parameters*>(parameters[kIndices])...);
  }

  static void run(const unsigned* grid, const unsigned* block, unsigned shared_bytes,
                  void** parameters) {
    launch(grid, block, shared_bytes,
           [parameters] { call(parameters, std::index_sequence_for<Parameters...>()); });
  }

  static constexpr std::size_t kBytes[] = {sizeof(Parameters)...};

  static constexpr Kernel kernel(const char* name) {
    return {name, kBytes, static_cast<int>(sizeof...(Parameters)), run};
  }
};

#define AGP_EDGE_LISTED(name) Launcher<&agp_edge::kernel::name>::kernel(#name)

constexpr Kernel kAll[] = {AGP_EDGE_LISTED(agp_edge_smooth),
                           AGP_EDGE_LISTED(agp_edge_smooth_half),
                           AGP_EDGE_LISTED(agp_edge_top_count),
                           AGP_EDGE_LISTED(agp_edge_top_sum),
                           AGP_EDGE_LISTED(agp_edge_power_sum),
                           AGP_EDGE_LISTED(agp_edge_finish),
                           AGP_EDGE_LISTED(agp_edge_preprocess_colour8),
                           AGP_EDGE_LISTED(agp_edge_preprocess_mono8),
                           AGP_EDGE_LISTED(agp_edge_preprocess_mono16),
                           AGP_EDGE_LISTED(agp_edge_preprocess_nv12),
                           AGP_EDGE_LISTED(agp_edge_preprocess_bayer8),
                           AGP_EDGE_LISTED(agp_edge_preprocess_bayer16)};

}  // namespace

Kernels kernels() { return {std::begin(kAll), std::end(kAll)}; }

const Kernel* find(const std::string& name) {
  for (const Kernel& kernel : kernels()) {
    if (name == kernel.name) return &kernel;
  }
  return nullptr;
}

}  // namespace cuda_on_cpu
