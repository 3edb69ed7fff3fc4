#include "agp_edge/tensorrt_engine.hpp"

#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>
#include <system_error>
#include <utility>

#include "agp_edge/error.hpp"
#include "cuda/cuda_driver.hpp"
#include "engine/tensorrt_modules.hpp"
#include "model/mapped_file.hpp"
#include "model/model_file.hpp"

namespace agp_edge {
namespace {

namespace fs = std::filesystem;

class TensorRtEngine final : public Engine {
 public:
  TensorRtEngine(std::string name, std::shared_ptr<const cuda::Context> context,
                 const agp_edge_tensorrt_engine& engine)
      : name_(std::move(name)), context_(std::move(context)), engine_(engine) {
    for (int i = 0; i < engine.tensor_count; ++i) {
      const agp_edge_tensorrt_tensor& tensor = engine.tensors[i];
      TensorSpec spec{tensor.name,
                      tensor.is_half != 0 ? DType::kFloat16 : DType::kFloat32,
                      {tensor.shape, tensor.shape + tensor.rank}};
      (tensor.is_input != 0 ? inputs_ : outputs_).push_back(std::move(spec));
    }
  }

  ~TensorRtEngine() override {
    try {
      const cuda::Current current(*context_);
      engine_.destroy(engine_.handle);
    } catch (const DeviceError&) {  // the context is lost, and the engine's memory with it
    }
  }

  std::string name() const override { return name_; }
  const std::vector<TensorSpec>& inputs() const override { return inputs_; }
  const std::vector<TensorSpec>& outputs() const override { return outputs_; }
  Memory memory() const noexcept override { return Memory::kDevice; }
  int device() const noexcept override { return context_->device().index; }

  void enqueue(Stream stream, const void* const* in, void* const* out) override {
    std::array<char, 1024> words{};
    if (engine_.enqueue(engine_.handle, stream, in, out, words.data(), words.size()) != 0) {
      throw DeviceError(name_ + " on " + context_->device().text() + " could not start (" +
                        words.data() + "): open the model again");
    }
  }

  std::shared_ptr<Engine> clone() override {
    const cuda::Current current(*context_);
    std::array<char, 1024> words{};
    agp_edge_tensorrt_engine made{};
    if (engine_.clone(engine_.handle, &made, words.data(), words.size()) != 0) {
      throw DeviceError(name_ + " on " + context_->device().text() +
                        " has no room for another frame in flight (" + words.data() +
                        "): allow fewer in flight, or close other programs that use the GPU");
    }
    return std::make_shared<TensorRtEngine>(name_, context_, made);
  }

