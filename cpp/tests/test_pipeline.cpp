#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <thread>

#include "agp_edge/callable_engine.hpp"
#include "agp_edge/detector.hpp"
#include "agp_edge/error.hpp"
#include "check.hpp"
#include "models.hpp"

using namespace agp_edge;

namespace {

constexpr int kSide = models::kInput;
constexpr int kGrid = models::kGrid;
// Image(110): (110 - mean 10) / std 2 = 50 in one block and 0 elsewhere. Bilinear upsampling by 8
// comes no nearer to a block's centre than 1/16 of a block, on either axis.
constexpr double kPeak = 50.0 * 15 / 16 * 15 / 16;

// An engine that answers each block's mean of the red plane, and fails on command.
struct Averager {
  enum class Fault : std::uint8_t { kNone, kSentence, kSilent, kNan, kUnwritten, kUnterminated };

  std::atomic<Fault> fault{Fault::kNone};
  std::atomic<int> running{0};
  std::atomic<int> most_at_once{0};
  std::atomic<int> calls{0};
  std::atomic<int> releases{0};
  const void* first_input = nullptr;
  const void* first_output = nullptr;
  bool same_addresses = true;
  bool aligned = true;

  static int enqueue(void* user, Stream stream, const void* const* in, void* const* out,
                     char* error, std::size_t error_bytes) {
    auto& self = *static_cast<Averager*>(user);
    const int running = ++self.running;
    if (running > self.most_at_once) self.most_at_once = running;
    const int status = self.run(stream, in, out, error, error_bytes);
    --self.running;
    return status;
  }

  static void release(void* user) { ++static_cast<Averager*>(user)->releases; }

  int run(Stream stream, const void* const* in, void* const* out, char* error,
          std::size_t error_bytes) {
    if (stream != nullptr) return 1;
    if (calls++ == 0) {
      first_input = in[0];
      first_output = out[0];
    }
    same_addresses = same_addresses && in[0] == first_input && out[0] == first_output;
    aligned = aligned && reinterpret_cast<std::uintptr_t>(in[0]) % 64 == 0 &&
              reinterpret_cast<std::uintptr_t>(out[0]) % 64 == 0;
    if (fault == Fault::kSentence) {
      std::snprintf(error, error_bytes, "the %s is on fire", "accelerator");
      return 7;
    }
    if (fault == Fault::kSilent) return 1;
    if (fault == Fault::kUnterminated) {
      for (std::size_t i = 0; i < error_bytes; ++i) error[i] = 'x';
      return 1;
    }
    if (fault == Fault::kUnwritten) return 0;
    const auto* const red = static_cast<const float*>(in[0]);
    auto* const grid = static_cast<float*>(out[0]);
    for (int y = 0; y < kGrid; ++y) {
      for (int x = 0; x < kGrid; ++x) {
        float sum = 0;
        for (int row = 0; row < models::kBlock; ++row) {
          for (int column = 0; column < models::kBlock; ++column) {
            sum += red[(y * models::kBlock + row) * kSide + x * models::kBlock + column];
          }
        }
        grid[y * kGrid + x] = sum / (models::kBlock * models::kBlock);
      }
    }
    if (fault == Fault::kNan) grid[5] = std::numeric_limits<float>::quiet_NaN();
    return 0;
  }
};

const std::vector<TensorSpec> kInputs = {{"image", DType::kFloat32, {1, 3, kSide, kSide}}};
const std::vector<TensorSpec> kOutputs = {{"distance", DType::kFloat32, {1, 1, kGrid, kGrid}}};

std::shared_ptr<Engine> engine_of(Averager& averager) {
  return std::make_shared<CallableEngine>("Averager 1.0", kInputs, kOutputs, &Averager::enqueue,
                                          &averager, &Averager::release);
}

Manifest manifest() { return Manifest::parse(models::manifest().dump(), "test"); }

// BGR, one value everywhere but in the block (1, 2) of the grid, where red is `red`.
struct Image {
  std::vector<std::uint8_t> pixels;

  explicit Image(std::uint8_t red) : pixels(std::size_t{kSide} * kSide * 3, 10) {
    for (int y = 8; y < 16; ++y) {
      for (int x = 16; x < 24; ++x) pixels[static_cast<std::size_t>(y * kSide + x) * 3 + 2] = red;
    }
  }
  Frame frame() const { return {pixels.data(), kSide, kSide, kSide * 3, PixelFormat::kBgr8}; }
};

}  // namespace

