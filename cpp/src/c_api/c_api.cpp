#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <utility>

#include "agp_edge.h"
#include "agp_edge/detector.hpp"
#include "agp_edge/error.hpp"

struct agp_edge_detector {
  agp_edge::Detector detector;
  std::string engine;
};

struct agp_edge_result {
  agp_edge::Result result;
};

namespace {

using agp_edge::PixelFormat;

static_assert(static_cast<int>(PixelFormat::kBgr8) == AGP_EDGE_BGR8);
static_assert(static_cast<int>(PixelFormat::kRgb8) == AGP_EDGE_RGB8);
static_assert(static_cast<int>(PixelFormat::kMono8) == AGP_EDGE_MONO8);
static_assert(static_cast<int>(PixelFormat::kMono10) == AGP_EDGE_MONO10);
static_assert(static_cast<int>(PixelFormat::kMono12) == AGP_EDGE_MONO12);
static_assert(static_cast<int>(PixelFormat::kMono16) == AGP_EDGE_MONO16);
static_assert(static_cast<int>(PixelFormat::kBayerRggb8) == AGP_EDGE_BAYER_RGGB8);
static_assert(static_cast<int>(PixelFormat::kBayerGrbg8) == AGP_EDGE_BAYER_GRBG8);
static_assert(static_cast<int>(PixelFormat::kBayerGbrg8) == AGP_EDGE_BAYER_GBRG8);
static_assert(static_cast<int>(PixelFormat::kBayerBggr8) == AGP_EDGE_BAYER_BGGR8);
static_assert(static_cast<int>(PixelFormat::kBayerRggb12) == AGP_EDGE_BAYER_RGGB12);
static_assert(static_cast<int>(PixelFormat::kBayerGrbg12) == AGP_EDGE_BAYER_GRBG12);
static_assert(static_cast<int>(PixelFormat::kBayerGbrg12) == AGP_EDGE_BAYER_GBRG12);
static_assert(static_cast<int>(PixelFormat::kBayerBggr12) == AGP_EDGE_BAYER_BGGR12);
static_assert(static_cast<int>(PixelFormat::kNv12) == AGP_EDGE_NV12);
static_assert(static_cast<int>(agp_edge::kMap) == AGP_EDGE_MAP);
static_assert(static_cast<int>(agp_edge::kMask) == AGP_EDGE_MASK);
static_assert(static_cast<int>(agp_edge::kRegions) == AGP_EDGE_REGIONS);
static_assert(static_cast<int>(agp_edge::kAll) == AGP_EDGE_ALL);

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class InvalidArgument : public agp_edge::Error {
 public:
  using Error::Error;
};

std::string& last_error() {
  thread_local std::string text;
  return text;
}

agp_edge_status fail(agp_edge_status status, const char* what) noexcept {
  try {
    last_error() = what;
  } catch (...) {  // no memory for the sentence
    last_error().clear();
  }
  return status;
}

// No exception crosses the C interface.
template <typename Work>
agp_edge_status guarded(Work work) noexcept {
  last_error().clear();
  try {
    work();
    return AGP_EDGE_OK;
  } catch (const InvalidArgument& error) {
    return fail(AGP_EDGE_INVALID_ARGUMENT, error.what());
  } catch (const agp_edge::ModelError& error) {
    return fail(AGP_EDGE_MODEL_ERROR, error.what());
  } catch (const agp_edge::FrameError& error) {
    return fail(AGP_EDGE_FRAME_ERROR, error.what());
  } catch (const agp_edge::DeviceError& error) {
    return fail(AGP_EDGE_DEVICE_ERROR, error.what());
  } catch (const agp_edge::DataError& error) {
    return fail(AGP_EDGE_DATA_ERROR, error.what());
  } catch (const agp_edge::DependencyError& error) {
    return fail(AGP_EDGE_DEPENDENCY_ERROR, error.what());
  } catch (const std::bad_alloc&) {
    return fail(AGP_EDGE_OUT_OF_MEMORY, "the host's memory is exhausted: close other programs");
  } catch (const std::exception& error) {
    return fail(AGP_EDGE_ERROR, error.what());
  } catch (...) {
    return fail(AGP_EDGE_ERROR, "an exception of an unknown kind");
  }
}

void expect(const void* pointer, const char* function, const char* name) {
  if (pointer == nullptr) {
    throw InvalidArgument(std::string(function) + " got a null pointer for '" + name +
                          "': give it an object");
  }
}

// A struct as this library knows it: fields that the caller does not know have their defaults, and
// those that only the caller knows must be 0.
template <typename Struct>
Struct read_struct(const Struct* given, Struct known, std::uint32_t first_size, const char* name) {
  const std::uint32_t size = given->struct_size;
  constexpr std::uint32_t kLargest = 4096;
  if (size < first_size || size > kLargest) {
    throw InvalidArgument(std::string("struct_size of ") + name + " is " + std::to_string(size) +
                          ", sizeof(" + name + ") is expected");
  }
  const auto* const bytes = reinterpret_cast<const unsigned char*>(given);
  if (std::any_of(bytes + std::min<std::size_t>(size, sizeof(Struct)), bytes + size,
                  [](unsigned char byte) { return byte != 0; })) {
    throw InvalidArgument(std::string(name) + " sets fields that agp_edge " + agp_edge_version() +
                          " does not know: install the version that the program was made for");
  }
  std::memcpy(static_cast<void*>(&known), given, std::min<std::size_t>(size, sizeof(Struct)));
  return known;
}

// Writes as much of `filled` as the caller knows; its struct_size stays.
template <typename Struct>
void write_struct(Struct filled, Struct* target, std::uint32_t first_size, const char* name) {
  const std::uint32_t size = target->struct_size;
  if (size < first_size) {
    throw InvalidArgument(std::string("struct_size of ") + name + " is " + std::to_string(size) +
                          ", sizeof(" + name + ") is expected: set it before the call");
  }
  filled.struct_size = size;
  std::memcpy(static_cast<void*>(target), &filled, std::min<std::size_t>(size, sizeof(Struct)));
}

// Sizes of the first version; later ones are larger.
constexpr std::uint32_t kOptionsSize = 44;
constexpr std::uint32_t kFrameSize = 32;
constexpr std::uint32_t kRegionSize = 48;
constexpr std::uint32_t kLatencySize = 40;
static_assert(sizeof(agp_edge_options) >= kOptionsSize && sizeof(agp_edge_frame) >= kFrameSize);
static_assert(sizeof(agp_edge_region) >= kRegionSize && sizeof(agp_edge_latency) >= kLatencySize);

agp_edge_options default_options() {
  agp_edge_options options{};
  options.struct_size = sizeof options;
  options.outputs = AGP_EDGE_ALL;
  options.threshold = kNan;
  options.mask_threshold = kNan;
  return options;
}

agp_edge::DetectorOptions options_from(const agp_edge_options& given) {
  agp_edge::DetectorOptions options;
  if (given.outputs < 0 || given.outputs > AGP_EDGE_ALL) {
    throw InvalidArgument("outputs is " + std::to_string(given.outputs) +
                          ", a sum of 1 (map), 2 (mask) and 4 (regions) is expected");
  }
  if (given.threads < 0) {
    throw InvalidArgument("threads is " + std::to_string(given.threads) +
                          ", 0 (chosen) or more is expected");
  }
  if (given.block != 0 && given.block != 1) {
    throw InvalidArgument("block is " + std::to_string(given.block) +
                          ", 0 (spinning) or 1 (asleep) is expected");
  }
  options.outputs = static_cast<std::uint8_t>(given.outputs);
  options.threads = given.threads;
  options.min_area = given.min_area;
  if (!std::isnan(given.threshold)) options.threshold = given.threshold;
  if (!std::isnan(given.mask_threshold)) options.mask_threshold = given.mask_threshold;
  const agp_edge::Rect roi{given.roi_x, given.roi_y, given.roi_width, given.roi_height};
  if (roi.x != 0 || roi.y != 0 || roi.width != 0 || roi.height != 0) options.roi = roi;
  options.wait = given.block != 0 ? agp_edge::Wait::kBlock : agp_edge::Wait::kSpin;
  return options;
}

agp_edge::Frame frame_from(const agp_edge_frame& given) {
  if (given.format < AGP_EDGE_BGR8 || given.format > AGP_EDGE_NV12) {
    throw InvalidArgument("the frame's format is " + std::to_string(given.format) +
                          ", one of agp_edge_pixel_format is expected");
  }
  agp_edge::Frame frame;
  frame.data = static_cast<const std::uint8_t*>(given.data);
  frame.height = given.height;
  frame.width = given.width;
  frame.row_pitch = static_cast<std::size_t>(given.row_pitch);
  frame.format = static_cast<PixelFormat>(given.format);
  return frame;
}

}  // namespace

