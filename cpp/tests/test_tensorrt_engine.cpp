// One module, as AGP_EDGE_TEST_PRODUCT says, against a TensorRT library on the CPU that was
// compiled with the same headers: opening, scoring, every refusal, lifetimes.
#include <dlfcn.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "agp_edge/detector.hpp"
#include "agp_edge/error.hpp"
#include "agp_edge/tensorrt_engine.hpp"
#include "check.hpp"
#include "cuda/cuda_module.hpp"
#include "engine/tensorrt_modules.hpp"
#include "fakes/fake_cuda.hpp"
#include "models.hpp"

namespace {

using namespace agp_edge;

std::string variable(const char* name) {
  const char* const value = std::getenv(name);
  return value != nullptr ? value : "";
}

const TensorRtProduct& product() {
  for (const TensorRtProduct& each : tensorrt_products()) {
    if (each.module == variable("AGP_EDGE_TEST_PRODUCT") + ".so") return each;
  }
  throw std::runtime_error("AGP_EDGE_TEST_PRODUCT names no module");
}

bool is_rtx() { return product().flavour == TensorRtFlavour::kRtx; }

// The fake's, loaded by the first opening.
int live_objects() {
  const std::string file = variable("AGP_EDGE_TEST_LIBRARIES") + "/" + product().libraries[0];
  void* const library = dlopen(file.c_str(), RTLD_NOW | RTLD_NOLOAD);
  auto* const count = reinterpret_cast<int (*)()>(dlsym(library, "fake_tensorrt_live"));
  return count();
}

// As `agp-edge build` would have named it.
models::Json manifest(const std::string& version = "") {
  models::Json document = models::manifest();
  document["versions"][product().version_key] =
      !version.empty() ? version : std::string(product().major) + ".1.2";
  return document;
}

std::string plan_of(const models::Json& document) {
  return product().magic + std::string(60, '\x91') + document.dump();
}

std::shared_ptr<Engine> open(const std::string& path) {
  TensorRtOptions options;
  options.library_folders = {"/no/such/folder", variable("AGP_EDGE_TEST_LIBRARIES")};
  return open_tensorrt(path, options);
}

std::shared_ptr<Engine> open() {
  const models::TemporaryFile plan(plan_of(manifest()), ".plan");
  return open(plan.path());
}

// A misbehaviour until the end of the scope.
class Setting {
 public:
  Setting(const char* name, const std::string& value) : name_(name) {
    setenv(name, value.c_str(), 1);
  }
  ~Setting() { unsetenv(name_); }
  Setting(const Setting&) = delete;
  Setting& operator=(const Setting&) = delete;

