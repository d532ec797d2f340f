// ONNX Runtime face of farthing::NearestCode.
#include "../native/ort_op.h"
#include "../native/scratch.h"
#include "kernel.h"

namespace farthing {
namespace {

constexpr const char* kOp = "NearestCode";

struct NearestCodeKernel : ort::Kernel<NearestCodeKernel> {
  explicit NearestCodeKernel(const OrtKernelInfo* info) : normalize(ort::int_attribute(info, "normalize", 0)) {
    if (normalize != 0 && normalize != 1) {
      ort::refuse(kOp, "normalize", std::to_string(normalize), "0 or 1", "1 compares unit vectors");
    }
  }

  void compute(OrtKernelContext* context) {
    const ort::View latents = ort::input(context, 0), table = ort::input(context, 1);
    if (latents.rank != 2) ort::refuse(kOp, "latents", latents.shape(), "[N,E]", "check its rank");
    if (table.rank != 2 || table.dim(1) != latents.dim(1)) {
      ort::refuse(kOp, "table", table.shape(), "[V," + std::to_string(latents.dim(1)) + "]", "check what is connected");
    }
    if (table.dim(0) < 1 || table.dim(0) > INT32_MAX) {
      ort::refuse(kOp, "V", std::to_string(table.dim(0)), "1 to " + std::to_string(INT32_MAX), "check the table");
    }
    auto* codes = static_cast<std::int64_t*>(ort::output(context, 0, {latents.dims.data(), 1}));
    if (latents.dim(0) == 0) return;
    const auto size = [](std::int64_t v) { return static_cast<std::size_t>(v); };
    static const auto kernel = FARTHING_SELECT(nearest_code);
    static const auto bytes = FARTHING_SELECT(nearest_code_scratch);
    std::byte* memory = scratch<NearestCodeKernel>(bytes(size(table.dim(0)), size(table.dim(1))));
    kernel({latents.as<float>(), table.as<float>(), codes, size(latents.dim(0)), size(table.dim(0)), size(table.dim(1)),
            normalize != 0, memory},
           ort::threads(context));
  }

  std::int64_t normalize;
};

struct NearestCodeOp : ort::Op<NearestCodeOp, NearestCodeKernel> {
  static constexpr const char* kName = kOp;
  static constexpr std::array kInputs{ort::kFloat, ort::kFloat};
  static constexpr std::size_t kRequired = 2;
  static constexpr std::array kOutputs{ort::kInt64};
};

ort::Registered<NearestCodeOp> registered;

}  // namespace
}  // namespace farthing
