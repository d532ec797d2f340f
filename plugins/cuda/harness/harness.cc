// C interface of the harness, for ctypes (plugins/check/cuda_harness.py): run a registered operator on tensors in memory.
#include <cstring>
#include <string>
#include <vector>

#include "../operator.h"
#include "cuda.h"

namespace {

using farthing::cuda::Attributes;
using farthing::cuda::Call;
using farthing::cuda::Operator;
using farthing::cuda::Tensor;
using farthing::cuda::Type;
using farthing::cuda::Value;

const Operator& find(const char* name) {
  for (const Operator& op : farthing::cuda::operators()) {
    if (std::strcmp(op.name, name) == 0) return op;
  }
  throw std::invalid_argument(std::string("operator is ") + name + ", expected one with a launch.cu; build again");
}

int say(const char* text, char* message, std::size_t size) {
  std::strncpy(message, text, size - 1);
  message[size - 1] = 0;
  return 1;
}

}  // namespace

extern "C" {

struct HarnessAttribute {
  const char* name;
  int kind;  // 0 int, 1 float, 2 string
  std::int64_t integer;
  float real;
  const char* text;
};

// 0 when the operator ran; else 1, with what was refused in message. `forbidden` is set to 1 when launch.cu does not take these
// types (they fit the contract). Workspace is filled with NaN; `backward` turns the order of threads round.
int farthing_harness_run(const char* name, const Tensor* inputs, int input_count, const Tensor* outputs,
                         int output_count, const HarnessAttribute* attributes, int attribute_count, int backward,
                         int* forbidden, char* message, std::size_t size) {
  *forbidden = 0;
  try {
    const Operator& op = find(name);
    std::map<std::string, Value> given;
    for (int i = 0; i < attribute_count; ++i) {
      const HarnessAttribute& a = attributes[i];
      if (a.kind == 0) given[a.name] = a.integer;
      if (a.kind == 1) given[a.name] = a.real;
      if (a.kind == 2) given[a.name] = std::string(a.text);
    }
    const Attributes complete(*op.contract, given);
    Call call{op.contract,
              &complete,
              {},
              {inputs, static_cast<std::size_t>(input_count)},
              {outputs, static_cast<std::size_t>(output_count)}};
    farthing::cuda::prepare(op, call);
    std::vector<Type> types;
    for (const Tensor& t : call.inputs) types.push_back(t.type);
    for (const Tensor& t : call.outputs) types.push_back(t.type);
    for (std::size_t i = 0; i < types.size(); ++i) {
      if (i < call.inputs.size() && !call.inputs[i].present) continue;
      const std::string wrong = farthing::cuda::type_fits(*op.contract, types, call.inputs.size(), i);
      if (!wrong.empty()) return say(wrong.c_str(), message, size);
    }
    if (op.supports && !op.supports(types)) {
      *forbidden = 1;
      return say("launch.cu does not take these types", message, size);
    }
    // Exactly as much as was asked for, with a mark behind it.
    const std::size_t bytes = op.workspace ? op.workspace(call) : 0;
    std::vector<unsigned char> workspace(bytes + 64, 0xff);
    call.workspace = workspace.data();
    farthing::harness::set_backward(backward != 0);
    op.run(call);
    for (std::size_t i = bytes; i < workspace.size(); ++i) {
      if (workspace[i] != 0xff) return say("workspace is written beyond its end", message, size);
    }
    return 0;
  } catch (const std::exception& error) {
    return say(error.what(), message, size);
  }
}

// The names of the operators with a device half, one a line.
const char* farthing_harness_operators() {
  static const std::string names = [] {
    std::string text;
    for (const Operator& op : farthing::cuda::operators()) text += std::string(op.name) + "\n";
    return text;
  }();
  return names.c_str();
}

}  // extern "C"