const char* agp_edge_version(void) { return AGP_EDGE_VERSION; }

const char* agp_edge_last_error(void) { return last_error().c_str(); }

agp_edge_status agp_edge_options_init(agp_edge_options* options, uint32_t struct_size) {
  return guarded([&] {
    expect(options, "agp_edge_options_init", "options");
    if (struct_size >= kOptionsSize) std::memset(options, 0, struct_size);
    options->struct_size = struct_size;
    write_struct(default_options(), options, kOptionsSize, "agp_edge_options");
  });
}

agp_edge_status agp_edge_detector_create(const char* model, const agp_edge_options* options,
                                         agp_edge_detector** detector) {
  return guarded([&] {
    expect(detector, "agp_edge_detector_create", "detector");
    *detector = nullptr;
    expect(model, "agp_edge_detector_create", "model");
    agp_edge_options known = default_options();
    if (options != nullptr) {
      known = read_struct(options, known, kOptionsSize, "agp_edge_options");
    }
    auto made = std::make_unique<agp_edge_detector>(
        agp_edge_detector{agp_edge::Detector(model, options_from(known)), {}});
    made->engine = made->detector.engine().name();
    *detector = made.release();
  });
}

void agp_edge_detector_destroy(agp_edge_detector* detector) { delete detector; }

