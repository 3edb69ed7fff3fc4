#include "cuda/cuda_image.hpp"

#if defined(AGP_EDGE_CUDA_PREPROCESS) && defined(AGP_EDGE_CUDA_POSTPROCESS)

// The assembler reads the files: a compiler would take minutes over a megabyte of numbers.
#define AGP_EDGE_EMBED(symbol, file) \
  __asm__(                           \
      ".pushsection .rodata\n"       \
      ".balign 64\n"                 \
      ".hidden " symbol              \
      "\n"                           \
      ".globl " symbol "\n" symbol   \
      ":\n"                          \
      ".incbin \"" file              \
      "\"\n"                         \
      ".popsection\n")

AGP_EDGE_EMBED("agp_edge_preprocess_image", AGP_EDGE_CUDA_PREPROCESS);
AGP_EDGE_EMBED("agp_edge_postprocess_image", AGP_EDGE_CUDA_POSTPROCESS);

extern "C" {
extern const char agp_edge_preprocess_image[];
extern const char agp_edge_postprocess_image[];
}

namespace agp_edge::cuda {

const void* image_of(KernelSet set) noexcept {
  return set == KernelSet::kPreprocess ? agp_edge_preprocess_image : agp_edge_postprocess_image;
}

int compiler_version() noexcept { return AGP_EDGE_CUDA_COMPILER; }

}  // namespace agp_edge::cuda

#else

namespace agp_edge::cuda {

const void* image_of(KernelSet /*set*/) noexcept { return nullptr; }
int compiler_version() noexcept { return 0; }

}  // namespace agp_edge::cuda

#endif