 private:
  std::string name_;
  std::shared_ptr<const cuda::Context> context_;
  agp_edge_tensorrt_engine engine_;
  std::vector<TensorSpec> inputs_;
  std::vector<TensorSpec> outputs_;
};

// What the manifest says of the build, where it says it.
struct BuiltWith {
  std::string version;                 // "10.3.0"
  std::vector<std::string> built_for;  // compute capabilities: "8.7"
};

BuiltWith built_with(const std::string& manifest_json, const TensorRtProduct& product) {
  BuiltWith built;
  const auto manifest = nlohmann::json::parse(manifest_json, nullptr, false);
  if (!manifest.is_object()) return built;
  const auto versions = manifest.find("versions");
  if (versions != manifest.end() && versions->is_object()) {
    const auto version = versions->find(product.version_key);
    if (version != versions->end() && version->is_string()) built.version = *version;
  }
  const auto built_for = manifest.find("built_for");
  if (built_for != manifest.end() && built_for->is_array()) {
    for (const auto& capability : *built_for) {
      if (capability.is_string()) built.built_for.push_back(capability);
    }
  }
  return built;
}

std::string dotted(std::int32_t version) {
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

// One plan on its way into one of the modules; its sentences name both sides.
class Opening {
 public:
  Opening(const std::string& path, const TensorRtOptions& options)
      : path_(path), options_(options) {
    if (options.content.empty()) {
      check_model_file(path);
      file_ = std::make_unique<MappedFile>(path);
      plan_ = {static_cast<const char*>(file_->data()), file_->size()};
    } else {
      plan_ = options.content;
    }
    manifest_json_ = plan_manifest(plan_, path);
  }

  std::shared_ptr<Engine> run() {
    try {
      context_ = std::make_shared<cuda::Context>(options_.device);
    } catch (const DeviceError& error) {
      throw DeviceError("'" + path_ + "' is a TensorRT plan, and " + error.what());
    }
    const cuda::Current current(*context_);
    for (const TensorRtProduct* product : fitting_products()) {
      const BuiltWith built = built_with(manifest_json_, *product);
      check_capability(*product, built);
      const std::string module = find_module(*product);
      if (module.empty()) {
        note(std::string("this build of agp_edge has no module ") + product->module);
        continue;
      }
      const agp_edge_tensorrt_open open = open_module(module);
      for (const std::string& library : libraries(*product)) {
        if (auto engine = try_library(*product, built, open, library)) return engine;
      }
    }
    throw DependencyError("'" + path_ +
                          "' is a TensorRT plan and no TensorRT that runs it can be "
                          "used (" +
                          notes_ + "): install " + built_by() +
                          ", or open the .onnx file on the CPU");
  }

 private:
  static std::string plan_manifest(std::string_view plan, const std::string& path) {
    ModelFile file = read_model_bytes(plan, path);
    if (file.kind != ModelKind::kPlan) {
      throw ModelError("'" + path +
                       "' is an ONNX file, a TensorRT plan is expected: compile it "
                       "with " +
                       rebuild("model.plan"));
    }
    return std::move(file.manifest_json);
  }

  static std::string rebuild(const std::string& plan) {
    return "`agp-edge build MODEL.onnx -o " + plan + "`";
  }

  // The products whose plans start like this one, the one that the manifest names first.
  // Never empty.
  std::vector<const TensorRtProduct*> fitting_products() const {
    const std::string_view start = plan_.substr(0, 4);
    std::vector<const TensorRtProduct*> fitting;
    for (const TensorRtProduct& product : tensorrt_products()) {
      if (start == product.magic) fitting.push_back(&product);
    }
    if (fitting.empty()) {
      throw ModelError("'" + path_ +
                       "' does not start like a plan of TensorRT or of TensorRT for "
                       "RTX, it is truncated or corrupt: build it again with " +
                       rebuild(path_));
    }
    std::stable_partition(fitting.begin(), fitting.end(), [this](const TensorRtProduct* product) {
      const std::string version = built_with(manifest_json_, *product).version;
      return product->major == version.substr(0, version.find('.'));
    });
    return fitting;
  }

  // Before TensorRT loads a weight: its own refusal says less.
  void check_capability(const TensorRtProduct& product, const BuiltWith& built) const {
    const cuda::Device& device = context_->device();
    const std::string here = std::to_string(device.major) + "." + std::to_string(device.minor);
    const auto& listed = built.built_for;
    if (listed.empty() || std::find(listed.begin(), listed.end(), here) != listed.end()) return;
    throw ModelError("the plan '" + path_ + "' was built by " + title(product, built) + " for " +
                     capabilities(listed) + ", this GPU is " + device.text() +
                     ": build it again on this machine with " + rebuild(path_));
  }

  std::vector<std::string> libraries(const TensorRtProduct& product) const {
    std::vector<std::string> files;
    for (const std::string& folder : options_.library_folders) {
      for (const char* soname : product.libraries) {
        std::error_code error;
        const fs::path file = fs::path(folder) / soname;
        if (fs::exists(file, error)) files.push_back(file.string());
      }
    }
    files.insert(files.end(), product.libraries.begin(), product.libraries.end());
    return files;
  }

  // Null: this library cannot be used, see notes_.
  std::shared_ptr<Engine> try_library(const TensorRtProduct& product, const BuiltWith& built,
                                      agp_edge_tensorrt_open open, const std::string& library) {
    agp_edge_tensorrt_request request{};
    request.interface_number = AGP_EDGE_TENSORRT_INTERFACE;
    request.library = library.c_str();
    request.plan = plan_.data();
    request.plan_bytes = plan_.size();
    request.log = tensorrt_log_forwarder();
    agp_edge_tensorrt_engine opened{};
    std::array<char, 2048> words{};
    const int status = open(&request, &opened, words.data(), words.size());
    const bool is_rtx = product.flavour == TensorRtFlavour::kRtx;
    const std::string name =
        std::string(is_rtx ? product.title : "TensorRT") + " " + dotted(opened.library_version);
    switch (status) {
      case AGP_EDGE_TENSORRT_OK: {
        auto engine = std::make_shared<TensorRtEngine>(name, context_, opened);
        if (opened.plan_name == nullptr || manifest_json_ != opened.plan_name) {
          throw ModelError("the manifest found in '" + path_ + "' is not the one that " + name +
                           " reads from it, the file was changed: build it again with " +
                           rebuild(path_));
        }
        return engine;
      }
      case AGP_EDGE_TENSORRT_NO_LIBRARY:
      case AGP_EDGE_TENSORRT_WRONG_LIBRARY:
        note(words.data());
        return nullptr;
      case AGP_EDGE_TENSORRT_INTERFACE_DIFFERS:
        throw DependencyError(std::string("the module ") + product.module +
                              " belongs to another build of agp_edge (" + words.data() +
                              "): install agp_edge again");
      case AGP_EDGE_TENSORRT_BAD_TENSOR:
        throw ModelError("the plan '" + path_ + "' cannot be used, " + words.data() +
                         ": export the model and build it again with " + rebuild(path_));
      default:
        throw_refusal(status, name, title(product, built), built, words.data());
    }
  }

  [[noreturn]] void throw_refusal(int status, const std::string& name, const std::string& builder,
                                  const BuiltWith& built, const std::string& words) const {
    const std::string where = name + " on " + context_->device().text();
    const std::string loading =
        "the plan '" + path_ + "' could not be loaded by " + where + " (" + words + "): ";
    const auto says = [&words](const char* text) { return words.find(text) != std::string::npos; };
    // CUDA's own number for a driver that is older than TensorRT's CUDA.
    if (status == AGP_EDGE_TENSORRT_NO_RUNTIME || says("cudaError 35")) {
      throw DeviceError(loading + "update the NVIDIA driver, or install a TensorRT that fits it");
    }
    if (status != AGP_EDGE_TENSORRT_REFUSED || says("Cuda Runtime") || says("cudaError") ||
        says("OutOfMemory") || says("out of memory")) {
      throw DeviceError(loading +
                        "close other programs that use the GPU, and check it with nvidia-smi");
    }
    throw ModelError("the plan '" + path_ + "', built by " + builder +
                     (built.built_for.empty() ? "" : " for " + capabilities(built.built_for)) +
                     ", was refused by " + where + " (" + words +
                     "): a plan fits one TensorRT version and GPU architecture, build it again on "
                     "this machine with " +
                     rebuild(path_));
  }

  static std::string title(const TensorRtProduct& product, const BuiltWith& built) {
    if (product.flavour == TensorRtFlavour::kRtx) return product.title + (" " + built.version);
    return built.version.empty() ? "an unknown TensorRT" : "TensorRT " + built.version;
  }

  static std::string capabilities(const std::vector<std::string>& listed) {
    std::string text = "SM ";
    for (const std::string& capability : listed) {
      if (&capability != &listed.front()) text += ", ";
      text += capability;
    }
    return text;
  }

  std::string built_by() const {
    const TensorRtProduct& product = *fitting_products().front();
    return title(product, built_with(manifest_json_, product));
  }

  void note(const std::string& text) {
    if (!notes_.empty()) notes_ += "; ";
    notes_ += text;
  }

  std::string path_;
  TensorRtOptions options_;
  std::string manifest_json_;
  std::unique_ptr<MappedFile> file_;  // what plan_ views, where it is not the caller's
  std::string_view plan_;
  std::shared_ptr<const cuda::Context> context_;
  std::string notes_;  // why what was tried does not do
};

}  // namespace

std::shared_ptr<Engine> open_tensorrt(const std::string& plan_path,
                                      const TensorRtOptions& options) {
  return Opening(plan_path, options).run();
}

}  // namespace agp_edge