float agp_edge_detector_threshold(const agp_edge_detector* detector) {
  return detector == nullptr ? kNan : detector->detector.decision().threshold;
}

const char* agp_edge_detector_engine(const agp_edge_detector* detector) {
  return detector == nullptr ? "" : detector->engine.c_str();
}

const char* agp_edge_detector_manifest(const agp_edge_detector* detector) {
  return detector == nullptr ? "" : detector->detector.manifest().json.c_str();
}

agp_edge_status agp_edge_detector_score(agp_edge_detector* detector, const agp_edge_frame* frame,
                                        agp_edge_result** result) {
  return guarded([&] {
    expect(result, "agp_edge_detector_score", "result");
    *result = nullptr;
    expect(detector, "agp_edge_detector_score", "detector");
    expect(frame, "agp_edge_detector_score", "frame");
    const agp_edge_frame known = read_struct(frame, agp_edge_frame{}, kFrameSize, "agp_edge_frame");
    auto made = std::make_unique<agp_edge_result>();
    made->result = detector->detector.score(frame_from(known));
    *result = made.release();
  });
}

void agp_edge_result_destroy(agp_edge_result* result) { delete result; }

float agp_edge_result_score(const agp_edge_result* result) {
  return result == nullptr ? kNan : result->result.score;
}

int32_t agp_edge_result_is_anomalous(const agp_edge_result* result) {
  if (result == nullptr) return -1;
  return result->result.is_anomalous ? 1 : 0;
}

float agp_edge_result_threshold(const agp_edge_result* result) {
  return result == nullptr ? kNan : result->result.threshold;
}

double agp_edge_result_p_value(const agp_edge_result* result) {
  return result == nullptr ? kNan : result->result.p_value.value_or(kNan);
}

int32_t agp_edge_result_map_height(const agp_edge_result* result) {
  return result == nullptr ? 0 : result->result.map_height;
}

int32_t agp_edge_result_map_width(const agp_edge_result* result) {
  return result == nullptr ? 0 : result->result.map_width;
}

const float* agp_edge_result_map(const agp_edge_result* result) {
  if (result == nullptr || result->result.anomaly_map.empty()) return nullptr;
  return result->result.anomaly_map.data();
}

const uint8_t* agp_edge_result_mask(const agp_edge_result* result) {
  if (result == nullptr || result->result.mask.empty()) return nullptr;
  return result->result.mask.data();
}

int32_t agp_edge_result_region_count(const agp_edge_result* result) {
  return result == nullptr ? 0 : static_cast<int32_t>(result->result.regions.size());
}

agp_edge_status agp_edge_result_region(const agp_edge_result* result, int32_t index,
                                       agp_edge_region* region) {
  return guarded([&] {
    expect(result, "agp_edge_result_region", "result");
    expect(region, "agp_edge_result_region", "region");
    const int32_t count = agp_edge_result_region_count(result);
    if (index < 0 || index >= count) {
      throw InvalidArgument("the region " + std::to_string(index) + " of " + std::to_string(count) +
                            " was asked for: count from 0");
    }
    const agp_edge::Region& from = result->result.regions[static_cast<std::size_t>(index)];
    agp_edge_region filled{};
    filled.x = from.box.x;
    filled.y = from.box.y;
    filled.width = from.box.width;
    filled.height = from.box.height;
    filled.area = from.area;
    filled.frame_area = from.frame_area;
    filled.peak = from.peak;
    filled.peak_x = from.peak_x;
    filled.peak_y = from.peak_y;
    write_struct(filled, region, kRegionSize, "agp_edge_region");
  });
}

agp_edge_status agp_edge_result_latency(const agp_edge_result* result, agp_edge_latency* latency) {
  return guarded([&] {
    expect(result, "agp_edge_result_latency", "result");
    expect(latency, "agp_edge_result_latency", "latency");
    const agp_edge::Latency& from = result->result.latency;
    const agp_edge_latency filled{
        0, 0, from.preprocess_ms, from.execute_ms, from.postprocess_ms, from.total_ms};
    write_struct(filled, latency, kLatencySize, "agp_edge_latency");
  });
}
