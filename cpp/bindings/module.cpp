#include "module.hpp"

PYBIND11_MODULE(_core, module) {
  module.doc() = "The C++ part of agp_edge; private, see agp_edge.Detector.";
  agp_edge::bindings::register_errors();
  agp_edge::bindings::register_preprocess(module);
  agp_edge::bindings::register_postprocess(module);
  agp_edge::bindings::register_engine(module);
  agp_edge::bindings::register_tensorrt(module);
  agp_edge::bindings::register_detector(module);
  agp_edge::bindings::register_cuda_stages(module);
  agp_edge::bindings::register_cuda_timing(module);
}
