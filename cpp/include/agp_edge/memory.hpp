// Where pixels and tensors lie, and the stream whose work makes them.
#pragma once

#include <cstdint>

struct CUstream_st;  // cudaStream_t points here; CUDA itself stays out of this header

namespace agp_edge {

using Stream = CUstream_st*;

enum class Memory : std::uint8_t {
  kHost,   // a pointer of this process, pageable or pinned
  kDevice  // an address of the primary context of a CUDA device
};

// How a thread waits for the GPU: turning on its core, a few microseconds sooner, or asleep.
enum class Wait : std::uint8_t { kSpin, kBlock };

}  // namespace agp_edge
