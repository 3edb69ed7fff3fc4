// TensorRT's messages on their way to the library's log; the first error is kept for the exception
// too.
//
// Threads  any; the error is kept per thread, since TensorRT reports on the thread that called.
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

  // The first error on this thread since the last call: the cause, where later ones are echoes.
  static std::string take_error() {
    std::string taken;
    taken.swap(error());
    return taken;
  }

 private:
  static std::string& error() {
    thread_local std::string text;
    return text;
  }

  static void keep(const char* message) noexcept {
    try {
      if (error().empty()) error() = message;
    } catch (...) {  // out of memory while reporting: no reason is given then
    }
  }

  std::atomic<agp_edge_tensorrt_log> log_{nullptr};
};

}  // namespace agp_edge::tensorrt
