// Runs only where the engine is compiled in and its library was found (CMakeLists.txt).
#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <random>
#include <thread>

#include "agp_edge/detector.hpp"
#include "agp_edge/error.hpp"
#include "agp_edge/openvino_engine.hpp"
#include "check.hpp"
#include "models.hpp"

using namespace agp_edge;
using models::TemporaryFile;

namespace {

std::string onnx() {
  return models::average_onnx() + models::metadata(kManifestKey, models::manifest().dump());
}

struct Noise {
  static constexpr int kSide = models::kInput;
  std::vector<std::uint8_t> pixels;

  explicit Noise(unsigned seed) : pixels(std::size_t{kSide} * kSide * 3) {
    std::mt19937 random(seed);
    for (std::uint8_t& pixel : pixels) pixel = static_cast<std::uint8_t>(random());
  }
  Frame frame() const { return {pixels.data(), kSide, kSide, kSide * 3, PixelFormat::kBgr8}; }

  // What the graph computes, in doubles: mean over channels and block of (pixel - mean) / std.
  double block_mean(int block_y, int block_x) const {
    const double mean[] = {10, 20, 30};
    const double stddev[] = {2, 4, 5};
    double sum = 0;
    for (int y = 0; y < models::kBlock; ++y) {
      for (int x = 0; x < models::kBlock; ++x) {
        const int at = (block_y * models::kBlock + y) * kSide + block_x * models::kBlock + x;
        for (int rgb = 0; rgb < 3; ++rgb) {
          const double pixel = pixels[static_cast<std::size_t>(at * 3 + 2 - rgb)];
          sum += (pixel - mean[rgb]) / stddev[rgb];
        }
      }
    }
    return sum / (3 * models::kBlock * models::kBlock);
  }

  // Largest value of the grid after bilinear, half-pixel centred upsampling to the input's size.
  double score() const {
    double largest = -1e9;
    for (int y = 0; y < kSide; ++y) {
      for (int x = 0; x < kSide; ++x) largest = std::max(largest, upsampled(y, x));
    }
    return largest;
  }

  double upsampled(int y, int x) const {
    const double at_y = (y + 0.5) / models::kBlock - 0.5;
    const double at_x = (x + 0.5) / models::kBlock - 0.5;
    const int top = static_cast<int>(std::floor(at_y));
    const int left = static_cast<int>(std::floor(at_x));
    double sum = 0;
    for (int dy = 0; dy < 2; ++dy) {
      for (int dx = 0; dx < 2; ++dx) {
        const double weight = std::abs(1 - dy - (at_y - top)) * std::abs(1 - dx - (at_x - left));
        sum += weight * block_mean(std::clamp(top + dy, 0, models::kGrid - 1),
                                   std::clamp(left + dx, 0, models::kGrid - 1));
      }
    }
    return sum;
  }
};

}  // namespace

TEST(it_is_compiled_in_and_says_what_it_is) {
  CHECK(has_openvino());
  const TemporaryFile file(onnx());
  const auto engine = open_openvino(file.path());
  CHECK(engine->name().rfind("OpenVINO 20", 0) == 0);
  CHECK(engine->name().find('-') == std::string::npos);
  CHECK(engine->inputs().size() == 1 && engine->inputs()[0].name == "image");
  CHECK((engine->inputs()[0].shape == std::vector<std::int64_t>{1, 3, 32, 32}));
  CHECK(engine->outputs().size() == 1 && engine->outputs()[0].name == "distance");
  CHECK((engine->outputs()[0].shape == std::vector<std::int64_t>{1, 1, 4, 4}));
}

TEST(detector_scores_as_computed_by_hand) {
  const TemporaryFile file(onnx());
  DetectorOptions options;
  options.threads = 1;
  Detector detector(file.path(), options);
  for (unsigned seed = 0; seed < 20; ++seed) {
    const Noise noise(seed);
    CHECK_NEAR(detector.score(noise.frame()).score, noise.score(), 1e-4 * noise.score());
  }
}

TEST(other_addresses_are_bound_anew) {
  const TemporaryFile file(onnx());
  const auto engine = open_openvino(file.path());
  constexpr std::size_t kElements = std::size_t{3} * models::kInput * models::kInput;
  float expected = 1;
  for (int round = 0; round < 3; ++round, ++expected) {
    alignas(64) std::array<float, kElements> input{};
    const std::vector<float> other(kElements, -1.0F);
    input.fill(expected);
    std::vector<float> output(16, -1.0F);
    const void* in[] = {input.data()};
    void* out[] = {output.data()};
    engine->enqueue(nullptr, in, out);
    CHECK_NEAR(output[0], expected, 1e-5);
    CHECK_NEAR(output[15], expected, 1e-5);
    in[0] = other.data();
    engine->enqueue(nullptr, in, out);
    CHECK_NEAR(output[7], -1.0, 1e-5);
  }
}

TEST(bytes_in_memory_in_place_of_the_file) {
  const std::string bytes = onnx();
  OpenVinoOptions options;
  options.content = bytes;
  const auto engine = open_openvino("/no/such/file.onnx", options);
  CHECK(engine->inputs().size() == 1 && engine->inputs()[0].name == "image");
  const std::string broken = bytes.substr(0, 40);
  options.content = broken;
  CHECK_THROWS(open_openvino("the name", options), ModelError, "'the name'");
}

TEST(detectors_in_threads) {
  const TemporaryFile file(onnx());
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (unsigned t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      Detector detector(file.path());
      const Noise noise(t);
      for (int i = 0; i < 20; ++i) {
        if (std::abs(detector.score(noise.frame()).score - noise.score()) > 1e-3) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
}

TEST(graphs_that_openvino_refuses) {
  // A graph that a walk over the fields accepts, but no runtime: an operator that does not exist.
  std::string bytes = onnx();
  const std::size_t at = bytes.find("AveragePool");
  bytes.replace(at, 7, "Savage!");
  const TemporaryFile file(bytes);
  CHECK_THROWS(Detector(file.path()), ModelError, file.path());
  CHECK_THROWS(open_openvino("/no/such/file.onnx"), ModelError, "/no/such/file.onnx");
}

TEST(manifest_that_does_not_fit_the_graph) {
  models::Json document = models::manifest();
  document["output"]["height"] = 8;
  const TemporaryFile file(models::average_onnx() +
                           models::metadata(kManifestKey, document.dump()));
  CHECK_THROWS(Detector(file.path()), ModelError, "(1, 1, 8, 4)");
}

TEST(library_that_is_not_there) {
  const TemporaryFile file(onnx());
  OpenVinoOptions options;
  options.library_folder = "/no/such/folder";
  CHECK_THROWS(open_openvino(file.path(), options), DependencyError, "'/no/such/folder'");
  CHECK_THROWS(open_openvino(file.path(), options), DependencyError,
               "pip install agp-edge[openvino]");
}

CHECK_MAIN()
