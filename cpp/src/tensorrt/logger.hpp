// TensorRT's messages on their way to the library's log; errors are kept for the exception too.
//
// Threads  any; last errors are kept per thread, since TensorRT reports on the thread that called.
#pragma once

#include <NvInferRuntime.h>

#include <atomic>
#include <string>

#include "module.h"

namespace agp_edge::tensorrt {

class Logger final : public nvinfer1::ILogger {
 public:
  // One for the process, never destroyed: TensorRT keeps the first one that it is given.
  static Logger& instance() {
    static auto* const logger = new Logger;
    return *logger;
  }

  void forward_to(agp_edge_tensorrt_log sink) noexcept { log_ = sink; }

  void log(Severity severity, const char* message) noexcept override {
    if (severity <= Severity::kERROR) keep(message);
    if (const agp_edge_tensorrt_log forward = log_) forward(static_cast<int>(severity), message);
  }

  // The errors on this thread since the last call, oldest first, joined by "; ".
  static std::string take_errors() {
    std::string taken;
    taken.swap(errors());
    return taken;
  }

 private:
  static std::string& errors() {
    thread_local std::string text;
    return text;
  }

  static void keep(const char* message) noexcept {
    // Enough for the cause; TensorRT repeats itself on the way out.
    constexpr std::size_t kEnough = 600;
    std::string& text = errors();
    if (text.size() > kEnough) return;
    try {
      if (!text.empty()) text += "; ";
      text += message;
    } catch (...) {  // out of memory while reporting: what is there has to do
    }
  }

  std::atomic<agp_edge_tensorrt_log> log_{nullptr};
};

}  // namespace agp_edge::tensorrt