TEST(a_frame_goes_all_the_way) {
  Averager averager;
  Detector detector(manifest(), engine_of(averager));
  const Image image(110);
  const Result result = detector.score(image.frame());
  CHECK_NEAR(result.score, kPeak, 1e-3);
  CHECK(result.is_anomalous && result.threshold == 25.0F);
  CHECK(result.map_height == kSide && result.map_width == kSide);
  CHECK(result.anomaly_map.size() == std::size_t{kSide} * kSide);
  CHECK_NEAR(result.anomaly_map[12 * kSide + 20], kPeak, 1e-3);
  CHECK(result.mask[12 * kSide + 20] == 1 && result.mask[0] == 0);
  CHECK(result.regions.size() == 1);
  CHECK_NEAR(result.regions[0].peak, result.score, 0);
  const Rect& box = result.regions[0].box;
  CHECK(box.x <= 20 && 20 < box.x + box.width && box.y <= 12 && 12 < box.y + box.height);
  CHECK(detector.engine().name() == "Averager 1.0");
  CHECK(averager.aligned);
}

TEST(p_values_come_from_the_tail) {
  Averager averager;
  const Image image(110);
  CHECK(!Detector(manifest(), engine_of(averager)).score(image.frame()).p_value);

  models::Json document = models::manifest();
  document["threshold"]["tail"] = {{"n", 99}, {"scores", {2 * kPeak, kPeak / 2, kPeak / 4}}};
  const Manifest with_tail = Manifest::parse(document.dump(), "test");
  CHECK(Detector(with_tail, engine_of(averager)).score(image.frame()).p_value == 2.0 / 100);
  CHECK(Detector(with_tail, engine_of(averager)).score(Image(10).frame()).p_value == 1.0);

  DetectorOptions options;
  options.ignored = {{{0, 0}, {4, 0}, {0, 4}}};  // other scores than those of the tail
  CHECK(!Detector(with_tail, engine_of(averager), options).score(image.frame()).p_value);
  options.calibration_tail = agp_edge::CalibrationTail{1, {kPeak / 2}};
  CHECK(Detector(with_tail, engine_of(averager), options).score(image.frame()).p_value == 0.5);
  options.calibration_tail->n = 0;
  CHECK_THROWS(Detector(with_tail, engine_of(averager), options), ModelError, "calibration tail");
}

TEST(latencies_add_up) {
  Averager averager;
  Detector detector(manifest(), engine_of(averager));
  const Latency latency = detector.score(Image(20).frame()).latency;
  CHECK(latency.preprocess_ms > 0 && latency.execute_ms > 0 && latency.postprocess_ms > 0);
  const double parts = latency.preprocess_ms + latency.execute_ms + latency.postprocess_ms;
  CHECK(latency.total_ms >= parts - 1e-6 && latency.total_ms < parts + 5);
}

TEST(same_frame_same_bits_same_buffers) {
  Averager averager;
  Detector detector(manifest(), engine_of(averager));
  const Image image(110);
  const Result first = detector.score(image.frame());
  detector.score(Image(200).frame());
  const Result third = detector.score(image.frame());
  CHECK(first.score == third.score && first.anomaly_map == third.anomaly_map);
  CHECK(averager.same_addresses && averager.calls == 3);
}

TEST(faults_become_model_errors_and_leave_the_detector_usable) {
  Averager averager;
  Detector detector(manifest(), engine_of(averager));
  const Image image(110);
  const auto fails = [&](Averager::Fault fault, const char* message) {
    averager.fault = fault;
    CHECK_THROWS(detector.score(image.frame()), ModelError, message);
    averager.fault = Averager::Fault::kNone;
    CHECK_NEAR(detector.score(image.frame()).score, kPeak, 1e-3);
  };
  fails(Averager::Fault::kSentence, "'Averager 1.0' failed: the accelerator is on fire");
  fails(Averager::Fault::kSilent, "no reason given");
  fails(Averager::Fault::kUnterminated, "xxxx");
  fails(Averager::Fault::kNan, "finite");
  // Not the last frame's numbers again.
  fails(Averager::Fault::kUnwritten, "finite");
}

