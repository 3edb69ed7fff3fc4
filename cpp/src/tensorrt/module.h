// The C interface between the library and its TensorRT modules _trt10, _trt11 and _trtrtx.
//
// Each module is compiled against the headers of one TensorRT major, whose enum values and virtual
// tables no other major shares. So only C crosses this line, and a module links to nothing of ours.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct CUstream_st;

// Raised with every change below; a module of another number is refused.
#define AGP_EDGE_TENSORRT_INTERFACE 2u
#define AGP_EDGE_TENSORRT_MAX_RANK 8

typedef enum {
  AGP_EDGE_TENSORRT_OK = 0,
  AGP_EDGE_TENSORRT_INTERFACE_DIFFERS,  // library and module come from two builds of agp_edge
  AGP_EDGE_TENSORRT_NO_LIBRARY,         // TensorRT's library was not found or does not load
  AGP_EDGE_TENSORRT_WRONG_LIBRARY,      // it is another major, or older than the headers were
  AGP_EDGE_TENSORRT_NO_RUNTIME,         // createInferRuntime gave null
  AGP_EDGE_TENSORRT_REFUSED,            // deserializing the plan gave null
  AGP_EDGE_TENSORRT_NO_CONTEXT,         // createExecutionContext gave null
  AGP_EDGE_TENSORRT_BAD_TENSOR,         // a tensor that the pipeline cannot feed
  AGP_EDGE_TENSORRT_FAILED              // the enqueue did not start
} agp_edge_tensorrt_status;

// severity: 0 internal error, 1 error, 2 warning, 3 information, 4 verbose. Called from any thread.
typedef void (*agp_edge_tensorrt_log)(int severity, const char* message);

typedef struct {
  const char* name;  // lives as long as the engine
  int is_input;
  int is_half;  // float16; else float32
  int rank;
  int64_t shape[AGP_EDGE_TENSORRT_MAX_RANK];
} agp_edge_tensorrt_tensor;

typedef struct {
  uint32_t interface_number;
  const char* library;  // path or soname
  const void* plan;     // read during the call only
  size_t plan_bytes;
  agp_edge_tensorrt_log log;  // the same for every call; called until the process ends
} agp_edge_tensorrt_request;

// What came out. The functions take `handle`; the caller keeps the CUDA context current that was
// current at the opening, one call at a time, except that clones run beside each other.
typedef struct agp_edge_tensorrt_engine {
  void* handle;
  int32_t library_version;  // 101602: 10.16.2; set as soon as it is known, also on failure
  const char* plan_name;    // the network's name; lives as long as the engine
  const agp_edge_tensorrt_tensor* tensors;
  int tensor_count;
  // `in` and `out` in the order of `tensors`. 0, or a status and TensorRT's own words in `error`.
  int (*enqueue)(void* handle, struct CUstream_st* stream, const void* const* in, void* const* out,
                 char* error, size_t error_bytes);
  // Another execution context of the same weights, which live until the last of them is destroyed.
  // 0, or a status and TensorRT's own words in `error`; then `clone->handle` is null.
  int (*clone)(void* handle, struct agp_edge_tensorrt_engine* clone, char* error,
               size_t error_bytes);
  void (*destroy)(void* handle);
} agp_edge_tensorrt_engine;

// The one exported function. Returns a status; on failure `engine->handle` is null and `error`
// holds the details: what the loader said, the first error that TensorRT logged, or which tensor.
// Never throws.
typedef int (*agp_edge_tensorrt_open)(const agp_edge_tensorrt_request* request,
                                      agp_edge_tensorrt_engine* engine, char* error,
                                      size_t error_bytes);
#define AGP_EDGE_TENSORRT_SYMBOL "agp_edge_open_tensorrt"

#ifdef __cplusplus
}
#endif
