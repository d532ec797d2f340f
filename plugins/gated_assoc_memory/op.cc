// ONNX Runtime face of farthing::GatedAssocMemory.
#include "../assoc_memory_read/bank.h"
#include "../native/ort_op.h"
#include "kernel.h"

namespace farthing {
namespace {

constexpr const char* kOp = "GatedAssocMemory";

GamMode mode_of(const OrtKernelInfo* info) {
  const std::string mode = ort::string_attribute(info, "mode", "gate");
  if (mode == "gate") return GamMode::gate;
  if (mode == "sum") return GamMode::sum;
  if (mode == "global") return GamMode::global;
  if (mode == "local") return GamMode::local;
  ort::refuse(kOp, "mode", "'" + mode + "'", "gate, sum, global or local", "export again");
}

struct GatedAssocMemoryKernel : ort::Kernel<GatedAssocMemoryKernel> {
  explicit GatedAssocMemoryKernel(const OrtKernelInfo* info)
      : taps(ort::int_attribute(info, "kernel_size")),
        scale(ort::float_attribute(info, "scale", 1.0f)),
        mode(mode_of(info)),
        window(ort::int_attribute(info, "return_window", 0) != 0) {
    if (taps < 2 || taps > 4096) {
      ort::refuse(kOp, "kernel_size", std::to_string(taps), "2 to 4096",
                  "a convolution of one tap has no state: such a model is not supported");
    }
    if (const std::int64_t value = ort::int_attribute(info, "return_window", 0); value != 0 && value != 1) {
      ort::refuse(kOp, "return_window", std::to_string(value), "0 or 1", "export again");
    }
    refuse_nonfinite(kOp, info, 4, "mem");
    refuse_nonfinite(kOp, info, 7, "mem_scale");
  }

  void compute(OrtKernelContext* context) {
    std::array<ort::View, 8> in;
    for (std::size_t i = 0; i < in.size(); ++i) in[i] = ort::input(context, i);
    const auto& [n, state, conv_w, conv_b, mem, gate_w, gate_b, step] = in;
    if (n.rank != 3) ort::refuse(kOp, "n", n.shape(), "[B,T,C]", "reshape it");
    const std::int64_t batch = n.dim(0), rows = n.dim(1), c = n.dim(2);
    if (state.rank != 3 || state.dim(0) != batch || state.dim(1) != taps - 1 || state.dim(2) != c) {
      ort::refuse(kOp, "conv_state", state.shape(), shape({batch, taps - 1, c}), "give the state of this model");
    }
    const bool wants_conv = mode != GamMode::global, wants_memory = mode != GamMode::local;
    const bool wants_gates = mode == GamMode::gate;
    if (wants_conv) {
      vector("conv_w", conv_w, {c, taps});
      if (conv_b.data) vector("conv_b", conv_b, {c});
    }
    Memory memory{nullptr, nullptr, MemoryType::float32, 1, static_cast<std::size_t>(c)};
    if (wants_memory) memory = checked_memory(kOp, mem, step, c);
    if (wants_gates) {
      vector("gate_w", gate_w, {2 * c, c});
      if (gate_w.type != ort::kFloat && gate_w.type != ort::kHalf) {
        ort::refuse(kOp, "dtype of gate_w", std::to_string(gate_w.type), "float32 or float16", "cast it");
      }
      if (gate_b.data) vector("gate_b", gate_b, {2 * c});
    }
    const std::int64_t f_dims[] = {batch, rows, c}, out_dims[] = {batch, window ? taps - 1 + rows : taps - 1, c};
    auto* f = static_cast<float*>(ort::output(context, 0, f_dims));
    auto* out = static_cast<float*>(ort::output(context, 1, out_dims));
    const auto size = [](std::int64_t v) { return static_cast<std::size_t>(v); };
    // Per calling thread and growing only: no allocation once the longest pass has been seen.
    thread_local std::vector<float> scratch;
    const std::size_t needed = gated_scratch(size(batch * rows), size(taps), memory);
    if (scratch.size() < needed) scratch.resize(needed);
    static const auto kernel = FARTHING_SELECT(gated_assoc_memory);
    kernel({n.as<float>(), state.as<float>(), conv_w.as<float>(), conv_b.as<float>(), memory, gate_w.data,
            gate_w.type == ort::kHalf, gate_b.as<float>(), f, out, scratch.data(), size(batch), size(rows), size(taps),
            scale, mode, window},
           ort::threads(context));
  }

  static std::string shape(std::initializer_list<std::int64_t> dims) {
    std::string text = "[";
    for (const std::int64_t d : dims) text += (text.size() > 1 ? "," : "") + std::to_string(d);
    return text + "]";
  }

  static void vector(const char* what, const ort::View& view, std::initializer_list<std::int64_t> dims) {
    if (view.data == nullptr) ort::refuse(kOp, what, "missing", shape(dims), "this mode needs it");
    if (view.rank != dims.size() || !std::equal(dims.begin(), dims.end(), view.dims.begin())) {
      ort::refuse(kOp, what, view.shape(), shape(dims), "check which weight is connected");
    }
  }

  std::int64_t taps;
  float scale;
  GamMode mode;
  bool window;
};

struct GatedAssocMemoryOp : ort::Op<GatedAssocMemoryOp, GatedAssocMemoryKernel> {
  static constexpr const char* kName = kOp;
  static constexpr std::array kInputs{ort::kFloat, ort::kFloat, ort::kFloat, ort::kFloat,
                                      ort::kAny,   ort::kAny,   ort::kFloat, ort::kFloat};
  static constexpr std::size_t kRequired = 2;
  static constexpr std::array kOutputs{ort::kFloat, ort::kFloat};
};

ort::Registered<GatedAssocMemoryOp> registered;

}  // namespace
}  // namespace farthing
