#include "engine.hpp"

#include <pybind11/stl.h>

#include <cstdio>
#include <utility>

#include "agp_edge/error.hpp"
#include "agp_edge/openvino_engine.hpp"
#include "bytes.hpp"
#include "module.hpp"

namespace agp_edge::bindings {
namespace {

namespace py = pybind11;
// (name, dtype, shape)
using TensorTuple = std::tuple<std::string, std::string, std::vector<std::int64_t>>;

std::vector<TensorSpec> specs_from(const std::vector<TensorTuple>& tuples) {
  std::vector<TensorSpec> specs;
  for (const auto& [name, dtype, shape] : tuples) {
    if (dtype != "float32" && dtype != "float16") {
      throw ModelError("the tensor '" + name + "' is " + dtype +
                       ", float32 or float16 is expected: export the model again");
    }
    for (const std::int64_t side : shape) {
      if (side < 1) {
        throw ModelError("the tensor '" + name + "' has a side of " + std::to_string(side) +
                         ", a static shape is expected: export the model again");
      }
    }
    specs.push_back({name, dtype == "float32" ? DType::kFloat32 : DType::kFloat16, shape});
  }
  return specs;
}

Memory memory_from(const std::string& name) {
  if (name == "host") return Memory::kHost;
  if (name == "device") return Memory::kDevice;
  throw ModelError("the engine's memory '" + name + "' was given, 'host' or 'device' is expected");
}

std::vector<py::tuple> tuples_from(const std::vector<TensorSpec>& specs) {
  std::vector<py::tuple> tuples;
  for (const TensorSpec& spec : specs) {
    tuples.push_back(py::make_tuple(spec.name,
                                    spec.dtype == DType::kFloat32 ? "float32" : "float16",
                                    py::tuple(py::cast(spec.shape))));
  }
  return tuples;
}

template <typename Pointer>
py::list addresses(const Pointer* pointers, std::size_t count) {
  py::list list;
  for (std::size_t i = 0; i < count; ++i) {
    list.append(reinterpret_cast<std::uintptr_t>(pointers[i]));
  }
  return list;
}

}  // namespace

struct PythonEngine::Call {
  py::function function;
  py::object clone;  // None: it has none
  std::size_t inputs;
  std::size_t outputs;
  std::exception_ptr raised;

  static int enqueue(void* user, Stream stream, const void* const* in, void* const* out,
                     char* error, std::size_t error_bytes) {
    auto* const call = static_cast<Call*>(user);
    const py::gil_scoped_acquire acquire;
    try {
      call->function(reinterpret_cast<std::uintptr_t>(stream), addresses(in, call->inputs),
                     addresses(out, call->outputs));
      return 0;
    } catch (const py::error_already_set&) {
      call->raised = std::current_exception();
      std::snprintf(error, error_bytes, "it raised a Python exception");
      return 1;
    }
  }

  static void release(void* user) {
    const py::gil_scoped_acquire acquire;
    delete static_cast<Call*>(user);
  }
};

PythonEngine::PythonEngine(std::string name, std::vector<TensorSpec> inputs,
                           std::vector<TensorSpec> outputs, py::function function, py::object clone,
                           Memory memory, int device)
    : call_(
          new Call{std::move(function), std::move(clone), inputs.size(), outputs.size(), nullptr}),
      engine_(std::move(name), std::move(inputs), std::move(outputs), &Call::enqueue, call_,
              &Call::release, memory, device) {}

void PythonEngine::enqueue(Stream stream, const void* const* in, void* const* out) {
  try {
    engine_.enqueue(stream, in, out);
  } catch (const ModelError&) {
    if (call_->raised) std::rethrow_exception(std::exchange(call_->raised, nullptr));
    throw;
  }
}

std::shared_ptr<Engine> PythonEngine::clone() {
  const py::gil_scoped_acquire acquire;
  if (call_->clone.is_none()) return nullptr;
  return std::make_shared<PythonEngine>(name(), inputs(), outputs(),
                                        call_->clone().cast<py::function>(), call_->clone, memory(),
                                        device());
}

void register_engine(py::module_& module) {
  py::class_<Engine, std::shared_ptr<Engine>>(module, "Engine")
      .def_property_readonly("name", &Engine::name)
      .def_property_readonly("inputs",
                             [](const Engine& self) { return tuples_from(self.inputs()); })
      .def_property_readonly("outputs",
                             [](const Engine& self) { return tuples_from(self.outputs()); });
  py::class_<PythonEngine, Engine, std::shared_ptr<PythonEngine>>(module, "CallableEngine")
      .def(py::init([](const std::string& name, const std::vector<TensorTuple>& inputs,
                       const std::vector<TensorTuple>& outputs, py::function function,
                       const std::string& memory, int device, py::object clone) {
             return std::make_shared<PythonEngine>(name, specs_from(inputs), specs_from(outputs),
                                                   std::move(function), std::move(clone),
                                                   memory_from(memory), device);
           }),
           py::arg("name"), py::arg("inputs"), py::arg("outputs"), py::arg("function"),
           py::kw_only(), py::arg("memory") = "host", py::arg("device") = 0,
           py::arg("clone") = py::none());
  module.def("has_openvino", &has_openvino);
  module.def(
      "open_openvino",
      [](const std::string& path, const std::string& library_folder, int threads, int streams,
         std::vector<int> cpus, bool bfloat16, const std::optional<py::buffer>& content) {
        const BorrowedBytes bytes(content);
        OpenVinoOptions options;
        options.content = bytes.view();
        options.library_folder = library_folder;
        options.threads = threads;
        options.streams = streams;
        options.cpus = std::move(cpus);
        options.bfloat16 = bfloat16;
        const py::gil_scoped_release release;
        return open_openvino(path, options);
      },
      py::arg("path"), py::kw_only(), py::arg("library_folder") = "", py::arg("threads") = 0,
      py::arg("streams") = 1, py::arg("cpus") = std::vector<int>{}, py::arg("bfloat16") = false,
      py::arg("content") = py::none());
}

}  // namespace agp_edge::bindings
