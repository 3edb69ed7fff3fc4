// The C interface through the shared library, with nothing of the C++ library linked in.
#include <sys/wait.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "agp_edge.h"
#include "check.hpp"
#include "models.hpp"

namespace {

using models::TemporaryFile;

bool says(const char* part) { return std::strstr(agp_edge_last_error(), part) != nullptr; }

std::string text(const char* words) { return words; }

agp_edge_options options() {
  agp_edge_options made;
  CHECK(agp_edge_options_init(&made, sizeof made) == AGP_EDGE_OK);
  return made;
}

agp_edge_status create(const char* path, const agp_edge_options* chosen = nullptr) {
  int other = 0;
  auto* detector = reinterpret_cast<agp_edge_detector*>(&other);  // to see that it is set
  const agp_edge_status status = agp_edge_detector_create(path, chosen, &detector);
  CHECK((detector == nullptr) == (status != AGP_EDGE_OK));
  agp_edge_detector_destroy(detector);
  return status;
}

}  // namespace

TEST(version_is_three_numbers) {
  int major = -1;
  int minor = -1;
  int patch = -1;
  CHECK(std::sscanf(agp_edge_version(), "%d.%d.%d", &major, &minor, &patch) == 3);
  CHECK(major >= 0 && minor >= 0 && patch >= 0);
}

TEST(defaults) {
  const agp_edge_options made = options();
  CHECK(made.struct_size == sizeof made && made.outputs == AGP_EDGE_ALL && made.threads == 0);
  CHECK(std::isnan(made.threshold) && std::isnan(made.mask_threshold));
  CHECK(made.roi_width == 0 && made.min_area == 0 && made.block == 0);
}

TEST(null_pointers_are_refused_one_by_one) {
  agp_edge_detector* detector = nullptr;
  agp_edge_result* result = nullptr;
  CHECK(agp_edge_options_init(nullptr, 44) == AGP_EDGE_INVALID_ARGUMENT && says("'options'"));
  CHECK(agp_edge_detector_create("x", nullptr, nullptr) == AGP_EDGE_INVALID_ARGUMENT);
  CHECK(says("agp_edge_detector_create got a null pointer for 'detector'"));
  CHECK(agp_edge_detector_create(nullptr, nullptr, &detector) == AGP_EDGE_INVALID_ARGUMENT);
  CHECK(says("'model'"));
  const agp_edge_frame frame{};
  CHECK(agp_edge_detector_score(nullptr, &frame, &result) == AGP_EDGE_INVALID_ARGUMENT);
  CHECK(agp_edge_detector_score(nullptr, &frame, nullptr) == AGP_EDGE_INVALID_ARGUMENT);
  agp_edge_region region{};
  agp_edge_latency latency{};
  CHECK(agp_edge_result_region(nullptr, 0, &region) == AGP_EDGE_INVALID_ARGUMENT);
  CHECK(agp_edge_result_latency(nullptr, &latency) == AGP_EDGE_INVALID_ARGUMENT);
  CHECK(std::isnan(agp_edge_detector_threshold(nullptr)));
  CHECK(text(agp_edge_detector_engine(nullptr)).empty());
  CHECK(text(agp_edge_detector_manifest(nullptr)).empty());
  CHECK(std::isnan(agp_edge_result_score(nullptr)) && std::isnan(agp_edge_result_p_value(nullptr)));
  CHECK(agp_edge_result_is_anomalous(nullptr) == -1);
  CHECK(agp_edge_result_map(nullptr) == nullptr && agp_edge_result_mask(nullptr) == nullptr);
  CHECK(agp_edge_result_region_count(nullptr) == 0 && agp_edge_result_map_width(nullptr) == 0);
  agp_edge_detector_destroy(nullptr);
  agp_edge_result_destroy(nullptr);
}

TEST(files_that_are_no_model) {
  CHECK(create("/no/such.onnx") == AGP_EDGE_MODEL_ERROR);
  CHECK(says("'/no/such.onnx' does not exist"));
  const TemporaryFile file("hello");
  CHECK(create(file.path().c_str()) == AGP_EDGE_MODEL_ERROR && says("is no model of agp_edge"));
}

