#include "module.h"

#include <cstdio>
#include <exception>
#include <memory>
#include <utility>

#include "engine.hpp"
#include "logger.hpp"

namespace agp_edge::tensorrt {
namespace {

// No exception crosses the C interface.
template <typename Work>
int guarded(char* error, std::size_t error_bytes, Work work) noexcept {
  try {
    work();
    return AGP_EDGE_TENSORRT_OK;
  } catch (const Failure& failure) {
    std::snprintf(error, error_bytes, "%s", failure.what());
    return failure.status();
  } catch (const std::exception& other) {
    std::snprintf(error, error_bytes, "%s", other.what());
    return AGP_EDGE_TENSORRT_FAILED;
  }
}

int enqueue(void* handle, CUstream_st* stream, const void* const* in, void* const* out, char* error,
            std::size_t error_bytes) {
  return guarded(error, error_bytes,
                 [&] { static_cast<Engine*>(handle)->enqueue(stream, in, out); });
}

void hand_over(std::unique_ptr<Engine> engine, agp_edge_tensorrt_engine* opened);

int clone(void* handle, agp_edge_tensorrt_engine* made, char* error, std::size_t error_bytes) {
  return guarded(error, error_bytes, [&] {
    *made = {};
    hand_over(static_cast<Engine*>(handle)->clone(), made);
  });
}

void destroy(void* handle) { delete static_cast<Engine*>(handle); }

void hand_over(std::unique_ptr<Engine> engine, agp_edge_tensorrt_engine* opened) {
  opened->plan_name = engine->name();
  opened->tensors = engine->tensors().data();
  opened->tensor_count = static_cast<int>(engine->tensors().size());
  opened->enqueue = &enqueue;
  opened->clone = &clone;
  opened->destroy = &destroy;
  opened->handle = engine.release();
}

}  // namespace
}  // namespace agp_edge::tensorrt

extern "C" __attribute__((visibility("default"))) int agp_edge_open_tensorrt(
    const agp_edge_tensorrt_request* request, agp_edge_tensorrt_engine* opened, char* error,
    std::size_t error_bytes) {
  using agp_edge::tensorrt::Engine;
  using agp_edge::tensorrt::Failure;
  using agp_edge::tensorrt::Library;
  using agp_edge::tensorrt::Logger;
  return agp_edge::tensorrt::guarded(error, error_bytes, [&] {
    // First: the other fields may lie elsewhere in a request of another number.
    if (request->interface_number != AGP_EDGE_TENSORRT_INTERFACE) {
      throw Failure(AGP_EDGE_TENSORRT_INTERFACE_DIFFERS,
                    "the module's interface is " + std::to_string(AGP_EDGE_TENSORRT_INTERFACE) +
                        ", the library's is " + std::to_string(request->interface_number));
    }
    *opened = {};
    Logger::instance().forward_to(request->log);
    const Library library(request->library, opened->library_version);
    auto engine = std::make_unique<Engine>(library, request->plan, request->plan_bytes);
    agp_edge::tensorrt::hand_over(std::move(engine), opened);
  });
}
