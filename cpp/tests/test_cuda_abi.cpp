// The driver's interface as cuda_driver.hpp declares it, against cuda.h where that is found: a
// difference does not compile.
#include "check.hpp"
#include "cuda_driver.hpp"

#if __has_include(<cuda.h>)
#include <cuda.h>

#include <type_traits>

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
  CHECK(CU_DEVICE_ATTRIBUTE_INTEGRATED == 18);
  CHECK(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR == 75);
  CHECK(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR == 76);
  CHECK(CU_STREAM_NON_BLOCKING == 1);
}

}  // namespace

#else

TEST(no_cuda_header_was_found) {
  std::puts("cuda.h was not found: the interface was not compared");
}

#endif

CHECK_MAIN()