TEST(structs_of_other_versions) {
  agp_edge_options older = options();
  older.struct_size = 12;
  CHECK(create("/no/such.onnx", &older) == AGP_EDGE_INVALID_ARGUMENT);
  CHECK(says("struct_size of agp_edge_options is 12, sizeof(agp_edge_options) is expected"));
  older.struct_size = 0xFFFFFFFFU;
  CHECK(create("/no/such.onnx", &older) == AGP_EDGE_INVALID_ARGUMENT);
  struct Newer {
    agp_edge_options known;
    std::int32_t added[5];
  } newer;
  CHECK(agp_edge_options_init(&newer.known, sizeof newer) == AGP_EDGE_OK);
  CHECK(newer.known.struct_size == sizeof newer && newer.added[4] == 0);
  CHECK(create("/no/such.onnx", &newer.known) == AGP_EDGE_MODEL_ERROR);  // past the options
  newer.added[3] = 1;
  CHECK(create("/no/such.onnx", &newer.known) == AGP_EDGE_INVALID_ARGUMENT);
  CHECK(says("sets fields that agp_edge "));
}

TEST(options_out_of_range) {
  const auto refused = [](void (*change)(agp_edge_options&), const char* part) {
    agp_edge_options changed = options();
    change(changed);
    CHECK(create("/no/such.onnx", &changed) == AGP_EDGE_INVALID_ARGUMENT);
    CHECK(says(part));
  };
  refused([](agp_edge_options& o) { o.outputs = 8; }, "outputs is 8");
  refused([](agp_edge_options& o) { o.outputs = -1; }, "outputs is -1");
  refused([](agp_edge_options& o) { o.threads = -2; }, "threads is -2");
  refused([](agp_edge_options& o) { o.block = 2; }, "block is 2");
}

TEST(last_error_is_the_threads_own) {
  CHECK(create("/no/such.onnx") == AGP_EDGE_MODEL_ERROR);
  std::thread([] {
    CHECK(text(agp_edge_last_error()).empty());
    CHECK(create(nullptr) == AGP_EDGE_INVALID_ARGUMENT && says("'model'"));
  }).join();
  CHECK(says("/no/such.onnx"));
  options();  // a call that works clears it
  CHECK(text(agp_edge_last_error()).empty());
}

#if defined(AGP_EDGE_TEST_OPENVINO) || defined(AGP_EDGE_TEST_PLAN)
namespace {

agp_edge_frame frame_of(const std::vector<std::uint8_t>& pixels) {
  agp_edge_frame frame{};
  frame.struct_size = sizeof frame;
  frame.format = AGP_EDGE_MONO8;
  frame.data = pixels.data();
  frame.row_pitch = models::kInput;
  frame.width = models::kInput;
  frame.height = models::kInput;
  return frame;
}

std::string model_bytes() {
  models::Json document = models::manifest();
#ifdef AGP_EDGE_TEST_OPENVINO
  return models::average_onnx() + models::metadata("agp_edge.manifest", document.dump());
#else
  document["versions"]["tensorrt"] = "10.3.0";
  return "ftrt" + std::string(60, '\x91') + document.dump();
#endif
}

// Mean over the planes of (grey - mean) / std, in the manifest's numbers.
float expected(float grey) { return ((grey - 10) / 2 + (grey - 20) / 4 + (grey - 30) / 5) / 3; }

// A detector until the end of the scope.
class Opened {
 public:
  explicit Opened(const agp_edge_options* chosen = nullptr) : file_(model_bytes()) {
    CHECK(agp_edge_detector_create(file_.path().c_str(), chosen, &detector) == AGP_EDGE_OK);
    CHECK(text(agp_edge_last_error()).empty());
  }
  ~Opened() { agp_edge_detector_destroy(detector); }
  Opened(const Opened&) = delete;
  Opened& operator=(const Opened&) = delete;

  const std::string& path() const { return file_.path(); }
  agp_edge_detector* detector = nullptr;

 private:
  TemporaryFile file_;
};

constexpr std::size_t kPixels = std::size_t{models::kInput} * models::kInput;

// Grey 40 with a square of 250, whose blocks are anomalous.
std::vector<std::uint8_t> defect() {
  std::vector<std::uint8_t> pixels(kPixels, 40);
  for (std::size_t y = 8; y < 16; ++y) {
    std::fill_n(pixels.begin() + static_cast<std::ptrdiff_t>(y * models::kInput + 16), 8, 250);
  }
  return pixels;
}

}  // namespace

