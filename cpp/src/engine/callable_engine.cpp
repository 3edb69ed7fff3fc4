#include "agp_edge/callable_engine.hpp"

#include <array>
#include <utility>

#include "agp_edge/error.hpp"

namespace agp_edge {

CallableEngine::CallableEngine(std::string name, std::vector<TensorSpec> inputs,
                               std::vector<TensorSpec> outputs, EnqueueFunction function,
                               void* user, void (*release)(void*), Memory memory, int device)
    : name_(std::move(name)),
      inputs_(std::move(inputs)),
      outputs_(std::move(outputs)),
      function_(function),
      user_(user),
      release_(release),
      memory_(memory),
      device_(device) {
  if (function_ == nullptr) {
    // The destructor of an object that was never made does not run.
    if (release_ != nullptr) release_(user_);
    throw ModelError("the engine '" + name_ + "' was given no function to call");
  }
}

CallableEngine::~CallableEngine() {
  if (release_ != nullptr) release_(user_);
}

void CallableEngine::enqueue(Stream stream, const void* const* in, void* const* out) {
  std::array<char, 1024> sentence{};
  if (function_(user_, stream, in, out, sentence.data(), sentence.size()) == 0) return;
  sentence.back() = '\0';
  const std::string text = sentence.data();
  throw ModelError("the engine '" + name_ +
                   "' failed: " + (text.empty() ? "no reason given" : text));
}

}  // namespace agp_edge