TEST(bad_frames_leave_the_detector_usable) {
  Averager averager;
  Detector detector(manifest(), engine_of(averager));
  const Image image(110);
  Frame frame = image.frame();
  frame.data = nullptr;
  CHECK_THROWS(detector.score(frame), FrameError, "");
  frame = image.frame();
  frame.height = 0;
  CHECK_THROWS(detector.score(frame), FrameError, "");
  frame = image.frame();
  frame.row_pitch = 10;
  CHECK_THROWS(detector.score(frame), FrameError, "");
  CHECK(averager.calls == 0);
  CHECK_NEAR(detector.score(image.frame()).score, kPeak, 1e-3);
}

TEST(region_of_interest_is_scored_alone_and_regions_are_in_the_frame) {
  Averager averager;
  DetectorOptions options;
  options.roi = Rect{kSide, 2 * kSide, kSide, kSide};
  Detector detector(manifest(), engine_of(averager), options);
  // The image stands at the region's place of a frame three times as large, on white.
  const Image image(110);
  const int side = 3 * kSide;
  std::vector<std::uint8_t> pixels(
      static_cast<std::size_t>(side) * static_cast<std::size_t>(side) * 3, 255);
  for (int y = 0; y < kSide; ++y) {
    std::copy_n(&image.pixels[static_cast<std::size_t>(y) * kSide * 3], kSide * 3,
                &pixels[static_cast<std::size_t>((2 * kSide + y) * side + kSide) * 3]);
  }
  const Frame frame{pixels.data(), side, side, static_cast<std::size_t>(side) * 3,
                    PixelFormat::kBgr8};
  const Result result = detector.score(frame);
  CHECK_NEAR(result.score, kPeak, 1e-3);
  CHECK(result.regions.size() == 1);
  CHECK(result.regions[0].box.x > kSide + 8 && result.regions[0].box.y >= 2 * kSide);
  CHECK_THROWS(detector.score(image.frame()), FrameError, "");

  options.roi = Rect{0, 0, 0, 5};
  CHECK_THROWS(Detector(manifest(), engine_of(averager), options), FrameError, "(0, 0, 0, 5)");
  options.roi = Rect{-1, 0, 5, 5};
  CHECK_THROWS(Detector(manifest(), engine_of(averager), options), FrameError, "(-1, 0, 5, 5)");
}