TEST(verdict_and_everything_with_it) {
  const Opened opened;
  CHECK(agp_edge_detector_threshold(opened.detector) == 25.0F);
  CHECK(text(agp_edge_detector_engine(opened.detector)).size() > 5);
  CHECK(text(agp_edge_detector_manifest(opened.detector)).find("\"name\":\"small\"") !=
        std::string::npos);
  const std::vector<std::uint8_t> good(kPixels, 40);
  agp_edge_result* result = nullptr;
  agp_edge_frame frame = frame_of(good);
  CHECK(agp_edge_detector_score(opened.detector, &frame, &result) == AGP_EDGE_OK);
  CHECK_NEAR(agp_edge_result_score(result), expected(40), 1e-3);
  CHECK(agp_edge_result_is_anomalous(result) == 0 && agp_edge_result_region_count(result) == 0);
  CHECK(std::isnan(agp_edge_result_p_value(result)));
  agp_edge_result_destroy(result);

  const std::vector<std::uint8_t> bad = defect();
  frame = frame_of(bad);
  CHECK(agp_edge_detector_score(opened.detector, &frame, &result) == AGP_EDGE_OK);
  // Upsampled, no pixel of an even block size lies on the block's centre: 1/16 of it away each way.
  const float share = 0.9375F * 0.9375F;
  CHECK_NEAR(agp_edge_result_score(result), share * expected(250) + (1 - share) * expected(40),
             1e-3);
  CHECK(agp_edge_result_is_anomalous(result) == 1 && agp_edge_result_threshold(result) == 25.0F);
  const int height = agp_edge_result_map_height(result);
  const int width = agp_edge_result_map_width(result);
  CHECK(height == models::kInput && width == models::kInput);
  const float* map = agp_edge_result_map(result);
  const std::uint8_t* mask = agp_edge_result_mask(result);
  int inside = 0;
  for (int i = 0; i < height * width; ++i) {
    CHECK((map[i] > 25.0F) == (mask[i] == 1));
    inside += mask[i];
  }
  CHECK(agp_edge_result_region_count(result) == 1);
  agp_edge_region region{};
  region.struct_size = sizeof region;
  CHECK(agp_edge_result_region(result, 0, &region) == AGP_EDGE_OK);
  CHECK(region.area == inside && region.struct_size == sizeof region);
  CHECK(region.x <= 16 && region.y <= 8 && region.x + region.width >= 24);
  CHECK(region.peak == agp_edge_result_score(result) && region.frame_area == region.area);
  CHECK(agp_edge_result_region(result, 1, &region) == AGP_EDGE_INVALID_ARGUMENT);
  CHECK(agp_edge_result_region(result, -1, &region) == AGP_EDGE_INVALID_ARGUMENT);
  region.struct_size = 8;
  CHECK(agp_edge_result_region(result, 0, &region) == AGP_EDGE_INVALID_ARGUMENT);
  CHECK(says("struct_size of agp_edge_region is 8"));
  agp_edge_latency latency{};
  latency.struct_size = sizeof latency;
  CHECK(agp_edge_result_latency(result, &latency) == AGP_EDGE_OK && latency.total_ms > 0);
  agp_edge_result_destroy(result);
}

TEST(options_do_what_they_say) {
  agp_edge_options chosen = options();
  chosen.outputs = AGP_EDGE_SCORE_ONLY;
  chosen.threshold = 1000.0F;
  chosen.threads = 1;
  chosen.roi_width = 8;
  chosen.roi_height = 8;
  const Opened opened(&chosen);
  const std::vector<std::uint8_t> bad = defect();
  const agp_edge_frame frame = frame_of(bad);
  agp_edge_result* result = nullptr;
  CHECK(agp_edge_detector_score(opened.detector, &frame, &result) == AGP_EDGE_OK);
  CHECK_NEAR(agp_edge_result_score(result), expected(40), 1e-3);  // the defect is outside
  CHECK(agp_edge_result_threshold(result) == 1000.0F);
  CHECK(agp_edge_result_map(result) == nullptr && agp_edge_result_mask(result) == nullptr);
  agp_edge_result_destroy(result);
}

