// OpenVINO's C interface, opened with dlopen: one function pointer per function that we call.
//
// Owns     nothing that ends: the library stays open for the process's life, since OpenVINO's own
//          threads and thread-local objects may outlive any engine.
#pragma once

#include <openvino/c/openvino.h>

#include <string>

namespace agp_edge {

struct OpenVinoLibrary {
  // Throws DependencyError: not found in `folder` (empty: AGP_EDGE_OPENVINO_LIBS, then the system's
  // search path), or too old.
  explicit OpenVinoLibrary(const std::string& folder);

  // "2026.4.1"
  std::string version() const;
  // Throws ModelError "`what` failed (reason)" unless `status` is OK.
  void check(ov_status_e status, const std::string& what) const;
  // The number by which this library knows float32: OpenVINO 2025 moved the enum by one, and the
  // headers that we were compiled with may be of another version.
  ov_element_type_e float32() const;

  decltype(&::ov_get_openvino_version) get_openvino_version;
  decltype(&::ov_version_free) version_free;
  decltype(&::ov_get_error_info) get_error_info;
  decltype(&::ov_get_last_err_msg) get_last_err_msg;
  decltype(&::ov_free) free;
  decltype(&::ov_core_create) core_create;
  decltype(&::ov_core_free) core_free;
  decltype(&::ov_core_get_property) core_get_property;
  decltype(&::ov_core_read_model) core_read_model;
  decltype(&::ov_core_read_model_from_memory_buffer) core_read_model_from_memory_buffer;
  decltype(&::ov_core_compile_model) core_compile_model;
  decltype(&::ov_model_free) model_free;
  decltype(&::ov_compiled_model_free) compiled_model_free;
  decltype(&::ov_compiled_model_get_property) compiled_model_get_property;
  decltype(&::ov_model_inputs_size) model_inputs_size;
  decltype(&::ov_model_outputs_size) model_outputs_size;
  decltype(&::ov_model_const_input_by_index) model_const_input_by_index;
  decltype(&::ov_model_const_output_by_index) model_const_output_by_index;
  decltype(&::ov_compiled_model_create_infer_request) compiled_model_create_infer_request;
  decltype(&::ov_output_const_port_free) output_const_port_free;
  decltype(&::ov_port_get_any_name) port_get_any_name;
  decltype(&::ov_port_get_element_type) port_get_element_type;
  decltype(&::ov_port_get_partial_shape) port_get_partial_shape;
  decltype(&::ov_partial_shape_is_dynamic) partial_shape_is_dynamic;
  decltype(&::ov_partial_shape_free) partial_shape_free;
  decltype(&::ov_const_port_get_shape) const_port_get_shape;
  decltype(&::ov_shape_free) shape_free;
  decltype(&::ov_tensor_create) tensor_create;
  decltype(&::ov_tensor_create_from_host_ptr) tensor_create_from_host_ptr;
  decltype(&::ov_tensor_get_byte_size) tensor_get_byte_size;
  decltype(&::ov_tensor_free) tensor_free;
  decltype(&::ov_infer_request_set_input_tensor_by_index) infer_request_set_input_tensor_by_index;
  decltype(&::ov_infer_request_set_output_tensor_by_index) infer_request_set_output_tensor_by_index;
  decltype(&::ov_infer_request_infer) infer_request_infer;
  decltype(&::ov_infer_request_free) infer_request_free;
};

}  // namespace agp_edge
