#include "graph.h"

#include <algorithm>

#include "clock.h"
#include "error.h"
#include "ort_session.h"

namespace farthing::drawing {
namespace {

Ort::SessionOptions session_options(OrtOptions options, Work work) {
  options.optimised = false;
  if (work == Work::small) options.threads = 1;
  Ort::SessionOptions made = ort_session_options(options);
  if (work == Work::seldom) made.AddConfigEntry("session.intra_op.allow_spinning", "0");
  return made;
}

Ort::Session open(const std::filesystem::path& path, const OrtOptions& options, Work work) {
  try {
    return Ort::Session(ort_environment(), path.c_str(), session_options(options, work));
  } catch (const Ort::Exception& error) {
    refuse(Status::bundle, path.string(), std::string("refused by ONNX Runtime (") + error.what() + ")",
           "a graph it can run", "update onnxruntime, or export the bundle again");
  }
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text;
  for (const std::int64_t size : shape) text += (text.empty() ? "" : ",") + (size < 0 ? "?" : std::to_string(size));
  return "[" + text + "]";
}

Port port_of(const Ort::TypeInfo& info) {
  if (info.GetONNXType() != ONNX_TYPE_TENSOR) return {};
  const auto tensor = info.GetTensorTypeAndShapeInfo();
  return {tensor.GetElementType(), tensor.GetShape()};
}

}  // namespace

Graph::Graph(const std::filesystem::path& path, const OrtOptions& options, Work work)
    : path_(path.string()),
      memory_(Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault)),
      session_(open(path, options, work)) {
  Ort::AllocatorWithDefaultOptions allocator;
  for (std::size_t i = 0; i < session_.GetInputCount(); ++i) {
    inputs_[session_.GetInputNameAllocated(i, allocator).get()] = port_of(session_.GetInputTypeInfo(i));
  }
  for (std::size_t i = 0; i < session_.GetOutputCount(); ++i) {
    outputs_[session_.GetOutputNameAllocated(i, allocator).get()] = port_of(session_.GetOutputTypeInfo(i));
  }
}

const std::vector<std::int64_t>& Graph::need(const std::map<std::string, Port>& ports, const char* kind,
                                             const std::string& name, ONNXTensorElementDataType type,
                                             std::initializer_list<std::int64_t> shape) const {
  const std::string what = std::string(kind) + " " + name + " of " + path_;
  const auto found = ports.find(name);
  if (found == ports.end()) refuse(Status::bundle, what, "missing", "present", "export the bundle again");
  const Port& port = found->second;
  if (port.type != type) {
    refuse(Status::bundle, what, "of element type " + std::to_string(port.type), std::to_string(type),
           "export the bundle again");
  }
  const std::vector<std::int64_t> wanted(shape);
  bool fits = port.shape.size() == wanted.size();
  for (std::size_t i = 0; fits && i < wanted.size(); ++i) {
    fits = wanted[i] < 0 || port.shape[i] < 0 || port.shape[i] == wanted[i];
  }
  if (!fits) refuse(Status::bundle, what, shape_text(port.shape), shape_text(wanted), "export the bundle again");
  return port.shape;
}

const std::vector<std::int64_t>& Graph::need_input(const std::string& name, ONNXTensorElementDataType type,
                                                   std::initializer_list<std::int64_t> shape) {
  needed_.push_back(name);
  return need(inputs_, "input", name, type, shape);
}

const std::vector<std::int64_t>& Graph::need_output(const std::string& name, ONNXTensorElementDataType type,
                                                    std::initializer_list<std::int64_t> shape) {
  return need(outputs_, "output", name, type, shape);
}

void Graph::no_other_inputs() const {
  for (const auto& [name, port] : inputs_) {
    if (std::find(needed_.begin(), needed_.end(), name) != needed_.end()) continue;
    refuse(Status::bundle, "input " + name + " of " + path_, "unknown", "one of the contract",
           "update farthing, or export the bundle again");
  }
}

void Graph::execute(Binder& binder) {
  const double start = wall_seconds();
  try {
    session_.Run(run_options_, binder.binding());
  } catch (const Ort::Exception& error) {
    throw Error(Status::internal, std::string("ONNX Runtime stopped: ") + error.what());
  }
  seconds_ += wall_seconds() - start;
}

}  // namespace farthing::drawing
