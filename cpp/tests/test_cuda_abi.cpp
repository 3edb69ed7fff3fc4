// The driver's interface as cuda_driver.hpp declares it, against cuda.h where that is found: a
// difference does not compile.
#include "check.hpp"
#include "cuda/cuda_driver.hpp"

#if __has_include(<cuda.h>)
#include <cuda.h>

#include <cstddef>
#include <type_traits>

// Newer headers mean a second version of it, which older drivers do not have; both take the same.
#ifdef cuEventElapsedTime
#undef cuEventElapsedTime
extern "C" decltype(cuEventElapsedTime_v2) cuEventElapsedTime;
#endif

namespace {

// Opaque handles and enums have names of their own in cuda.h; size, kind and constness must agree.
template <typename Ours, typename Theirs>
constexpr bool kSameValue =
    sizeof(Ours) == sizeof(Theirs) && std::is_pointer_v<Ours> == std::is_pointer_v<Theirs> &&
    (std::is_integral_v<Ours> == (std::is_integral_v<Theirs> || std::is_enum_v<Theirs>)) &&
    std::is_const_v<std::remove_pointer_t<Ours>> == std::is_const_v<std::remove_pointer_t<Theirs>>;

template <typename Ours, typename Theirs>
struct SameFunction;
template <typename... Ours, typename... Theirs>
struct SameFunction<int (*)(Ours...), CUresult (*)(Theirs...)> {
  static constexpr bool kCounts = sizeof...(Ours) == sizeof...(Theirs);
  static constexpr bool value() {
    if constexpr (kCounts) return (kSameValue<Ours, Theirs> && ...);
    return false;
  }
};

using agp_edge::cuda::Driver;
#define AGP_EDGE_CUDA_SAME(name, parameters) \
  static_assert(SameFunction<decltype(Driver::name), decltype(&::name)>::value(), #name);
AGP_EDGE_CUDA_FUNCTIONS(AGP_EDGE_CUDA_SAME)

TEST(constants) {
  CHECK(CUDA_ERROR_OUT_OF_MEMORY == 2);
  CHECK(CUDA_ERROR_INVALID_IMAGE == 200);
  CHECK(CUDA_ERROR_NO_BINARY_FOR_GPU == 209);
  CHECK(CUDA_ERROR_UNSUPPORTED_PTX_VERSION == 222);
  CHECK(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT == 16);
  CHECK(CU_DEVICE_ATTRIBUTE_INTEGRATED == 18);
  CHECK(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR == 75);
  CHECK(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR == 76);
  CHECK(CU_STREAM_NON_BLOCKING == 1);
  CHECK(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL == 1);
  CHECK(CU_GRAPH_NODE_TYPE_KERNEL == 0);
  CHECK(CU_GRAPH_NODE_TYPE_MEMCPY == 1);
  CHECK(CU_EVENT_BLOCKING_SYNC == 1);
  CHECK(CU_EVENT_DISABLE_TIMING == 2);
  CHECK(CU_EVENT_RECORD_EXTERNAL == 1);
  CHECK(CUDA_ERROR_NOT_READY == 600);
  CHECK(CU_MEMHOSTALLOC_PORTABLE == 1);
  CHECK(CU_MEMHOSTALLOC_DEVICEMAP == 2);
  CHECK(CU_MEMORYTYPE_HOST == 1);
  CHECK(CU_MEMORYTYPE_DEVICE == 2);
  CHECK(CU_POINTER_ATTRIBUTE_MEMORY_TYPE == 2);
  CHECK(CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL == 9);
}

#define AGP_EDGE_CUDA_SAME_FIELD(ours, our_field, theirs, their_field)                        \
  static_assert(offsetof(agp_edge::cuda::ours, our_field) == offsetof(theirs, their_field) && \
                    sizeof(agp_edge::cuda::ours::our_field) == sizeof(theirs::their_field),   \
                #our_field)
AGP_EDGE_CUDA_SAME_FIELD(CopyParams, source_type, CUDA_MEMCPY3D_v2, srcMemoryType);
AGP_EDGE_CUDA_SAME_FIELD(CopyParams, source_host, CUDA_MEMCPY3D_v2, srcHost);
AGP_EDGE_CUDA_SAME_FIELD(CopyParams, source_device, CUDA_MEMCPY3D_v2, srcDevice);
AGP_EDGE_CUDA_SAME_FIELD(CopyParams, source_pitch, CUDA_MEMCPY3D_v2, srcPitch);
AGP_EDGE_CUDA_SAME_FIELD(CopyParams, target_x, CUDA_MEMCPY3D_v2, dstXInBytes);
AGP_EDGE_CUDA_SAME_FIELD(CopyParams, target_type, CUDA_MEMCPY3D_v2, dstMemoryType);
AGP_EDGE_CUDA_SAME_FIELD(CopyParams, target_host, CUDA_MEMCPY3D_v2, dstHost);
AGP_EDGE_CUDA_SAME_FIELD(CopyParams, target_device, CUDA_MEMCPY3D_v2, dstDevice);
AGP_EDGE_CUDA_SAME_FIELD(CopyParams, target_pitch, CUDA_MEMCPY3D_v2, dstPitch);
AGP_EDGE_CUDA_SAME_FIELD(CopyParams, width_bytes, CUDA_MEMCPY3D_v2, WidthInBytes);
AGP_EDGE_CUDA_SAME_FIELD(CopyParams, height, CUDA_MEMCPY3D_v2, Height);
AGP_EDGE_CUDA_SAME_FIELD(CopyParams, depth, CUDA_MEMCPY3D_v2, Depth);
static_assert(sizeof(agp_edge::cuda::CopyParams) == sizeof(CUDA_MEMCPY3D_v2));
AGP_EDGE_CUDA_SAME_FIELD(LaunchParams, function, CUDA_KERNEL_NODE_PARAMS_v2, func);
AGP_EDGE_CUDA_SAME_FIELD(LaunchParams, grid_x, CUDA_KERNEL_NODE_PARAMS_v2, gridDimX);
AGP_EDGE_CUDA_SAME_FIELD(LaunchParams, block_x, CUDA_KERNEL_NODE_PARAMS_v2, blockDimX);
AGP_EDGE_CUDA_SAME_FIELD(LaunchParams, shared_bytes, CUDA_KERNEL_NODE_PARAMS_v2, sharedMemBytes);
AGP_EDGE_CUDA_SAME_FIELD(LaunchParams, parameters, CUDA_KERNEL_NODE_PARAMS_v2, kernelParams);
AGP_EDGE_CUDA_SAME_FIELD(LaunchParams, kernel, CUDA_KERNEL_NODE_PARAMS_v2, kern);
AGP_EDGE_CUDA_SAME_FIELD(LaunchParams, context, CUDA_KERNEL_NODE_PARAMS_v2, ctx);
static_assert(sizeof(agp_edge::cuda::LaunchParams) == sizeof(CUDA_KERNEL_NODE_PARAMS_v2));

}  // namespace

#else

TEST(no_cuda_header_was_found) {
  std::puts("cuda.h was not found: the interface was not compared");
}

#endif

CHECK_MAIN()
