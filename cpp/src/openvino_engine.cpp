#include "agp_edge/openvino_engine.hpp"

#include <functional>
#include <memory>
#include <utility>

#include "agp_edge/error.hpp"
#include "openvino_library.hpp"
#include "tensor_text.hpp"

namespace agp_edge {
namespace {

template <typename Handle>
using Unique = std::unique_ptr<Handle, void (*)(Handle*)>;

class OpenVinoEngine final : public Engine {
 public:
  OpenVinoEngine(const std::string& path, const OpenVinoOptions& options)
      : library_(options.library_folder),
        name_("OpenVINO " + library_.version()),
        float32_(library_.float32()),
        core_(make<ov_core_t>(library_.core_free, "starting OpenVINO",
                              [&](ov_core_t** core) { return library_.core_create(core); })),
        model_(compile(path, options)),
        request_(make<ov_infer_request_t>(
            library_.infer_request_free, "preparing '" + path + "' in " + name_,
            [&](ov_infer_request_t** request) {
              return library_.compiled_model_create_infer_request(model_.get(), request);
            })) {
    inputs_ =
        tensors(path, library_.compiled_model_inputs_size, library_.compiled_model_input_by_index);
    outputs_ = tensors(path, library_.compiled_model_outputs_size,
                       library_.compiled_model_output_by_index);
    bound_in_.resize(inputs_.size(), nullptr);
    bound_out_.resize(outputs_.size(), nullptr);
  }

  std::string name() const override { return name_; }
  const std::vector<TensorSpec>& inputs() const override { return inputs_; }
  const std::vector<TensorSpec>& outputs() const override { return outputs_; }

  void enqueue(Stream /*stream*/, const void* const* in, void* const* out) override {
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      // OpenVINO's interface has no const tensor; it does not write to inputs.
      bind(inputs_[i], const_cast<void*>(in[i]), bound_in_[i], i,
           library_.infer_request_set_input_tensor_by_index);
    }
    for (std::size_t i = 0; i < outputs_.size(); ++i) {
      bind(outputs_[i], out[i], bound_out_[i], i,
           library_.infer_request_set_output_tensor_by_index);
    }
    library_.check(library_.infer_request_infer(request_.get()), "running the model in " + name_);
  }

 private:
  template <typename Handle, typename Free, typename Create>
  Unique<Handle> make(Free free, const std::string& what, Create create) const {
    Handle* handle = nullptr;
    library_.check(create(&handle), what);
    return Unique<Handle>(handle, free);
  }

  Unique<ov_compiled_model_t> compile(const std::string& path,
                                      const OpenVinoOptions& options) const {
    const auto model = make<ov_model_t>(
        library_.model_free, "reading '" + path + "' with " + name_, [&](ov_model_t** read) {
          const std::string_view content = options.content;
          return content.empty()
                     ? library_.core_read_model(core_.get(), path.c_str(), nullptr, read)
                     : library_.core_read_model_from_memory_buffer(core_.get(), content.data(),
                                                                   content.size(), nullptr, read);
        });
    const int threads = options.threads;
    const std::string count = std::to_string(threads);
    // Left alone, OpenVINO computes in bfloat16 where the CPU can: other scores than everywhere
    // else, so other decisions. Keys and values count one each.
    return make<ov_compiled_model_t>(
        library_.compiled_model_free, "compiling '" + path + "' with " + name_,
        [&](ov_compiled_model_t** compiled) {
          return library_.core_compile_model(
              core_.get(), model.get(), "CPU", threads > 0 ? 6U : 4U, compiled, "PERFORMANCE_HINT",
              "LATENCY", "INFERENCE_PRECISION_HINT", "f32", "INFERENCE_NUM_THREADS", count.c_str());
        });
  }

  template <typename Size, typename PortByIndex>
  std::vector<TensorSpec> tensors(const std::string& path, Size size, PortByIndex by_index) const {
    const std::string what = "reading the tensors of '" + path + "' in " + name_;
    std::size_t count = 0;
    library_.check(size(model_.get(), &count), what);
    std::vector<TensorSpec> specs;
    for (std::size_t i = 0; i < count; ++i) {
      const auto port = make<ov_output_const_port_t>(
          library_.output_const_port_free, what,
          [&](ov_output_const_port_t** made) { return by_index(model_.get(), i, made); });
      specs.push_back(tensor(path, *port, what));
    }
    return specs;
  }

  TensorSpec tensor(const std::string& path, const ov_output_const_port_t& port,
                    const std::string& what) const {
    TensorSpec spec;
    char* name = nullptr;
    library_.check(library_.port_get_any_name(&port, &name), what);
    spec.name = name;
    library_.free(name);

    ov_element_type_e type{};
    library_.check(library_.port_get_element_type(&port, &type), what);
    ov_partial_shape_t partial{};
    library_.check(library_.port_get_partial_shape(&port, &partial), what);
    const bool is_dynamic = library_.partial_shape_is_dynamic(partial);
    library_.partial_shape_free(&partial);
    if (type != float32_ || is_dynamic) {
      throw ModelError(
          "the tensor '" + spec.name + "' of '" + path + "' " +
          (is_dynamic ? "has a dynamic shape" : "is not float32") +
          ", float32 of a static shape is expected: export the model again; FP16 is made "
          "of it with `agp-edge build --precision fp16`, which keeps inputs and outputs");
    }
    ov_shape_t shape{};
    library_.check(library_.const_port_get_shape(&port, &shape), what);
    spec.shape.assign(shape.dims, shape.dims + shape.rank);
    library_.shape_free(&shape);
    return spec;
  }

  // Makes `address` the model's tensor: OpenVINO reads and writes it in place.
  template <typename SetTensor>
  void bind(TensorSpec& spec, void* address, void*& bound, std::size_t index, SetTensor set) {
    if (address == bound) return;
    const std::string what = "binding the tensor " + to_string(spec) + " in " + name_;
    const auto tensor = make<ov_tensor_t>(library_.tensor_free, what, [&](ov_tensor_t** made) {
      return library_.tensor_create_from_host_ptr(
          float32_, {static_cast<std::int64_t>(spec.shape.size()), spec.shape.data()}, address,
          made);
    });
    bound = nullptr;
    library_.check(set(request_.get(), index, tensor.get()), what);
    bound = address;
  }

  OpenVinoLibrary library_;
  std::string name_;
  ov_element_type_e float32_;
  Unique<ov_core_t> core_;  // in the order of creation
  Unique<ov_compiled_model_t> model_;
  Unique<ov_infer_request_t> request_;
  std::vector<TensorSpec> inputs_;
  std::vector<TensorSpec> outputs_;
  std::vector<void*> bound_in_;
  std::vector<void*> bound_out_;
};

}  // namespace

bool has_openvino() noexcept { return true; }

std::shared_ptr<Engine> open_openvino(const std::string& onnx_path,
                                      const OpenVinoOptions& options) {
  return std::make_shared<OpenVinoEngine>(onnx_path, options);
}

}  // namespace agp_edge
