#include "engine/tensorrt_modules.hpp"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <system_error>
#include <utility>

#include "agp_edge/error.hpp"

namespace agp_edge {
namespace {

namespace fs = std::filesystem;
using Log = std::function<void(LogLevel, const std::string&)>;

struct LogSink {
  std::mutex mutex;
  Log log;
};

// Never destroyed: TensorRT's threads may report while the process ends.
LogSink& log_sink() {
  static auto* const sink = new LogSink;
  return *sink;
}

void forward(int severity, const char* message) {
  constexpr LogLevel kLevels[] = {LogLevel::kError, LogLevel::kError, LogLevel::kWarning,
                                  LogLevel::kInfo, LogLevel::kDebug};
  const LogLevel level = severity >= 0 && severity < 5 ? kLevels[severity] : LogLevel::kDebug;
  try {
    Log log;
    {
      const std::lock_guard<std::mutex> lock(log_sink().mutex);
      log = log_sink().log;
    }
    if (log) log(level, message);
  } catch (...) {  // it would unwind through TensorRT
  }
}

// The folder of the library, extension or program that this code was linked into.
fs::path own_folder() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&forward), &info) == 0) return {};
  std::error_code error;
  // A program's own name may be relative to a folder that has been left since.
  fs::path file = fs::canonical(info.dli_fname, error);
  if (error) file = fs::read_symlink("/proc/self/exe", error);
  return file.parent_path();
}

}  // namespace

const std::vector<TensorRtProduct>& tensorrt_products() {
  static const std::vector<TensorRtProduct> products = {
      {TensorRtFlavour::kTensorRt11,
       "TensorRT 11",
       "11",
       "_trt11.so",
       {"libnvinfer.so.11", "libnvinfer_lean.so.11"},
       "ftrt",
       "tensorrt"},
      {TensorRtFlavour::kTensorRt10,
       "TensorRT 10",
       "10",
       "_trt10.so",
       {"libnvinfer.so.10", "libnvinfer_lean.so.10"},
       "ftrt",
       "tensorrt"},
      {TensorRtFlavour::kRtx,
       "TensorRT for RTX",
       "1",
       "_trtrtx.so",
       {"libtensorrt_rtx.so.1"},
       "vtrt",
       "tensorrt_rtx"},
  };
  return products;
}

const char* to_string(TensorRtFlavour flavour) noexcept {
  for (const TensorRtProduct& product : tensorrt_products()) {
    if (product.flavour == flavour) return product.title;
  }
  return "TensorRT";
}

std::string find_module(const TensorRtProduct& product) {
  std::vector<fs::path> folders;
  if (const char* chosen = std::getenv("AGP_EDGE_MODULES")) folders.emplace_back(chosen);
  const fs::path own = own_folder();
  folders.push_back(own);
  folders.push_back(own / "agp_edge");
  for (const fs::path& folder : folders) {
    std::error_code error;
    const fs::path file = folder / product.module;
    if (!folder.empty() && fs::is_regular_file(file, error)) return file.string();
  }
  return {};
}

agp_edge_tensorrt_open open_module(const std::string& path) {
  void* const module = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  const char* why = module == nullptr ? dlerror() : "it has another content";
  auto* const open =
      module == nullptr
          ? nullptr
          : reinterpret_cast<agp_edge_tensorrt_open>(dlsym(module, AGP_EDGE_TENSORRT_SYMBOL));
  if (open == nullptr) {
    throw DependencyError("the TensorRT module '" + path + "' does not load (" + why +
                          "): install agp_edge again");
  }
  return open;
}

agp_edge_tensorrt_log tensorrt_log_forwarder() noexcept { return &forward; }

std::vector<TensorRtFlavour> tensorrt_modules() {
  std::vector<TensorRtFlavour> found;
  for (const TensorRtProduct& product : tensorrt_products()) {
    if (!find_module(product).empty()) found.push_back(product.flavour);
  }
  return found;
}

void set_tensorrt_log(Log log) {
  const std::lock_guard<std::mutex> lock(log_sink().mutex);
  log_sink().log.swap(log);  // the old one dies with `log`, after the lock
}

}  // namespace agp_edge
