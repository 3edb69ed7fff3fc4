// The fake driver's own functions, for the tests that use it.
#pragma once

#include <dlfcn.h>

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace fake_cuda {

inline void* library() {
  static void* const opened = dlopen(std::getenv("AGP_EDGE_CUDA_DRIVER"), RTLD_NOW | RTLD_LOCAL);
  if (opened == nullptr) throw std::runtime_error("AGP_EDGE_CUDA_DRIVER names no library");
  return opened;
}

template <typename Function>
Function* function(const char* name) {
  auto* const found = reinterpret_cast<Function*>(dlsym(library(), name));
  if (found == nullptr) throw std::runtime_error(std::string("the fake driver has no ") + name);
  return found;
}

// Contexts, streams and allocations that have not been released, and contexts still current.
inline int live() { return function<int()>("fake_cuda_live")(); }
inline int calls(const char* name) { return function<int(const char*)>("fake_cuda_calls")(name); }
// The function that was made to fail last.
inline const char* failed() { return function<const char*()>("fake_cuda_failed")(); }
inline void* host(const void* device, std::size_t bytes) {
  return function<void*(const void*, std::size_t)>("fake_cuda_host")(device, bytes);
}

// Bytes that came to the host since the calls were forgotten.
inline std::size_t downloaded() { return function<std::size_t()>("fake_cuda_downloaded")(); }
inline void forget_calls() { function<void()>("fake_cuda_forget_calls")(); }

// Until the end of the scope, the `call`-th call of `name` ("*": of any function) from now fails;
// `sticky`: and all of the context's later ones, as after an illegal address in a kernel.
class Failing {
 public:
  Failing(const std::string& name, int call, bool sticky = false) {
    forget_calls();
    const std::string chosen = name + ":" + std::to_string(call) + (sticky ? ":sticky" : "");
    setenv("AGP_EDGE_FAKE_CUDA_FAIL", chosen.c_str(), 1);
  }
  ~Failing() { unsetenv("AGP_EDGE_FAKE_CUDA_FAIL"); }
  Failing(const Failing&) = delete;
  Failing& operator=(const Failing&) = delete;
};

}  // namespace fake_cuda
