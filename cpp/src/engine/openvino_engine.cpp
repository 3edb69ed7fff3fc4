#include "agp_edge/openvino_engine.hpp"

#include <algorithm>
#include <functional>
#include <memory>
#include <utility>

#include "agp_edge/error.hpp"
#include "cpu/thread_pool.hpp"
#include "engine/openvino_library.hpp"
#include "engine/tensor_text.hpp"

namespace agp_edge {
namespace {

template <typename Handle>
using Unique = std::unique_ptr<Handle, void (*)(Handle*)>;

// One model that is compiled for this CPU.
class OpenVinoModel {
 public:
  OpenVinoModel(const std::string& path, const OpenVinoOptions& options)
      : library_(options.library_folder),
        name_("OpenVINO " + library_.version()),
        float32_(library_.float32()),
        core_(make<ov_core_t>(library_.core_free, "starting OpenVINO",
                              [&](ov_core_t** core) { return library_.core_create(core); })),
        read_(read(path, options)),
        // Before it is compiled, where a tensor may get more names than its own.
        inputs_(tensors(path, library_.model_inputs_size, library_.model_const_input_by_index)),
        outputs_(tensors(path, library_.model_outputs_size, library_.model_const_output_by_index)),
        model_(compile(path, options)) {
    read_.reset();
    name_ += " (threads " + property("INFERENCE_NUM_THREADS") + ", streams " +
             property("NUM_STREAMS") + (options.bfloat16 ? ", bfloat16)" : ")");
  }

  const OpenVinoLibrary& library() const noexcept { return library_; }
  const std::string& name() const noexcept { return name_; }
  ov_element_type_e float32() const noexcept { return float32_; }
  const std::vector<TensorSpec>& inputs() const noexcept { return inputs_; }
  const std::vector<TensorSpec>& outputs() const noexcept { return outputs_; }

  Unique<ov_infer_request_t> new_request() const {
    return make<ov_infer_request_t>(library_.infer_request_free, "preparing a run in " + name_,
                                    [&](ov_infer_request_t** request) {
                                      return library_.compiled_model_create_infer_request(
                                          model_.get(), request);
                                    });
  }

  template <typename Handle, typename Free, typename Create>
  Unique<Handle> make(Free free, const std::string& what, Create create) const {
    Handle* handle = nullptr;
    library_.check(create(&handle), what);
    return Unique<Handle>(handle, free);
  }

 private:
  Unique<ov_model_t> read(const std::string& path, const OpenVinoOptions& options) const {
    return make<ov_model_t>(
        library_.model_free, "reading '" + path + "' with " + name_, [&](ov_model_t** made) {
          const std::string_view content = options.content;
          return content.empty()
                     ? library_.core_read_model(core_.get(), path.c_str(), nullptr, made)
                     : library_.core_read_model_from_memory_buffer(core_.get(), content.data(),
                                                                   content.size(), nullptr, made);
        });
  }

  Unique<ov_compiled_model_t> compile(const std::string& path,
                                      const OpenVinoOptions& options) const {
    const int cores = options.cpus.empty() ? usable_cores() : static_cast<int>(options.cpus.size());
    // Given CPUs: OpenVINO sees to the number of its threads only.
    const int threads = options.threads == 0 && !options.cpus.empty() ? cores : options.threads;
    const std::string streams = std::to_string(std::clamp(options.streams, 1, cores));
    const std::string count = std::to_string(threads);
    if (options.bfloat16) check_bfloat16();
    // Left alone, OpenVINO computes in bfloat16 where the CPU can: other scores than everywhere
    // else, so other decisions. Its own pinning would undo ours. Keys and values count one each.
    return make<ov_compiled_model_t>(
        library_.compiled_model_free, "compiling '" + path + "' with " + name_,
        [&](ov_compiled_model_t** compiled) {
          return library_.core_compile_model(
              core_.get(), read_.get(), "CPU", threads > 0 ? 8U : 6U, compiled, "NUM_STREAMS",
              streams.c_str(), "INFERENCE_PRECISION_HINT", options.bfloat16 ? "bf16" : "f32",
              "ENABLE_CPU_PINNING", "NO", "INFERENCE_NUM_THREADS", count.c_str());
        });
  }

