// A small pipeline with an engine in device memory, for tests on the fake driver.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "agp_edge/callable_engine.hpp"
#include "agp_edge/pipeline.hpp"
#include "check.hpp"
#include "cuda/cuda_driver.hpp"
#include "cuda_on_cpu/half.hpp"
#include "fakes/fake_cuda.hpp"

namespace cuda_pipeline {

using namespace agp_edge;

constexpr int kSide = 32;
constexpr int kGrid = 8;

// The mean over channels and 4 x 4 blocks; on a device, by a function in the stream.
struct BlockMean {
  const void* in = nullptr;
  void* out = nullptr;
  DType type = DType::kFloat32;  // of both
  int calls = 0;
  std::chrono::milliseconds takes{0};
  enum { kGood, kWritesNothing, kThrows, kThrowsSecond, kSynchronises } behaviour = kGood;

  static void compute(void* user) {
    const auto& self = *static_cast<BlockMean*>(user);
    std::this_thread::sleep_for(self.takes);
    constexpr int kStep = kSide / kGrid;
    for (int cell = 0; cell < kGrid * kGrid; ++cell) {
      float sum = 0;
      for (int i = 0; i < 3 * kStep * kStep; ++i) {
        const int row = cell / kGrid * kStep + i / kStep % kStep;
        const int plane = i / (kStep * kStep);
        const int at = (plane * kSide + row) * kSide + cell % kGrid * kStep + i % kStep;
        sum += self.type == DType::kFloat32
                   ? static_cast<const float*>(self.in)[at]
                   : kernel::value_of_half(static_cast<const unsigned short*>(self.in)[at]);
      }
      const float mean = sum / (3.0F * kStep * kStep);
      if (self.type == DType::kFloat32) {
        static_cast<float*>(self.out)[cell] = mean;
      } else {
        static_cast<unsigned short*>(self.out)[cell] = kernel::half_bits(mean);
      }
    }
  }

  static int enqueue(void* user, Stream stream, const void* const* in, void* const* out,
                     char* error, std::size_t error_bytes) {
    auto& self = *static_cast<BlockMean*>(user);
    ++self.calls;
    self.in = in[0];
    self.out = out[0];
    if (self.behaviour == kThrows || (self.behaviour == kThrowsSecond && self.calls == 2)) {
      std::snprintf(error, error_bytes, "it was told to fail");
      return 1;
    }
    if (self.behaviour == kWritesNothing) return 0;
    if (stream == nullptr) {
      compute(user);
      return 0;
    }
    using Launch = int(Stream, void (*)(void*), void*);
    if (fake_cuda::function<Launch>("cuLaunchHostFunc")(stream, &compute, user) != 0) {
      std::snprintf(error, error_bytes, "its launch failed");
      return 1;
    }
    if (self.behaviour == kSynchronises &&
        fake_cuda::function<int(Stream)>("cuStreamSynchronize")(stream) != 0) {
      std::snprintf(error, error_bytes, "it could not synchronise");
      return 1;
    }
    return 0;
  }
};

inline std::shared_ptr<Engine> engine_of(BlockMean& mean, Memory memory, int device = 0) {
  return std::make_shared<CallableEngine>(
      "block mean", std::vector<TensorSpec>{{"image", mean.type, {1, 3, kSide, kSide}}},
      std::vector<TensorSpec>{{"distance", mean.type, {1, 1, kGrid, kGrid}}}, &BlockMean::enqueue,
      &mean, nullptr, memory, device);
}

struct Recipes {
  PreprocessRecipe preprocess;
  PostprocessRecipe postprocess;
  Recipes() {
    preprocess.height = preprocess.width = kSide;
    preprocess.mean = {{10.0F, 20.0F, 30.0F}};
    preprocess.stddev = {{2.0F, 4.0F, 5.0F}};
    postprocess.grid_height = postprocess.grid_width = kGrid;
    postprocess.map_height = postprocess.map_width = kSide;
    postprocess.sigma = 1.5F;
  }
};

inline std::unique_ptr<Pipeline> pipeline_of(BlockMean& mean, Memory memory,
                                             const PipelineOptions& options = {},
                                             const Recipes& recipes = {}) {
  return std::make_unique<Pipeline>(engine_of(mean, memory), recipes.preprocess,
                                    recipes.postprocess, options);
}

// Pixels of a format, with a bright spot and `gap` bytes behind each row.
class Picture {
 public:
  Picture(int height, int width, PixelFormat format, unsigned seed, std::size_t gap = 0) {
    frame_.height = height;
    frame_.width = width;
    frame_.format = format;
    frame_.row_pitch =
        static_cast<std::size_t>(width) * static_cast<std::size_t>(bytes_per_pixel(format)) + gap;
    pixels_.resize(frame_.bytes());
    std::mt19937 random(seed);
    const bool words = bytes_per_pixel(format) == 2;
    for (std::size_t i = 0; i < pixels_.size(); ++i) {
      const unsigned limit = static_cast<unsigned>(largest_value(format)) >> 8U;
      pixels_[i] =
          static_cast<std::uint8_t>(words && i % 2 == 1 ? random() % (limit + 1) : random() % 90);
    }
    const std::size_t spot = frame_.row_pitch * static_cast<std::size_t>(height / 3);
    for (std::size_t i = 0; i < 6; ++i) {
      std::memset(pixels_.data() + spot + i * frame_.row_pitch, words ? 3 : 250,
                  std::size_t{6} * static_cast<std::size_t>(bytes_per_pixel(format)));
    }
    frame_.data = pixels_.data();
  }
  Picture(const Picture&) = delete;
  Picture& operator=(const Picture&) = delete;

