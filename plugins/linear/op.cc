// ONNX Runtime face of farthing::Linear.
#include "../native/ort_op.h"
#include "kernel.h"

namespace farthing {
namespace {

constexpr const char* kOp = "Linear";

struct LinearKernel : ort::Kernel<LinearKernel> {
  explicit LinearKernel(const OrtKernelInfo*) {}

  void compute(OrtKernelContext* context) {
    const ort::View x = ort::input(context, 0), weight = ort::input(context, 1), bias = ort::input(context, 2);
    if (weight.type != ort::kFloat && weight.type != ort::kHalf) {
      ort::refuse(kOp, "dtype of weight", std::to_string(weight.type), "float32 or float16", "cast the weight");
    }
    if (weight.rank != 2) ort::refuse(kOp, "weight", weight.shape(), "[N,K]", "reshape the weight");
    if (x.rank == 0 || x.last() != weight.dim(1)) {
      ort::refuse(kOp, "x", x.shape(), "[...," + std::to_string(weight.dim(1)) + "]",
                  "check which weight is connected");
    }
    if (bias.data && (bias.rank != 1 || bias.dim(0) != weight.dim(0))) {
      ort::refuse(kOp, "bias", bias.shape(), "[" + std::to_string(weight.dim(0)) + "]",
                  "check which bias is connected");
    }
    auto dims = x.dims;
    dims[x.rank - 1] = weight.dim(0);
    auto* y = static_cast<float*>(ort::output(context, 0, {dims.data(), x.rank}));
    const auto k = static_cast<std::size_t>(weight.dim(1)), n = static_cast<std::size_t>(weight.dim(0));
    std::size_t rows = 1;
    for (std::size_t i = 0; i + 1 < x.rank; ++i) rows *= static_cast<std::size_t>(x.dims[i]);
    if (rows == 0 || n == 0) return;
    static const auto kernel = FARTHING_SELECT(linear);
    kernel({x.as<float>(), weight.data, weight.type == ort::kHalf, bias.as<float>(), y, rows, n, k},
           ort::threads(context));
  }
};

struct LinearOp : ort::Op<LinearOp, LinearKernel> {
  static constexpr const char* kName = kOp;
  static constexpr std::array kInputs{ort::kFloat, ort::kAny, ort::kFloat};
  static constexpr std::size_t kRequired = 2;
  static constexpr std::array kOutputs{ort::kFloat};
};

ort::Registered<LinearOp> registered;

}  // namespace
}  // namespace farthing