  // OpenVINO takes bfloat16 by itself where the CPU has it, and only there.
  void check_bfloat16() const {
    char* value = nullptr;
    library_.check(
        library_.core_get_property(core_.get(), "CPU", "INFERENCE_PRECISION_HINT", &value),
        "asking " + name_ + " for its arithmetic");
    const std::string own_choice = value;
    library_.free(value);
    if (own_choice == "bf16") return;
    throw DeviceError("bfloat16 was asked for, and this CPU has no instructions for it (" + name_ +
                      " would take " + own_choice + "): use the engine 'openvino', in FP32");
  }

  // As OpenVINO has set it.
  std::string property(const char* key) const {
    char* value = nullptr;
    library_.check(library_.compiled_model_get_property(model_.get(), key, &value),
                   "asking " + name_ + " for " + key);
    std::string text = value;
    library_.free(value);
    return text;
  }

  template <typename Size, typename PortByIndex>
  std::vector<TensorSpec> tensors(const std::string& path, Size size, PortByIndex by_index) const {
    const std::string what = "reading the tensors of '" + path + "' in " + name_;
    std::size_t count = 0;
    library_.check(size(read_.get(), &count), what);
    std::vector<TensorSpec> specs;
    for (std::size_t i = 0; i < count; ++i) {
      const auto port = make<ov_output_const_port_t>(
          library_.output_const_port_free, what,
          [&](ov_output_const_port_t** made) { return by_index(read_.get(), i, made); });
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

  OpenVinoLibrary library_;
  std::string name_;
  ov_element_type_e float32_;
  Unique<ov_core_t> core_;   // in the order of creation
  Unique<ov_model_t> read_;  // null once it is compiled
  std::vector<TensorSpec> inputs_;
  std::vector<TensorSpec> outputs_;
  Unique<ov_compiled_model_t> model_;
};

class OpenVinoEngine final : public Engine {
 public:
  explicit OpenVinoEngine(std::shared_ptr<const OpenVinoModel> model)
      : model_(std::move(model)),
        request_(model_->new_request()),
        bound_in_(model_->inputs().size(), nullptr),
        bound_out_(model_->outputs().size(), nullptr) {}

  std::string name() const override { return model_->name(); }
  const std::vector<TensorSpec>& inputs() const override { return model_->inputs(); }
  const std::vector<TensorSpec>& outputs() const override { return model_->outputs(); }

  void enqueue(Stream /*stream*/, const void* const* in, void* const* out) override {
    const OpenVinoLibrary& library = model_->library();
    for (std::size_t i = 0; i < bound_in_.size(); ++i) {
      // OpenVINO's interface has no const tensor; it does not write to inputs.
      bind(inputs()[i], const_cast<void*>(in[i]), bound_in_[i], i,
           library.infer_request_set_input_tensor_by_index);
    }
    for (std::size_t i = 0; i < bound_out_.size(); ++i) {
      bind(outputs()[i], out[i], bound_out_[i], i,
           library.infer_request_set_output_tensor_by_index);
    }
    library.check(library.infer_request_infer(request_.get()), "running the model in " + name());
  }

  std::shared_ptr<Engine> clone() override { return std::make_shared<OpenVinoEngine>(model_); }

 private:
  // Makes `address` the model's tensor: OpenVINO reads and writes it in place.
  template <typename SetTensor>
  void bind(const TensorSpec& spec, void* address, void*& bound, std::size_t index, SetTensor set) {
    if (address == bound) return;
    const OpenVinoLibrary& library = model_->library();
    const std::string what = "binding the tensor " + to_string(spec) + " in " + name();
    const auto tensor =
        model_->make<ov_tensor_t>(library.tensor_free, what, [&](ov_tensor_t** made) {
          const auto rank = static_cast<std::int64_t>(spec.shape.size());
          // The shape is only read.
          return library.tensor_create_from_host_ptr(
              model_->float32(), {rank, const_cast<std::int64_t*>(spec.shape.data())}, address,
              made);
        });
    bound = nullptr;
    library.check(set(request_.get(), index, tensor.get()), what);
    bound = address;
  }

  std::shared_ptr<const OpenVinoModel> model_;
  Unique<ov_infer_request_t> request_;
  std::vector<void*> bound_in_;
  std::vector<void*> bound_out_;
};

}  // namespace

bool has_openvino() noexcept { return true; }

std::shared_ptr<Engine> open_openvino(const std::string& onnx_path,
                                      const OpenVinoOptions& options) {
  return std::make_shared<OpenVinoEngine>(std::make_shared<OpenVinoModel>(onnx_path, options));
}

}  // namespace agp_edge