  const Frame& frame() const { return frame_; }
  std::size_t bytes() const { return pixels_.size(); }

  // The same pixels elsewhere.
  Frame at(const void* data, Memory memory = Memory::kHost) const {
    Frame frame = frame_;
    frame.data = static_cast<const std::uint8_t*>(data);
    frame.memory = memory;
    return frame;
  }

 private:
  Frame frame_;
  std::vector<std::uint8_t> pixels_;
};

inline Decision decision_of(float threshold, std::uint8_t outputs = kAll) {
  Decision decision;
  decision.threshold = decision.mask_threshold = threshold;
  decision.outputs = outputs;
  return decision;
}

// An environment variable, until the end of the scope.
class Environment {
 public:
  Environment(const char* name, const std::string& value) : name_(name) {
    setenv(name, value.c_str(), 1);
  }
  ~Environment() { unsetenv(name_); }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  const char* name_;
};

// Memory of the GPU 0, or of another, with a stream of its own; kept by the test.
struct Producer {
  explicit Producer(std::size_t bytes, int device = 0)
      : context(std::make_shared<cuda::Context>(device)),
        pinned(context, bytes),
        memory(context, bytes),
        stream(context) {}

  // The pixels are under way, and there when somebody waits for the stream.
  Frame send(const Picture& of) {
    std::memcpy(pinned.data(), of.frame().data, of.bytes());
    const cuda::Current current(*context);
    stream.upload(memory.address(), pinned.data(), of.bytes());
    Frame frame = of.at(memory.pointer(), Memory::kDevice);
    frame.device = context->device().index;
    frame.stream = stream.get();
    return frame;
  }
  void wait() {
    const cuda::Current current(*context);
    stream.synchronize();
  }

  std::shared_ptr<const cuda::Context> context;
  cuda::PinnedBuffer pinned;
  cuda::DeviceBuffer memory;
  cuda::OwnedStream stream;
};

// What tests score that ask no more of a frame than its score.
inline const Decision kDecision = decision_of(5.0F);

inline const Picture& picture() {
  static const Picture made(40, 48, PixelFormat::kBgr8, 1, 4);
  return made;
}

// By the CPU's stages.
inline float expected_score(const Frame& frame) {
  BlockMean mean;
  PipelineOptions options;
  options.threads = 1;
  return pipeline_of(mean, Memory::kHost, options)->score(frame, kDecision).score;
}

inline void check_score(Pipeline& pipeline, const Picture& of, const Frame& frame) {
  static const float usual = expected_score(picture().frame());
  const float expected = &of == &picture() ? usual : expected_score(of.frame());
  CHECK_NEAR(pipeline.score(frame, kDecision).score, expected, 1e-3);
}

}  // namespace cuda_pipeline
