/* The C interface of agp_edge, for C#, LabVIEW, PLC runtimes and every language that calls C.
 *
 *   agp_edge_detector* detector = NULL;
 *   if (agp_edge_detector_create("bottle.plan", NULL, &detector) != AGP_EDGE_OK)
 *     puts(agp_edge_last_error());
 *
 * Owns     what a create or score function hands out belongs to the caller, until the matching
 *          destroy function. What an accessor returns belongs to its object and ends with it.
 * Borrows  arguments, for the length of the call.
 * Threads  a detector may be used from any thread, calls take turns; it is destroyed when no call
 *          runs. A result belongs to one thread at a time. The last error is the thread's own.
 * Blocks   create until the model is loaded, score until the result is there.
 *
 * No exception crosses it. Strings are UTF-8. Fields are only ever added to the end of a struct:
 * `struct_size` says which of them the caller knows, so that a program runs with every newer
 * library of the same soname. docs/c_api.md has a C# example. */
#ifndef AGP_EDGE_H_
#define AGP_EDGE_H_

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define AGP_EDGE_API
#else
#define AGP_EDGE_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct agp_edge_detector agp_edge_detector;
typedef struct agp_edge_result agp_edge_result;

/* int32_t everywhere, since the size of a C enumeration is the compiler's. */
typedef int32_t agp_edge_status;
enum {
  AGP_EDGE_OK = 0,
  AGP_EDGE_ERROR = 1,            /* none of the following */
  AGP_EDGE_MODEL_ERROR = 2,      /* no model of ours, corrupt, wrong version or GPU, bad output */
  AGP_EDGE_FRAME_ERROR = 3,      /* size, pixel format, row pitch, region of interest */
  AGP_EDGE_DEVICE_ERROR = 4,     /* no GPU, a CUDA failure, GPU memory exhausted */
  AGP_EDGE_DATA_ERROR = 5,       /* a file with images or settings */
  AGP_EDGE_DEPENDENCY_ERROR = 6, /* a library that the model needs is not installed */
  AGP_EDGE_INVALID_ARGUMENT = 7, /* a null pointer, an unknown struct size or number */
  AGP_EDGE_OUT_OF_MEMORY = 8     /* of the host */
};

typedef int32_t agp_edge_pixel_format;
enum {
  AGP_EDGE_BGR8 = 0,
  AGP_EDGE_RGB8 = 1,
  AGP_EDGE_MONO8 = 2,
  AGP_EDGE_MONO10 = 3, /* two bytes a pixel, little endian, as mono12, mono16 and bayer_*12 */
  AGP_EDGE_MONO12 = 4,
  AGP_EDGE_MONO16 = 5,
  AGP_EDGE_BAYER_RGGB8 = 6,
  AGP_EDGE_BAYER_GRBG8 = 7,
  AGP_EDGE_BAYER_GBRG8 = 8,
  AGP_EDGE_BAYER_BGGR8 = 9,
  AGP_EDGE_BAYER_RGGB12 = 10,
  AGP_EDGE_BAYER_GRBG12 = 11,
  AGP_EDGE_BAYER_GBRG12 = 12,
  AGP_EDGE_BAYER_BGGR12 = 13,
  AGP_EDGE_NV12 = 14 /* height rows of Y, then height / 2 rows of U and V, one pitch */
};

/* Bits of agp_edge_options.outputs; the score is always there. */
enum {
  AGP_EDGE_SCORE_ONLY = 0,
  AGP_EDGE_MAP = 1,
  AGP_EDGE_MASK = 2,
  AGP_EDGE_REGIONS = 4,
  AGP_EDGE_ALL = 7
};

/* Filled by agp_edge_options_init; then change what should be different. */
typedef struct agp_edge_options {
  uint32_t struct_size; /* sizeof(agp_edge_options) */
  int32_t outputs;      /* sum of AGP_EDGE_MAP, ...; default AGP_EDGE_ALL */
  int32_t threads;      /* of the CPU stages and a CPU engine; 0: chosen */
  int32_t min_area;     /* regions of fewer anomaly-map pixels leave mask and list */
  float threshold;      /* NaN: the model's */
  float mask_threshold; /* NaN: `threshold` if given, else the model's */
  int32_t roi_x;        /* frame pixels; roi_width and roi_height 0: the model's */
  int32_t roi_y;
  int32_t roi_width;
  int32_t roi_height;
  int32_t block; /* how the thread waits for a GPU: 0 spinning, 1 asleep */
} agp_edge_options;

