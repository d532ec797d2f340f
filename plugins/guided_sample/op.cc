// ONNX Runtime face of farthing::GuidedSample.
#include "../native/ort_op.h"
#include "kernel.h"

namespace farthing {
namespace {

constexpr const char* kOp = "GuidedSample";
constexpr std::int64_t kMostIds = 1 << 24;

struct GuidedSampleKernel : ort::Kernel<GuidedSampleKernel> {
  explicit GuidedSampleKernel(const OrtKernelInfo*) {}

  void compute(OrtKernelContext* context) {
    std::array<ort::View, 7> in;
    for (std::size_t i = 0; i < in.size(); ++i) in[i] = ort::input(context, i);
    check(in);
    const ort::View& cond = in[0];
    auto* ids = static_cast<std::int64_t*>(ort::output(context, 0, {cond.dims.data(), 2}));
    auto* probs = static_cast<float*>(ort::output(context, 1, {cond.dims.data(), 3}));
    if (cond.elements() == 0) return;
    const auto size = [](std::int64_t v) { return static_cast<std::size_t>(v); };
    static const auto kernel = FARTHING_SELECT(guided_sample);
    kernel({cond.as<float>(), in[1].as<float>(), in[2].as<float>(), in[3].as<float>(), *in[4].as<float>(),
            *in[5].as<std::int64_t>(), *in[6].as<float>(), ids, probs, size(cond.dim(0)), size(cond.dim(1)),
            size(cond.dim(2))},
           ort::threads(context));
  }

  static void check(const std::array<ort::View, 7>& in) {
    const ort::View &cond = in[0], &uncond = in[1], &scale = in[2], &uniforms = in[3];
    if (cond.rank != 3) ort::refuse(kOp, "cond", cond.shape(), "[B,M,V]", "check its rank");
    if (uncond.rank != 3 || uncond.dims != cond.dims) {
      ort::refuse(kOp, "uncond", uncond.shape(), "the shape of cond, " + cond.shape(), "check what is connected");
    }
    const std::string batch = std::to_string(cond.dim(0)), rows = std::to_string(cond.dim(1));
    if (scale.rank != 1 || scale.dim(0) != cond.dim(0)) {
      ort::refuse(kOp, "scale", scale.shape(), "[" + batch + "]", "give one scale a sequence");
    }
    if (uniforms.rank != 2 || uniforms.dim(0) != cond.dim(0) || uniforms.dim(1) != cond.dim(1)) {
      ort::refuse(kOp, "uniforms", uniforms.shape(), "[" + batch + "," + rows + "]", "give one number a draw");
    }
    constexpr const char* kNames[] = {"temperature", "top_k", "top_p"};
    for (std::size_t i = 0; i < 3; ++i) {
      const ort::View& one = in[4 + i];
      if (one.rank != 1 || one.dim(0) != 1) ort::refuse(kOp, kNames[i], one.shape(), "[1]", "give one number");
    }
    if (cond.dim(2) < 1 || cond.dim(2) >= kMostIds) {
      ort::refuse(kOp, "V", std::to_string(cond.dim(2)), "1 to " + std::to_string(kMostIds - 1), "check the logits");
    }
  }
};

struct GuidedSampleOp : ort::Op<GuidedSampleOp, GuidedSampleKernel> {
  static constexpr const char* kName = kOp;
  static constexpr std::array kInputs{ort::kFloat, ort::kFloat, ort::kFloat, ort::kFloat,
                                      ort::kFloat, ort::kInt64, ort::kFloat};
  static constexpr std::size_t kRequired = 7;
  static constexpr std::array kOutputs{ort::kInt64, ort::kFloat};
  static constexpr std::size_t kRequiredOutputs = 1;
};

ort::Registered<GuidedSampleOp> registered;

}  // namespace
}  // namespace farthing
