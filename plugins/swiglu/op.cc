// ONNX Runtime face of farthing::SwiGLU.
#include "../native/ort_op.h"
#include "kernel.h"

namespace farthing {
namespace {

constexpr const char* kOp = "SwiGLU";

struct SwigluKernel : ort::Kernel<SwigluKernel> {
  explicit SwigluKernel(const OrtKernelInfo*) {}

  void compute(OrtKernelContext* context) {
    const ort::View x = ort::input(context, 0);
    if (x.rank == 0 || x.last() % 2 != 0) {
      ort::refuse(kOp, "gate_up", x.shape(), "an even last dimension", "concatenate gate and up of equal width");
    }
    auto dims = x.dims;
    dims[x.rank - 1] /= 2;
    auto* y = static_cast<float*>(ort::output(context, 0, {dims.data(), x.rank}));
    const std::size_t elements = x.elements();
    if (elements == 0) return;
    const auto width = static_cast<std::size_t>(x.last());
    static const auto kernel = FARTHING_SELECT(swiglu);
    kernel({x.as<float>(), y, elements / width, width / 2}, ort::threads(context));
  }
};

struct SwigluOp : ort::Op<SwigluOp, SwigluKernel> {
  static constexpr const char* kName = kOp;
  static constexpr std::array kInputs{ort::kFloat};
  static constexpr std::size_t kRequired = 1;
  static constexpr std::array kOutputs{ort::kFloat};
};

ort::Registered<SwigluOp> registered;

}  // namespace
}  // namespace farthing
