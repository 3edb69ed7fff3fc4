// The TensorRT modules beside this library: found, opened, asked to open a plan.
//
// Threads  any.
#pragma once

#include <string>
#include <vector>

#include "agp_edge/tensorrt_engine.hpp"
#include "tensorrt/module.h"

namespace agp_edge {

struct TensorRtProduct {
  TensorRtFlavour flavour;
  const char* title;
  const char* major;                   // of the library's version
  const char* module;                  // file name
  std::vector<const char*> libraries;  // sonames, of which any does
  const char* magic;                   // a plan's first four bytes
  const char* version_key;             // in the manifest's `versions`
};

// Newest first.
const std::vector<TensorRtProduct>& tensorrt_products();

// Full path of the module's file; empty where this build has none.
std::string find_module(const TensorRtProduct& product);

// Throws DependencyError when the file is no module of ours.
agp_edge_tensorrt_open open_module(const std::string& path);

// To be handed to a module: passes on to what set_tensorrt_log() was given.
agp_edge_tensorrt_log tensorrt_log_forwarder() noexcept;

}  // namespace agp_edge
