// ONNX Runtime face of farthing::Linear. A constant weight is packed once, when the session is made; the file's pages are then
// given back, so that the weights are in memory once. A weight that is computed in the graph is packed at every call.
#include <atomic>

#include "../native/ort_op.h"
#include "kernel.h"
#include "packed.h"

namespace farthing {
namespace {

constexpr const char* kOp = "Linear";

// While all packed weights of the process are fewer than this, they stay in the L3 of a small processor from step to step.
constexpr std::size_t kCachedBytes = std::size_t{16} << 20;
// Never destroyed: sessions may outlive this library's statics.
PackedWeights& packed_weights = *new PackedWeights;
std::atomic<std::size_t> packed_bytes{0};

struct LinearKernel : ort::Kernel<LinearKernel> {
  std::shared_ptr<const void> packed;  // null: the weight is no constant

  LinearKernel(const LinearKernel&) = delete;
  ~LinearKernel() {
    packed.reset();
    packed_bytes = packed_weights.bytes();
  }

  explicit LinearKernel(const OrtKernelInfo* info) {
    const ort::View weight = ort::constant_input(info, 1);
    if (weight.data == nullptr || !is_weight(weight)) return;  // compute() says what is wrong with it
    const auto n = static_cast<std::size_t>(weight.dim(0)), k = static_cast<std::size_t>(weight.dim(1));
    packed = packed_weights.pack(weight.data, weight.type == ort::kHalf, n, k);
    packed_bytes = packed_weights.bytes();
  }

  static bool is_weight(const ort::View& weight) {
    return weight.rank == 2 && (weight.type == ort::kFloat || weight.type == ort::kHalf);
  }

  // The packed weight of this call: ours, or one made in scratch memory that each thread keeps.
  const void* panels(const ort::View& weight, bool half, std::size_t n, std::size_t k) const {
    if (packed) return packed.get();
    static thread_local std::vector<std::max_align_t> scratch;
    scratch.resize(linear_panels(n) * linear_panel_bytes(k, half) / sizeof(std::max_align_t) + 1);
    pack_linear(weight.data, half, n, k, 0, linear_panels(n), scratch.data());
    return scratch.data();
  }

  void compute(OrtKernelContext* context) {
    const ort::View x = ort::input(context, 0), weight = ort::input(context, 1), bias = ort::input(context, 2);
    if (weight.type != ort::kFloat && weight.type != ort::kHalf) {
      ort::refuse(kOp, "dtype of weight", ort::type_name(weight.type), "float32 or float16", "cast the weight");
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
    const bool half = weight.type == ort::kHalf;
    const bool cached = packed_bytes.load(std::memory_order_relaxed) <= kCachedBytes;
    kernel({x.as<float>(), panels(weight, half, n, k), half, bias.as<float>(), y, rows, n, k, cached},
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