 private:
  const char* name_;
};

float score_of(const std::shared_ptr<Engine>& engine, std::uint8_t grey) {
  Detector detector(Manifest::parse(manifest().dump(), "test"), engine);
  const std::vector<std::uint8_t> pixels(models::kInput * models::kInput, grey);
  return detector
      .score({pixels.data(), models::kInput, models::kInput, models::kInput, PixelFormat::kMono8})
      .score;
}

// Mean over the planes of (grey - mean) / std, in the manifest's numbers.
float expected(float grey) { return ((grey - 10) / 2 + (grey - 20) / 4 + (grey - 30) / 5) / 3; }

void check_all_released() {
  CHECK(live_objects() == 0);
  CHECK(fake_cuda::live() == 0);
}

TEST(module_is_found) {
  bool found = false;
  for (const TensorRtFlavour flavour : tensorrt_modules()) {
    found = found || flavour == product().flavour;
  }
  CHECK(found);
}

TEST(plan_is_opened_and_scores) {
  {
    const std::shared_ptr<Engine> engine = open();
    CHECK(engine->memory() == Memory::kDevice);
    CHECK(engine->name().find(is_rtx() ? "TensorRT for RTX " : "TensorRT 1") == 0);
    CHECK(engine->inputs().size() == 1 && engine->inputs()[0].name == "image");
    CHECK((engine->inputs()[0].shape == std::vector<std::int64_t>{1, 3, 32, 32}));
    CHECK(engine->outputs().size() == 1 && engine->outputs()[0].name == "distance");
    CHECK((engine->outputs()[0].shape == std::vector<std::int64_t>{1, 1, 4, 4}));
    CHECK_NEAR(score_of(engine, 60), expected(60), 1e-3);
    // New buffers: their addresses are bound again.
    CHECK_NEAR(score_of(engine, 90), expected(90), 1e-3);
    CHECK(live_objects() == 3);
  }
  check_all_released();
}

TEST(bytes_in_memory_in_place_of_the_file) {
  {
    std::string bytes = plan_of(manifest());
    TensorRtOptions options;
    options.library_folders = {variable("AGP_EDGE_TEST_LIBRARIES")};
    options.content = bytes;
    const std::shared_ptr<Engine> engine = open_tensorrt("/no/such/file.plan", options);
    bytes.assign(bytes.size(), 'x');  // borrowed for the call only
    CHECK_NEAR(score_of(engine, 60), expected(60), 1e-3);
    options.content = bytes;
    CHECK_THROWS(open_tensorrt("the name", options), ModelError, "'the name' is no model of");
  }
  check_all_released();
}

TEST(clones_share_the_weights_and_outlive_the_original) {
  {
    std::shared_ptr<Engine> first = open();
    CHECK(live_objects() == 3);
    std::shared_ptr<Engine> second = first->clone();
    CHECK(live_objects() == 4);  // one more context
    CHECK(second->name() == first->name() && second->inputs()[0].name == "image");
    CHECK_NEAR(score_of(first, 60), expected(60), 1e-3);
    CHECK_NEAR(score_of(second, 90), expected(90), 1e-3);
    {
      const Setting setting("AGP_EDGE_FAKE_TENSORRT", "context-null");
      CHECK_THROWS(second->clone(), DeviceError, "has no room for another frame in flight");
    }
    first.reset();
    CHECK(live_objects() == 3);
    CHECK_NEAR(score_of(second->clone(), 30), expected(30), 1e-3);
  }
  check_all_released();
}

TEST(frames_in_flight_have_a_context_each) {
  {
    DetectorOptions options;
    options.in_flight = 3;
    Detector detector(Manifest::parse(manifest().dump(), "test"), open(), options);
    CHECK(live_objects() == 5);
    std::vector<std::vector<std::uint8_t>> greys;
    std::vector<Frame> frames;
    for (int i = 0; i < 20; ++i) {
      greys.emplace_back(models::kInput * models::kInput, static_cast<std::uint8_t>(40 + i));
      frames.push_back({greys.back().data(), models::kInput, models::kInput, models::kInput,
                        PixelFormat::kMono8});
    }
    const std::vector<Result> results = detector.score_batch(frames);
    for (std::size_t i = 0; i < results.size(); ++i) {
      CHECK_NEAR(results[i].score, expected(static_cast<float>(40 + i)), 1e-3);
    }
  }
  check_all_released();
}

TEST(two_engines_live_side_by_side) {
  {
    std::shared_ptr<Engine> first = open();
    const std::shared_ptr<Engine> second = open();
    CHECK(live_objects() == 6);
    first.reset();
    CHECK(live_objects() == 3);
    CHECK_NEAR(score_of(second, 40), expected(40), 1e-3);
  }
  check_all_released();
}

TEST(each_refusal_is_one_sentence_and_leaves_nothing) {
  const struct {
    const char* how;
    bool is_device;  // DeviceError; else ModelError
    const char* part;
  } refusals[] = {
      {"runtime-null", true, "update the NVIDIA driver, or install a TensorRT that fits it"},
      {"runtime-offset", true, "CUDA initialization failure with error: 35"},
      {"engine-null", false,
       "on Fake GPU 0 (SM 8.7, driver for CUDA 12.6) (Error Code 1: Serialization (the version tag "
       "differs)): a plan fits one TensorRT version and GPU architecture, build it again"},
      {"engine-memory", true, "Cuda Runtime (out of memory)): close other programs"},
      {"context-null", true, "OutOfMemory (Requested size was 7 bytes.)): close other programs"},
      {"another-name", false, "is not the one that TensorRT"},
      {"dynamic-shape", false, "'image' has a size that changes at run time"},
      {"int8-tensor", false, "'image' is of TensorRT's data type 2, float32 or float16"},
      {"host-tensor", false, "'image' has to be in host memory"},
      {"packed-tensor", false, "'image' has a packed layout"},
      {"deep-tensor", false, "'image' has -1 dimensions"},
  };
  for (const auto& refusal : refusals) {
    {
      const Setting setting("AGP_EDGE_FAKE_TENSORRT", refusal.how);
      if (refusal.is_device) {
        CHECK_THROWS(open(), DeviceError, refusal.part);
      } else {
        CHECK_THROWS(open(), ModelError, refusal.part);
      }
    }
    check_all_released();
    CHECK_NEAR(score_of(open(), 50), expected(50), 1e-3);  // the next one works
  }
  check_all_released();
}

TEST(refusal_names_both_sides) {
  const Setting setting("AGP_EDGE_FAKE_TENSORRT", "engine-null");
  const std::string built = std::string("built by ") +
                            (is_rtx() ? "TensorRT for RTX " : "TensorRT ") + product().major +
                            ".1.2, was refused by TensorRT";
  CHECK_THROWS(open(), ModelError, built);
  CHECK_THROWS(open(), ModelError, "`agp-edge build MODEL.onnx -o ");
}

// A plan of somebody's own float16 graph, whose inputs and outputs are float16 too.
TEST(half_at_both_ends) {
  const Setting setting("AGP_EDGE_FAKE_TENSORRT", "half-ends");
  const std::shared_ptr<Engine> engine = open();
  CHECK(engine->inputs()[0].dtype == DType::kFloat16);
  CHECK(engine->outputs()[0].dtype == DType::kFloat16);
  if (cuda::has_kernels()) {
    for (const int grey : {0, 1, 90, 255}) {
      const float value = expected(static_cast<float>(grey));
      CHECK_NEAR(score_of(engine, static_cast<std::uint8_t>(grey)), value, 0.06);
    }
  } else {
    CHECK_THROWS(score_of(engine, 1), ModelError, "'image' float16 (1, 3, 32, 32)");
  }
}

TEST(enqueue_that_fails) {
  {
    const std::shared_ptr<Engine> engine = open();
    {
      const Setting setting("AGP_EDGE_FAKE_TENSORRT", "refuse-enqueue");
      CHECK_THROWS(score_of(engine, 1), DeviceError,
                   "could not start (the enqueue was told to fail): open the model again");
    }
    {
      const Setting setting("AGP_EDGE_FAKE_TENSORRT", "refuse-address");
      CHECK_THROWS(score_of(engine, 1), DeviceError, "could not start (it gave no reason)");
    }
    CHECK_NEAR(score_of(engine, 70), expected(70), 1e-3);
  }
  check_all_released();
}

TEST(gpu_that_it_was_not_built_for) {
  models::Json document = manifest();
  document["built_for"] = {"8.6", "8.9"};
  const models::TemporaryFile plan(plan_of(document), ".plan");
  CHECK_THROWS(open(plan.path()), ModelError,
               "for SM 8.6, 8.9, this GPU is Fake GPU 0 (SM 8.7, driver for CUDA 12.6): build it "
               "again on this machine with `agp-edge build MODEL.onnx -o " +
                   plan.path() + "`");
  const Setting setting("AGP_EDGE_FAKE_CUDA_SM", "8.9");
  CHECK(open(plan.path()) != nullptr);
}

TEST(library_of_another_version) {
  if (is_rtx()) return;  // it counts its own versions
  for (const std::string& version : {std::string("90000"), product().major + std::string("0000")}) {
    const Setting setting("AGP_EDGE_FAKE_TENSORRT_VERSION", version);
    CHECK_THROWS(open(), DependencyError,
                 "this module is compiled for " + std::string(product().major) + ".");
  }
  const Setting newer("AGP_EDGE_FAKE_TENSORRT_VERSION", product().major + std::string("9901"));
  CHECK(open()->name() == "TensorRT " + std::string(product().major) + ".99.1");
}

TEST(library_that_is_not_there) {
  const models::TemporaryFile plan(plan_of(manifest()), ".plan");
  CHECK_THROWS(open_tensorrt(plan.path()), DependencyError,
               std::string(product().libraries[0]) + ": cannot open shared object file");
}

TEST(file_that_is_no_plan) {
  const models::TemporaryFile other("xtrt" + plan_of(manifest()).substr(4), ".plan");
  CHECK_THROWS(open(other.path()), ModelError, "does not start like a plan");
  const models::TemporaryFile onnx(models::average_onnx() +
                                   models::metadata(kManifestKey, models::manifest().dump()));
  CHECK_THROWS(open(onnx.path()), ModelError, "is an ONNX file, a TensorRT plan is expected");
  CHECK_THROWS(open("/no/such.plan"), ModelError, "does not exist");
}

TEST(driver_is_asked_first) {
  const Setting setting("AGP_EDGE_FAKE_CUDA_DEVICES", "0");
  CHECK_THROWS(open(), DeviceError, "is a TensorRT plan, and no NVIDIA GPU can be used here");
}

TEST(messages_reach_the_log) {
  std::vector<std::pair<LogLevel, std::string>> messages;
  set_tensorrt_log([&messages](LogLevel level, const std::string& message) {
    messages.emplace_back(level, message);
    throw std::runtime_error("what a log throws is lost");
  });
  CHECK(open() != nullptr);
  CHECK(messages.size() == 1 && messages[0].first == LogLevel::kInfo);
  {
    const Setting setting("AGP_EDGE_FAKE_TENSORRT", "engine-null");
    CHECK_THROWS(open(), ModelError, "");
  }
  CHECK(messages.size() == 4 && messages[3].first == LogLevel::kError);
  CHECK(messages.size() == 4 && messages[3].second == "an echo of it");
  set_tensorrt_log(nullptr);
  CHECK(open() != nullptr);
  CHECK(messages.size() == 4);
}

TEST(allocation_failures_of_the_pipeline_leave_the_engine) {
  {
    const std::shared_ptr<Engine> engine = open();
    for (const char* function : {"cuMemAlloc_v2", "cuMemHostAlloc", "cuStreamCreate"}) {
      const fake_cuda::Failing failing(function, 1);
      CHECK_THROWS(score_of(engine, 1), DeviceError, "CUDA_ERROR_OUT_OF_MEMORY");
    }
    CHECK_NEAR(score_of(engine, 80), expected(80), 1e-3);
  }
  check_all_released();
}

}  // namespace

CHECK_MAIN()