TEST(threads_share_a_detector_and_get_their_own_frames_answer) {
  Averager averager;
  Detector detector(manifest(), engine_of(averager));
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      const auto red = static_cast<std::uint8_t>(30 + 50 * t);
      const Image image(red);
      for (int i = 0; i < 50; ++i) {
        const Result result = detector.score(image.frame());
        if (std::abs(result.score - kPeak * (red - 10) / 100) > 1e-3) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
  CHECK(averager.calls == 200 && averager.most_at_once == 1);
}

TEST(an_engine_that_calls_its_own_detector_is_refused) {
  struct Caller {
    Detector* detector = nullptr;
    const Image image{110};

    static int enqueue(void* user, Stream, const void* const*, void* const*, char* error,
                       std::size_t error_bytes) {
      auto& self = *static_cast<Caller*>(user);
      try {
        self.detector->score(self.image.frame());
      } catch (const ModelError& refusal) {
        std::snprintf(error, error_bytes, "%s", refusal.what());
      }
      return 1;
    }
  };
  Caller caller;
  Detector detector(manifest(), std::make_shared<CallableEngine>("E", kInputs, kOutputs,
                                                                 &Caller::enqueue, &caller));
  caller.detector = &detector;
  // Twice: the refusal leaves nothing behind.
  CHECK_THROWS(detector.score(caller.image.frame()), ModelError, "its own engine's function");
  CHECK_THROWS(detector.score(caller.image.frame()), ModelError, "its own engine's function");
}

TEST(thresholds_come_from_options_then_manifest) {
  Averager averager;
  models::Json document = models::manifest();
  document["threshold"]["mask_value"] = 12.0;
  const Manifest with_mask = Manifest::parse(document.dump(), "test");
  document["threshold"] = nullptr;
  const Manifest without = Manifest::parse(document.dump(), "test");
  const auto decision = [&](const Manifest& read, const DetectorOptions& options) {
    return Detector(read, engine_of(averager), options).decision();
  };
  DetectorOptions options;
  CHECK(decision(with_mask, options).threshold == 25 &&
        decision(with_mask, options).mask_threshold == 12);
  CHECK(decision(manifest(), options).mask_threshold == 25);
  CHECK_THROWS(decision(without, options), ModelError, "give threshold=...");
  options.threshold = 3.0F;
  CHECK(decision(with_mask, options).threshold == 3 &&
        decision(with_mask, options).mask_threshold == 3);
  CHECK(decision(without, options).threshold == 3);
  options.mask_threshold = 4.0F;
  CHECK(decision(without, options).mask_threshold == 4);
  options.mask_threshold = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS(decision(without, options), ModelError, "mask threshold");
  options = {};
  options.threshold = std::numeric_limits<float>::infinity();
  CHECK_THROWS(decision(without, options), ModelError, "a finite number is expected");
  options = {};
  options.min_area = -1;
  CHECK_THROWS(decision(manifest(), options), ModelError, "minimum area -1");
  options = {};
  options.outputs = 8;
  CHECK_THROWS(decision(manifest(), options), ModelError, "outputs 8");
}

TEST(only_what_is_asked_for_comes_back) {
  Averager averager;
  DetectorOptions options;
  options.outputs = kScoreOnly;
  const Image image(110);
  const Result score = Detector(manifest(), engine_of(averager), options).score(image.frame());
  CHECK(score.anomaly_map.empty() && score.mask.empty() && score.regions.empty());
  CHECK(score.is_anomalous);
  CHECK_NEAR(score.score, kPeak, 1e-3);
  options.outputs = kRegions;
  const Result regions = Detector(manifest(), engine_of(averager), options).score(image.frame());
  CHECK(regions.anomaly_map.empty() && regions.mask.empty() && regions.regions.size() == 1);
}

TEST(engines_that_do_not_fit_are_refused) {
  Averager averager;
  const auto open = [&](std::vector<TensorSpec> inputs, std::vector<TensorSpec> outputs) {
    return Detector(manifest(),
                    std::make_shared<CallableEngine>("E", std::move(inputs), std::move(outputs),
                                                     &Averager::enqueue, &averager));
  };
  CHECK_THROWS(open({}, kOutputs), ModelError, "0 inputs, one is expected");
  CHECK_THROWS(open(kInputs, {kOutputs[0], kOutputs[0]}), ModelError, "2 outputs");
  CHECK_THROWS(open({{"image", DType::kFloat16, {1, 3, kSide, kSide}}}, kOutputs), ModelError,
               "'image' float16 (1, 3, 32, 32)");
  CHECK_THROWS(open({{"image", DType::kFloat32, {1, 3, 64, 64}}}, kOutputs), ModelError,
               "its manifest says float32 (1, 3, 32, 32)");
  CHECK_THROWS(open(kInputs, {{"distance", DType::kFloat32, {1, 1, 16}}}), ModelError,
               "'distance' float32 (1, 1, 16)");
  CHECK_THROWS(open({{"x", DType::kFloat32, {1, 3, kSide, kSide}}}, kOutputs), ModelError,
               "the input 'x', its manifest says 'image'");
  CHECK_THROWS(open(kInputs, {{"y", DType::kFloat32, {1, 1, kGrid, kGrid}}}), ModelError,
               "the output 'y', its manifest says 'distance'");
  CHECK_THROWS(Detector(manifest(), nullptr), ModelError, "no engine");
}

TEST(release_is_called_once) {
  Averager averager;
  {
    Detector detector(manifest(), engine_of(averager));
    Detector moved(std::move(detector));
    CHECK(averager.releases == 0);
    moved.score(Image(20).frame());
  }
  CHECK(averager.releases == 1);
  CHECK_THROWS(CallableEngine("E", kInputs, kOutputs, nullptr, &averager, &Averager::release),
               ModelError, "no function");
  CHECK(averager.releases == 2);
}

TEST(a_plan_without_tensorrt) {
  const models::TemporaryFile file("ftrt" + std::string(64, '\x91') + models::manifest().dump(),
                                   ".plan");
  setenv("AGP_EDGE_MODULES", "/no/such/folder", 1);
  CHECK_THROWS(Detector(file.path()), DependencyError,
               "this build of agp_edge has no module _trt11.so");
  CHECK_THROWS(Detector("/no/such.onnx"), ModelError, "does not exist");
}

CHECK_MAIN()
