// What the CPU stages need to be compiled for several instruction sets at once.
//
// AGP_EDGE_CLONES before a function makes the compiler emit it for AVX-512, AVX2 with FMA and the
// baseline, and the loader pick one, so that one x86-64 wheel serves old and new CPUs. It is empty
// where the loader has no ifunc, where the baseline is enough (aarch64 has NEON always), and under
// sanitizers, whose runtime is not up yet when the loader picks.
#pragma once

#include <cstring>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || \
    __has_feature(undefined_behavior_sanitizer)
#define AGP_EDGE_SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define AGP_EDGE_SANITIZED 1
#endif

#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) && \
    !defined(AGP_EDGE_SANITIZED) && !defined(AGP_EDGE_NO_CLONES)
#define AGP_EDGE_CLONES \
  __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#else
#define AGP_EDGE_CLONES
#endif

// Bodies shared by several cloned functions have to melt into each clone.
#define AGP_EDGE_INLINE inline __attribute__((always_inline))
