// DLPack's binary interface, as far as frames need it (https://dmlc.github.io/dlpack, 1.0): the
// structures that a producer puts into a capsule.
#pragma once

#include <cstdint>

namespace agp_edge::bindings::dlpack {

// DLDeviceType.
constexpr std::int32_t kCpu = 1;
constexpr std::int32_t kCuda = 2;
constexpr std::int32_t kCudaHost = 3;      // pinned
constexpr std::int32_t kCudaManaged = 13;  // moves between CPU and GPU by itself

constexpr std::uint8_t kUnsigned = 1;  // DLDataTypeCode
constexpr std::uint32_t kMajor = 1;    // that is understood

struct Tensor {
  void* data;
  std::int32_t device_type;
  std::int32_t device_id;
  std::int32_t ndim;
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
  std::int64_t* shape;
  std::int64_t* strides;  // elements; null: C order
  std::uint64_t byte_offset;
};

// In a capsule named "dltensor".
struct Managed {
  Tensor tensor;
  void* context;
  void (*deleter)(Managed* self);
};

// In a capsule named "dltensor_versioned".
struct ManagedVersioned {
  std::uint32_t major;
  std::uint32_t minor;
  void* context;
  void (*deleter)(ManagedVersioned* self);
  std::uint64_t flags;
  Tensor tensor;
};

}  // namespace agp_edge::bindings::dlpack
