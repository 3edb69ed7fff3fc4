#include "engine/openvino_library.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <vector>

#include "agp_edge/error.hpp"

namespace agp_edge {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLibrary = "libopenvino_c.so";
constexpr const char* kAdvice =
    "pip install agp-edge[openvino], or set AGP_EDGE_OPENVINO_LIBS to the folder that holds it";

// The file of that folder; a wheel ships "libopenvino_c.so.2641" without the plain name.
std::string library_in(const std::string& folder) {
  std::vector<std::string> found;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().filename().string().rfind(kLibrary, 0) == 0) {
      found.push_back(entry.path().string());
    }
  }
  if (found.empty()) {
    throw DependencyError(std::string("OpenVINO's ") + kLibrary + " was not found in '" + folder +
                          "': " + kAdvice);
  }
  return *std::min_element(found.begin(), found.end());
}

void* open_library(const std::string& folder) {
  std::string where = folder;
  if (where.empty()) {
    const char* const variable = std::getenv("AGP_EDGE_OPENVINO_LIBS");
    if (variable != nullptr) where = variable;
  }
  const std::string path = where.empty() ? kLibrary : library_in(where);
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* const reason = dlerror();
    throw DependencyError("OpenVINO cannot be opened (" +
                          std::string(reason != nullptr ? reason : path.c_str()) + "): " + kAdvice);
  }
  return library;
}

template <typename Function>
void load(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (function == nullptr) {
    throw DependencyError(std::string("the OpenVINO library found has no ") + name +
                          ", OpenVINO 2024.0 or newer is expected: pip install -U openvino");
  }
}

}  // namespace

OpenVinoLibrary::OpenVinoLibrary(const std::string& folder) {
  void* const library = open_library(folder);
  load(library, "ov_get_openvino_version", get_openvino_version);
  load(library, "ov_version_free", version_free);
  load(library, "ov_get_error_info", get_error_info);
  load(library, "ov_get_last_err_msg", get_last_err_msg);
  load(library, "ov_free", free);
  load(library, "ov_core_create", core_create);
  load(library, "ov_core_free", core_free);
  load(library, "ov_core_get_property", core_get_property);
  load(library, "ov_core_read_model", core_read_model);
  load(library, "ov_core_read_model_from_memory_buffer", core_read_model_from_memory_buffer);
  load(library, "ov_core_compile_model", core_compile_model);
  load(library, "ov_model_free", model_free);
  load(library, "ov_compiled_model_free", compiled_model_free);
  load(library, "ov_compiled_model_get_property", compiled_model_get_property);
  load(library, "ov_model_inputs_size", model_inputs_size);
  load(library, "ov_model_outputs_size", model_outputs_size);
  load(library, "ov_model_const_input_by_index", model_const_input_by_index);
  load(library, "ov_model_const_output_by_index", model_const_output_by_index);
  load(library, "ov_compiled_model_create_infer_request", compiled_model_create_infer_request);
  load(library, "ov_output_const_port_free", output_const_port_free);
  load(library, "ov_port_get_any_name", port_get_any_name);
  load(library, "ov_port_get_element_type", port_get_element_type);
  load(library, "ov_port_get_partial_shape", port_get_partial_shape);
  load(library, "ov_partial_shape_is_dynamic", partial_shape_is_dynamic);
  load(library, "ov_partial_shape_free", partial_shape_free);
  load(library, "ov_const_port_get_shape", const_port_get_shape);
  load(library, "ov_shape_free", shape_free);
  load(library, "ov_tensor_create", tensor_create);
  load(library, "ov_tensor_create_from_host_ptr", tensor_create_from_host_ptr);
  load(library, "ov_tensor_get_byte_size", tensor_get_byte_size);
  load(library, "ov_tensor_free", tensor_free);
  load(library, "ov_infer_request_set_input_tensor_by_index",
       infer_request_set_input_tensor_by_index);
  load(library, "ov_infer_request_set_output_tensor_by_index",
       infer_request_set_output_tensor_by_index);
  load(library, "ov_infer_request_infer", infer_request_infer);
  load(library, "ov_infer_request_free", infer_request_free);
}

std::string OpenVinoLibrary::version() const {
  ov_version_t version{};
  check(get_openvino_version(&version), "asking OpenVINO for its version");
  std::string build = version.buildNumber != nullptr ? version.buildNumber : "";
  version_free(&version);
  return build.substr(0, build.find('-'));
}

void OpenVinoLibrary::check(ov_status_e status, const std::string& what) const {
  if (status == ov_status_e::OK) return;
  std::string reason = get_error_info(status);
  const char* const message = get_last_err_msg();
  if (message != nullptr) {
    if (*message != '\0') reason = message;
    free(message);
  }
  // Several lines, most of them OpenVINO's own source places: one sentence is ours to say.
  std::replace(reason.begin(), reason.end(), '\n', ' ');
  throw ModelError(what + " failed (" + reason + ")");
}

ov_element_type_e OpenVinoLibrary::float32() const {
  // Before float32 stand, in every version, bool and the two half types: the first type of four
  // bytes is it. The count starts after `dynamic`, which has no size.
  for (int code = 2; code < 8; ++code) {
    const auto type = static_cast<ov_element_type_e>(code);
    std::int64_t side = 1;
    ov_tensor_t* tensor = nullptr;
    if (tensor_create(type, {1, &side}, &tensor) != ov_status_e::OK) continue;
    std::size_t bytes = 0;
    const ov_status_e status = tensor_get_byte_size(tensor, &bytes);
    tensor_free(tensor);
    if (status == ov_status_e::OK && bytes == sizeof(float)) return type;
  }
  throw DependencyError("this OpenVINO (" + version() +
                        ") does not know float32 where versions 2024 to 2026 do: install one of "
                        "them");
}

}  // namespace agp_edge
