// ONNX Runtime face of farthing::AssocMemoryRead.
#include "../native/ort_op.h"
#include "bank.h"
#include "kernel.h"

namespace farthing {
namespace {

constexpr const char* kOp = "AssocMemoryRead";

struct AssocMemoryReadKernel : ort::Kernel<AssocMemoryReadKernel> {
  explicit AssocMemoryReadKernel(const OrtKernelInfo* info)
      : scale(ort::float_attribute(info, "scale", 1.0f)), top_k(ort::int_attribute(info, "top_k", 0)) {
    if (top_k < 0) ort::refuse(kOp, "top_k", std::to_string(top_k), "0 (all) or more", "export again");
    refuse_nonfinite(kOp, info, 1, "mem");
    refuse_nonfinite(kOp, info, 2, "mem_scale");
  }

  void compute(OrtKernelContext* context) {
    const ort::View x = ort::input(context, 0), mem = ort::input(context, 1), step = ort::input(context, 2);
    if (x.rank == 0) ort::refuse(kOp, "x", x.shape(), "[...,C]", "give it at least one dimension");
    if (mem.rank == 2 && x.last() != mem.dim(1)) {
      ort::refuse(kOp, "x", x.shape(), "[...," + std::to_string(mem.dim(1)) + "]", "check which bank is connected");
    }
    const Memory memory = checked_memory(kOp, mem, step, x.last());
    if (top_k < 0 || top_k > mem.dim(0)) {
      ort::refuse(kOp, "top_k", std::to_string(top_k), "0 (all) to " + std::to_string(mem.dim(0)), "export again");
    }
    auto* y = static_cast<float*>(ort::output(context, 0, {x.dims.data(), x.rank}));
    const std::size_t rows = x.elements() / memory.c;
    if (rows == 0) return;
    // Per calling thread and growing only: no allocation once the longest pass has been seen.
    thread_local std::vector<float> scratch;
    const std::size_t needed = memory_scratch(rows, memory.m, memory.c);
    if (scratch.size() < needed) scratch.resize(needed);
    static const auto kernel = FARTHING_SELECT(assoc_memory_read);
    kernel({x.as<float>(), memory, y, scratch.data(), rows, scale, static_cast<std::size_t>(top_k)},
           ort::threads(context));
  }

  float scale;
  std::int64_t top_k;
};

struct AssocMemoryReadOp : ort::Op<AssocMemoryReadOp, AssocMemoryReadKernel> {
  static constexpr const char* kName = kOp;
  static constexpr std::array kInputs{ort::kFloat, ort::kAny, ort::kFloat};
  static constexpr std::size_t kRequired = 2;
  static constexpr std::array kOutputs{ort::kFloat};
};

ort::Registered<AssocMemoryReadOp> registered;

}  // namespace
}  // namespace farthing