TEST(frames_that_are_refused_leave_the_detector_usable) {
  const Opened opened;
  const std::vector<std::uint8_t> good(kPixels, 40);
  const auto refused = [&](void (*change)(agp_edge_frame&), agp_edge_status status,
                           const char* part) {
    agp_edge_frame frame = frame_of(good);
    change(frame);
    auto* result = reinterpret_cast<agp_edge_result*>(&frame);
    CHECK(agp_edge_detector_score(opened.detector, &frame, &result) == status);
    CHECK(result == nullptr);
    CHECK(says(part));
    const agp_edge_frame next = frame_of(good);
    CHECK(agp_edge_detector_score(opened.detector, &next, &result) == AGP_EDGE_OK);
    agp_edge_result_destroy(result);
  };
  refused([](agp_edge_frame& f) { f.data = nullptr; }, AGP_EDGE_FRAME_ERROR, "null pointer");
  refused([](agp_edge_frame& f) { f.width = 0; }, AGP_EDGE_FRAME_ERROR, "0 x 32 pixels");
  refused([](agp_edge_frame& f) { f.row_pitch = 31; }, AGP_EDGE_FRAME_ERROR, "row pitch is 31");
  refused([](agp_edge_frame& f) { f.format = 15; }, AGP_EDGE_INVALID_ARGUMENT, "format is 15");
  refused([](agp_edge_frame& f) { f.format = -1; }, AGP_EDGE_INVALID_ARGUMENT, "format is -1");
  refused([](agp_edge_frame& f) { f.struct_size = 0; }, AGP_EDGE_INVALID_ARGUMENT,
          "struct_size of agp_edge_frame is 0");
}

TEST(one_detector_many_threads) {
  const Opened opened;
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&opened, t] {
      const auto grey = static_cast<std::uint8_t>(40 + 10 * t);
      const std::vector<std::uint8_t> pixels(kPixels, grey);
      const agp_edge_frame frame = frame_of(pixels);
      for (int i = 0; i < 10; ++i) {
        agp_edge_result* result = nullptr;
        CHECK(agp_edge_detector_score(opened.detector, &frame, &result) == AGP_EDGE_OK);
        CHECK_NEAR(agp_edge_result_score(result), expected(grey), 1e-3);
        agp_edge_result_destroy(result);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

namespace {

// Exit code of the example, and what it prints.
int score_c(const std::string& arguments, std::string& output) {
  const char* const emulator = std::getenv("AGP_EDGE_TEST_EMULATOR");
  const std::string command = (emulator == nullptr ? "" : std::string(emulator) + " ") +
                              std::getenv("AGP_EDGE_TEST_SCORE_C") + " " + arguments + " 2>&1";
  output.clear();
  FILE* const pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return -1;
  char line[256];
  while (std::fgets(line, sizeof line, pipe) != nullptr) {
    // AddressSanitizer's remark on the fibers that the fake GPU's kernels run on.
    if (std::strstr(line, "WARNING: ASan doesn't fully support makecontext") == nullptr) {
      output += line;
    }
  }
  return WEXITSTATUS(pclose(pipe));
}

}  // namespace

TEST(example_in_c) {
  const Opened opened;
  const std::vector<std::uint8_t> pixels = defect();
  const std::string head = "P5\n32 32\n255\n";
  const TemporaryFile bad(head + std::string(pixels.begin(), pixels.end()), ".pgm");
  const TemporaryFile good(head + std::string(kPixels, '\x28'), ".pgm");
  const TemporaryFile cut(head, ".pgm");
  std::string output;
  CHECK(score_c(opened.path() + " " + good.path(), output) == 0);
  CHECK(output.rfind("good score ", 0) == 0);
  CHECK(score_c(opened.path() + " " + bad.path(), output) == 3);
  CHECK(output.rfind("anomalous score ", 0) == 0);
  CHECK(output.find("\n  at x ") != std::string::npos);
  CHECK(score_c(opened.path() + " " + cut.path(), output) == 1);
  CHECK(output == "error: '" + cut.path() + "' is not a binary PGM of 8 bits\n");
  CHECK(score_c("/no/such.onnx " + good.path(), output) == 1);
  CHECK(output.rfind("error: the model '/no/such.onnx' does not exist", 0) == 0);
  CHECK(score_c("", output) == 2);
}

#endif

CHECK_MAIN()
