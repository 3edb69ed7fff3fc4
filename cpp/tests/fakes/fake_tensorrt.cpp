// A TensorRT library on the CPU, compiled against the same headers as the module under test: its
// plans are a magic and a manifest, its engine averages blocks on the fake CUDA driver's stream.
//
// It ends the program when an object outlives the one that made it, or when a call comes without a
// current CUDA context. AGP_EDGE_FAKE_TENSORRT names one misbehaviour:
//   runtime-null, runtime-offset, engine-null, engine-memory, context-null, another-name,
//   dynamic-shape, int8-tensor, host-tensor, packed-tensor, deep-tensor, half-ends,
//   refuse-address, refuse-enqueue
// AGP_EDGE_FAKE_TENSORRT_VERSION=100200 is the version that it claims; default: its headers'.
#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cuda_on_cpu/half.hpp"
#include "stubs.hpp"

namespace {

using nvinfer1::Dims;

int live_objects = 0;

bool misbehaves(const char* how) {
  const char* chosen = std::getenv("AGP_EDGE_FAKE_TENSORRT");
  return chosen != nullptr && std::strcmp(chosen, how) == 0;
}

template <typename Function>
Function* cuda(const char* name) {
  static void* const driver =
      dlopen(std::getenv("AGP_EDGE_CUDA_DRIVER"), RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
  if (driver == nullptr) nvinfer1::apiv::unexpected("TensorRT before the CUDA driver");
  return reinterpret_cast<Function*>(dlsym(driver, name));
}

void expect_context() {
  if (cuda<int()>("fake_cuda_has_context")() == 0) {
    nvinfer1::apiv::unexpected("TensorRT without a current CUDA context");
  }
}

// Counts an object's children, which have to be gone before it goes.
class Parent {
 public:
  Parent() {
    expect_context();
    ++live_objects;
  }
  ~Parent() {
    expect_context();
    if (children != 0) nvinfer1::apiv::unexpected("an object that outlives its parent");
    --live_objects;
  }
  int children = 0;
};

class Context final : public nvinfer1::apiv::VExecutionContextStub,
                      public nvinfer1::IExecutionContext {
 public:
  Context(Parent& engine, const nlohmann::json& manifest, nvinfer1::ILogger& logger)
      : engine_(engine), manifest_(manifest), logger_(logger) {
    nvinfer1::IExecutionContext::mImpl = this;
    ++engine_.children;
  }
  ~Context() noexcept override { --engine_.children; }

  nvinfer1::IExecutionContext* getPImpl() noexcept override { return this; }

  bool setInputTensorAddress(char const* name, void const* address) noexcept override {
    return set(name, const_cast<void*>(address));
  }
  bool setOutputTensorAddress(char const* name, void* address) noexcept override {
    return set(name, address);
  }

  bool enqueueV3(cudaStream_t stream) noexcept override {
    expect_context();
    if (misbehaves("refuse-enqueue")) {
      logger_.log(nvinfer1::ILogger::Severity::kERROR, "the enqueue was told to fail");
      return false;
    }
    return cuda<int(cudaStream_t, void (*)(void*), void*)>("cuLaunchHostFunc")(stream, &kernel,
                                                                               this) == 0;
  }

 private:
  bool set(const std::string& name, void* address) {
    if (misbehaves("refuse-address")) return false;
    addresses_[name] = address;
    return true;
  }

  static std::size_t count_of(const nlohmann::json& tensor, int planes) {
    return static_cast<std::size_t>(planes) * tensor["height"].get<std::size_t>() *
           tensor["width"].get<std::size_t>();
  }

  void* host(const nlohmann::json& tensor, std::size_t bytes) {
    auto* const found =
        cuda<void*(const void*, std::size_t)>("fake_cuda_host")(addresses_[tensor["name"]], bytes);
    if (found == nullptr) nvinfer1::apiv::unexpected("an address that is not the device's");
    return found;
  }

  std::vector<float> input() {
    const auto& tensor = manifest_["input"];
    std::vector<float> values(count_of(tensor, 3));
    if (!misbehaves("half-ends")) {
      std::memcpy(values.data(), host(tensor, values.size() * 4), values.size() * 4);
      return values;
    }
    const auto* const halves = static_cast<const unsigned short*>(host(tensor, values.size() * 2));
    std::transform(halves, halves + values.size(), values.begin(), agp_edge::kernel::value_of_half);
    return values;
  }

  void set_output(const std::vector<float>& values) {
    const auto& tensor = manifest_["output"];
    if (!misbehaves("half-ends")) {
      std::memcpy(host(tensor, values.size() * 4), values.data(), values.size() * 4);
      return;
    }
    std::transform(values.begin(), values.end(),
                   static_cast<unsigned short*>(host(tensor, values.size() * 2)),
                   agp_edge::kernel::half_bits);
  }

  static void kernel(void* user) {
    auto& self = *static_cast<Context*>(user);
    const auto& input = self.manifest_["input"];
    const auto& output = self.manifest_["output"];
    const std::vector<float> in = self.input();
    const int height = input["height"];
    const int width = input["width"];
    const int rows = output["height"];
    const int columns = output["width"];
    std::vector<float> out(static_cast<std::size_t>(rows * columns));
    const float share = static_cast<float>(rows * columns) / static_cast<float>(3 * height * width);
    for (int plane = 0; plane < 3; ++plane) {
      for (int y = 0; y < height; ++y) {
        for (int x = 0; x < width; ++x) {
          out[static_cast<std::size_t>(y * rows / height * columns + x * columns / width)] +=
              share * in[static_cast<std::size_t>((plane * height + y) * width + x)];
        }
      }
    }
    self.set_output(out);
  }

  Parent own_;
  Parent& engine_;
  const nlohmann::json& manifest_;
  nvinfer1::ILogger& logger_;
  std::map<std::string, void*> addresses_;
};

class Engine final : public nvinfer1::apiv::VCudaEngineStub, public nvinfer1::ICudaEngine {
 public:
  Engine(Parent& runtime, const std::string& name, nvinfer1::ILogger& logger)
      : runtime_(runtime),
        name_(misbehaves("another-name") ? name + " " : name),
        manifest_(nlohmann::json::parse(name)),
        logger_(logger) {
    nvinfer1::ICudaEngine::mImpl = this;
    ++runtime_.children;
    tensors_[0] = manifest_["input"]["name"];
    tensors_[1] = manifest_["output"]["name"];
  }
  ~Engine() noexcept override { --runtime_.children; }

  nvinfer1::ICudaEngine* getPImpl() noexcept override { return this; }
  char const* getName() const noexcept override { return name_.c_str(); }
  int32_t getNbIOTensors() const noexcept override { return 2; }
  char const* getIOTensorName(int32_t index) const noexcept override {
    return tensors_[index].c_str();
  }
  nvinfer1::TensorIOMode getTensorIOMode(char const* tensor) const noexcept override {
    return tensor == tensors_[0] ? nvinfer1::TensorIOMode::kINPUT : nvinfer1::TensorIOMode::kOUTPUT;
  }
  nvinfer1::DataType getTensorDataType(char const* /*tensor*/) const noexcept override {
    if (misbehaves("int8-tensor")) return nvinfer1::DataType::kINT8;
    return misbehaves("half-ends") ? nvinfer1::DataType::kHALF : nvinfer1::DataType::kFLOAT;
  }
  nvinfer1::TensorLocation getTensorLocation(char const* /*tensor*/) const noexcept override {
    return misbehaves("host-tensor") ? nvinfer1::TensorLocation::kHOST
                                     : nvinfer1::TensorLocation::kDEVICE;
  }
  nvinfer1::TensorFormat getTensorFormat(char const* /*tensor*/) const noexcept override {
    return misbehaves("packed-tensor") ? nvinfer1::TensorFormat::kCHW32
                                       : nvinfer1::TensorFormat::kLINEAR;
  }
  Dims getTensorShape(char const* tensor) const noexcept override {
    const bool is_input = tensor == tensors_[0];
    const auto& spec = manifest_[is_input ? "input" : "output"];
    Dims shape{4, {1, is_input ? 3 : 1, spec["height"], spec["width"]}};
    if (misbehaves("dynamic-shape")) shape.d[0] = -1;
    if (misbehaves("deep-tensor")) shape.nbDims = -1;
    return shape;
  }
  nvinfer1::IExecutionContext* createExecutionContext(
      nvinfer1::ExecutionContextAllocationStrategy /*strategy*/) noexcept override {
    if (misbehaves("context-null")) {
      logger_.log(nvinfer1::ILogger::Severity::kERROR,
                  "Error Code 2: OutOfMemory (Requested size was 7 bytes.)");
      return nullptr;
    }
    return new Context(own_, manifest_, logger_);
  }

 private:
  Parent own_;
  Parent& runtime_;
  std::string name_;
  nlohmann::json manifest_;
  nvinfer1::ILogger& logger_;
  std::string tensors_[2];
};

class Runtime final : public nvinfer1::apiv::VRuntimeStub, public nvinfer1::IRuntime {
 public:
  explicit Runtime(nvinfer1::ILogger& logger) : logger_(logger) {
    nvinfer1::IRuntime::mImpl = this;
  }

  nvinfer1::IRuntime* getPImpl() noexcept override { return this; }
  void setEngineHostCodeAllowed(bool allowed) noexcept override {
    if (allowed) nvinfer1::apiv::unexpected("host code in an engine");
  }

  using nvinfer1::apiv::VRuntimeStub::deserializeCudaEngine;
  nvinfer1::ICudaEngine* deserializeCudaEngine(void const* blob,
                                               std::size_t size) noexcept override {
    using Severity = nvinfer1::ILogger::Severity;
    expect_context();
    logger_.log(Severity::kINFO, "Loaded engine size: 0 MiB");
    if (misbehaves("engine-null")) {
      logger_.log(Severity::kERROR, "Error Code 1: Serialization (the version tag differs)");
      logger_.log(Severity::kERROR, "an echo of it");
      return nullptr;
    }
    if (misbehaves("engine-memory")) {
      logger_.log(Severity::kERROR, "Error Code 1: Cuda Runtime (out of memory)");
      return nullptr;
    }
    const std::string plan(static_cast<const char*>(blob), size);
    return new Engine(own_, plan.substr(plan.find("{\"agp_edge_manifest\"")), logger_);
  }

 private:
  Parent own_;
  nvinfer1::ILogger& logger_;
};

}  // namespace

#define FAKE_API extern "C" __attribute__((visibility("default")))

FAKE_API int fake_tensorrt_live() { return live_objects; }

FAKE_API int32_t getInferLibVersion() noexcept {
  const char* chosen = std::getenv("AGP_EDGE_FAKE_TENSORRT_VERSION");
  return chosen != nullptr ? std::atoi(chosen) : NV_TENSORRT_VERSION;
}

FAKE_API void* createInferRuntime_INTERNAL(void* logger, int32_t version) noexcept {
  // As the real one: its own headers' and, of the same major, older ones.
  if (version > NV_TENSORRT_VERSION || version / 10000 != NV_TENSORRT_MAJOR) {
    nvinfer1::apiv::unexpected("another headers' version");
  }
  auto& log = *static_cast<nvinfer1::ILogger*>(logger);
  if (misbehaves("runtime-null") || misbehaves("runtime-offset")) {
    log.log(nvinfer1::ILogger::Severity::kERROR, "CUDA initialization failure with error: 35");
    return reinterpret_cast<void*>(misbehaves("runtime-null") ? 0 : 0x228);
  }
  return static_cast<nvinfer1::IRuntime*>(new Runtime(log));
}
