#include "engine.hpp"

#include <dlfcn.h>

#include "logger.hpp"

namespace agp_edge::tensorrt {
namespace {

#ifdef AGP_EDGE_TENSORRT_RTX
constexpr bool kIsRtx = true;
#else
constexpr bool kIsRtx = false;
#endif

std::string dotted(std::int32_t version) {
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

template <typename Function>
Function look_up(void* library, const char* symbol, const char* file) {
  auto* const function = reinterpret_cast<Function>(dlsym(library, symbol));
  if (function == nullptr) {
    throw Failure(AGP_EDGE_TENSORRT_WRONG_LIBRARY,
                  std::string(file) + " has no function " + symbol);
  }
  return function;
}

// Why a create call gave null; TensorRT says it in its log only.
std::string reason() {
  std::string error = Logger::take_error();
  return error.empty() ? "it gave no reason" : error;
}

}  // namespace

Library::Library(const char* file, std::int32_t& version) {
  void* const library = dlopen(file, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (library == nullptr) {
    const char* const why = dlerror();
    throw Failure(AGP_EDGE_TENSORRT_NO_LIBRARY, why != nullptr ? why : file);
  }
  version = look_up<std::int32_t (*)()>(library, "getInferLibVersion", file)();
  // TensorRT for RTX counts its versions apart from the headers that it shares.
  if (!kIsRtx && (version / 10000 != NV_TENSORRT_MAJOR || version < NV_TENSORRT_VERSION)) {
    throw Failure(AGP_EDGE_TENSORRT_WRONG_LIBRARY,
                  std::string(file) + " is TensorRT " + dotted(version) +
                      ", this module is compiled for " + dotted(NV_TENSORRT_VERSION) +
                      " and newer of the same major");
  }
  create_runtime_ =
      look_up<void* (*)(void*, std::int32_t)>(library, "createInferRuntime_INTERNAL", file);
}

std::unique_ptr<nvinfer1::IRuntime> Library::create_runtime(nvinfer1::ILogger& logger) const {
  void* const created = create_runtime_(&logger, NV_TENSORRT_VERSION);
  // Where CUDA does not start, 11.4's lean library casts null to a base class that does not come
  // first: what it returns is that base's offset (0x228), and any call a segmentation fault.
  constexpr std::uintptr_t kPage = 4096;
  if (reinterpret_cast<std::uintptr_t>(created) < kPage) return nullptr;
  return std::unique_ptr<nvinfer1::IRuntime>(static_cast<nvinfer1::IRuntime*>(created));
}

Engine::Engine(const Library& library, const void* plan, std::size_t plan_bytes) {
  Logger::take_error();  // an earlier call's is not ours
  runtime_ = library.create_runtime(Logger::instance());
  if (!runtime_) throw Failure(AGP_EDGE_TENSORRT_NO_RUNTIME, reason());
  // Code for the CPU inside a plan would run with our rights.
  runtime_->setEngineHostCodeAllowed(false);
  engine_.reset(runtime_->deserializeCudaEngine(plan, plan_bytes));
  if (!engine_) throw Failure(AGP_EDGE_TENSORRT_REFUSED, reason());
  const std::int32_t count = engine_->getNbIOTensors();
  for (std::int32_t i = 0; i < count; ++i) {
    tensors_.push_back(describe(engine_->getIOTensorName(i)));
  }
  make_context();
}

std::unique_ptr<Engine> Engine::clone() const {
  Logger::take_error();
  std::unique_ptr<Engine> made(new Engine());
  made->runtime_ = runtime_;
  made->engine_ = engine_;
  made->tensors_ = tensors_;
  made->make_context();
  return made;
}

void Engine::make_context() {
  context_.reset(engine_->createExecutionContext());
  if (!context_) throw Failure(AGP_EDGE_TENSORRT_NO_CONTEXT, reason());
  bound_.assign(tensors_.size(), nullptr);
}

agp_edge_tensorrt_tensor Engine::describe(const char* tensor) const {
  const auto refuse = [tensor](const std::string& what) {
    throw Failure(AGP_EDGE_TENSORRT_BAD_TENSOR, std::string("its tensor '") + tensor + "' " + what);
  };
  const nvinfer1::DataType type = engine_->getTensorDataType(tensor);
  if (type != nvinfer1::DataType::kFLOAT && type != nvinfer1::DataType::kHALF) {
    refuse("is of TensorRT's data type " + std::to_string(static_cast<int>(type)) +
           ", float32 or float16 is expected");
  }
  if (engine_->getTensorLocation(tensor) != nvinfer1::TensorLocation::kDEVICE) {
    refuse("has to be in host memory, device memory is expected");
  }
  if (engine_->getTensorFormat(tensor) != nvinfer1::TensorFormat::kLINEAR) {
    refuse("has a packed layout, plain NCHW is expected");
  }
  const nvinfer1::Dims shape = engine_->getTensorShape(tensor);
  if (shape.nbDims < 0 || shape.nbDims > AGP_EDGE_TENSORRT_MAX_RANK) {
    refuse("has " + std::to_string(shape.nbDims) + " dimensions, four are expected");
  }
  agp_edge_tensorrt_tensor described{};
  described.name = tensor;
  described.is_input = engine_->getTensorIOMode(tensor) == nvinfer1::TensorIOMode::kINPUT ? 1 : 0;
  described.is_half = type == nvinfer1::DataType::kHALF ? 1 : 0;
  described.rank = shape.nbDims;
  for (std::int32_t i = 0; i < shape.nbDims; ++i) {
    if (shape.d[i] < 1) refuse("has a size that changes at run time, a static shape is expected");
    described.shape[i] = shape.d[i];
  }
  return described;
}

void Engine::enqueue(CUstream_st* stream, const void* const* in, void* const* out) {
  Logger::take_error();
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const bool is_input = tensors_[i].is_input != 0;
    const void* const address = is_input ? *in++ : *out++;
    if (address == bound_[i]) continue;
    const bool bound =
        is_input ? context_->setInputTensorAddress(tensors_[i].name, address)
                 : context_->setOutputTensorAddress(tensors_[i].name, const_cast<void*>(address));
    if (!bound) throw Failure(AGP_EDGE_TENSORRT_FAILED, reason());
    bound_[i] = address;
  }
  if (!context_->enqueueV3(stream)) throw Failure(AGP_EDGE_TENSORRT_FAILED, reason());
}

}  // namespace agp_edge::tensorrt
