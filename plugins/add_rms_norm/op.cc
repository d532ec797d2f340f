// ONNX Runtime face of farthing::AddRMSNorm.
#include "../native/ort_op.h"
#include "kernel.h"

namespace farthing {
namespace {

constexpr const char* kOp = "AddRMSNorm";

struct AddRmsNormKernel : ort::Kernel<AddRmsNormKernel> {
  explicit AddRmsNormKernel(const OrtKernelInfo* info) : epsilon(ort::float_attribute(info, "epsilon", 1e-5f)) {}

  void compute(OrtKernelContext* context) {
    const ort::View x = ort::input(context, 0), residual = ort::input(context, 1), weight = ort::input(context, 2);
    if (x.rank == 0 || residual.rank != x.rank || residual.dims != x.dims) {
      ort::refuse(kOp, "residual", residual.shape(), "the shape of x, " + x.shape(), "check what is connected");
    }
    if (weight.rank != 1 || weight.dim(0) != x.last()) {
      ort::refuse(kOp, "weight", weight.shape(), "[" + std::to_string(x.last()) + "]", "check which norm is connected");
    }
    auto* normed = static_cast<float*>(ort::output(context, 0, {x.dims.data(), x.rank}));
    auto* total = static_cast<float*>(ort::output(context, 1, {x.dims.data(), x.rank}));
    const std::size_t elements = x.elements();
    if (elements == 0) return;
    const auto width = static_cast<std::size_t>(x.last());
    static const auto kernel = FARTHING_SELECT(add_rms_norm);
    kernel({x.as<float>(), residual.as<float>(), weight.as<float>(), normed, total, elements / width, width, epsilon},
           ort::threads(context));
  }

  float epsilon;
};

struct AddRmsNormOp : ort::Op<AddRmsNormOp, AddRmsNormKernel> {
  static constexpr const char* kName = kOp;
  static constexpr std::array kInputs{ort::kFloat, ort::kFloat, ort::kFloat};
  static constexpr std::size_t kRequired = 3;
  static constexpr std::array kOutputs{ort::kFloat, ort::kFloat};
};

ort::Registered<AddRmsNormOp> registered;

}  // namespace
}  // namespace farthing
