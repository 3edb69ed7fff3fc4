// What each file of the bindings adds to agp_edge._core.
#pragma once

#include <pybind11/pybind11.h>

namespace agp_edge::bindings {

void register_errors();
void register_preprocess(pybind11::module_& module);
void register_postprocess(pybind11::module_& module);
void register_engine(pybind11::module_& module);
void register_tensorrt(pybind11::module_& module);
void register_detector(pybind11::module_& module);
void register_cuda_stages(pybind11::module_& module);
void register_cuda_timing(pybind11::module_& module);

}  // namespace agp_edge::bindings