/* One camera frame in host memory. */
typedef struct agp_edge_frame {
  uint32_t struct_size; /* sizeof(agp_edge_frame) */
  agp_edge_pixel_format format;
  const void* data;   /* the first row's first byte */
  uint64_t row_pitch; /* bytes from row to row */
  int32_t width;      /* pixels */
  int32_t height;
} agp_edge_frame;

/* One connected part of the mask. */
typedef struct agp_edge_region {
  uint32_t struct_size; /* sizeof(agp_edge_region), set by the caller */
  int32_t x;            /* the box around it, frame pixels */
  int32_t y;
  int32_t width;
  int32_t height;
  int32_t area;      /* anomaly-map pixels */
  double frame_area; /* the same in frame pixels */
  float peak;        /* largest value of the anomaly map inside */
  int32_t peak_x;    /* where that is, frame pixels */
  int32_t peak_y;
} agp_edge_region;

/* Milliseconds; the total counts from the call, a wait for other threads' turn included. */
typedef struct agp_edge_latency {
  uint32_t struct_size; /* sizeof(agp_edge_latency), set by the caller */
  uint32_t reserved;
  double preprocess_ms;
  double execute_ms;
  double postprocess_ms;
  double total_ms;
} agp_edge_latency;

/* "0.1.0" */
AGP_EDGE_API const char* agp_edge_version(void);

/* What went wrong in this thread's last call that returned a status, in one sentence; "" where
 * nothing did. It lives until the thread's next call of such a function. */
AGP_EDGE_API const char* agp_edge_last_error(void);

AGP_EDGE_API agp_edge_status agp_edge_options_init(agp_edge_options* options, uint32_t struct_size);

/* Opens an .onnx file (OpenVINO, on the CPU) or a TensorRT plan (on GPU 0). `options` may be null.
 * `*detector` is null where that failed. */
AGP_EDGE_API agp_edge_status agp_edge_detector_create(const char* model,
                                                      const agp_edge_options* options,
                                                      agp_edge_detector** detector);
/* Null is fine. */
AGP_EDGE_API void agp_edge_detector_destroy(agp_edge_detector* detector);

/* The one used; NaN for null. */
AGP_EDGE_API float agp_edge_detector_threshold(const agp_edge_detector* detector);
/* Name and version of the inference engine; "" for null. */
AGP_EDGE_API const char* agp_edge_detector_engine(const agp_edge_detector* detector);
/* The model's manifest, JSON (docs/manifest.md); "" for null. */
AGP_EDGE_API const char* agp_edge_detector_manifest(const agp_edge_detector* detector);

/* The verdict on one frame, which must not change until the call returns. `*result` is null where
 * that failed; the detector is usable afterwards. */
AGP_EDGE_API agp_edge_status agp_edge_detector_score(agp_edge_detector* detector,
                                                     const agp_edge_frame* frame,
                                                     agp_edge_result** result);
/* Null is fine. */
AGP_EDGE_API void agp_edge_result_destroy(agp_edge_result* result);

/* NaN for null. Larger is more anomalous. */
AGP_EDGE_API float agp_edge_result_score(const agp_edge_result* result);
/* 1 where the score is larger than the threshold, else 0; -1 for null. */
AGP_EDGE_API int32_t agp_edge_result_is_anomalous(const agp_edge_result* result);
AGP_EDGE_API float agp_edge_result_threshold(const agp_edge_result* result);
/* Conformal; NaN where the model has no calibration tail, or for null. */
AGP_EDGE_API double agp_edge_result_p_value(const agp_edge_result* result);
/* Of map and mask, pixels; 0 for null. */
AGP_EDGE_API int32_t agp_edge_result_map_height(const agp_edge_result* result);
AGP_EDGE_API int32_t agp_edge_result_map_width(const agp_edge_result* result);
/* height x width values, row by row; null where it was not asked for. */
AGP_EDGE_API const float* agp_edge_result_map(const agp_edge_result* result);
/* The same shape, 1 where the map is larger than the mask threshold; null as above. */
AGP_EDGE_API const uint8_t* agp_edge_result_mask(const agp_edge_result* result);
/* 0 where regions were not asked for, or for null. */
AGP_EDGE_API int32_t agp_edge_result_region_count(const agp_edge_result* result);
/* Largest peak first. */
AGP_EDGE_API agp_edge_status agp_edge_result_region(const agp_edge_result* result, int32_t index,
                                                    agp_edge_region* region);
AGP_EDGE_API agp_edge_status agp_edge_result_latency(const agp_edge_result* result,
                                                     agp_edge_latency* latency);

#ifdef __cplusplus
}
#endif

#endif /* AGP_EDGE_H_ */
