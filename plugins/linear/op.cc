// ONNX Runtime face of farthing::Linear. A constant weight is packed once, when the session is made; the file's pages are then
// given back, so that the weights are in memory once. A weight that is computed in the graph is packed at every call.
#include <algorithm>
#include <atomic>

#include "../native/large_pages.h"
#include "../native/ort_op.h"
#include "kernel.h"

namespace farthing {
namespace {

constexpr const char* kOp = "Linear";
constexpr std::size_t kPieceBytes = std::size_t{8} << 20;

// All packed weights of the process. While they are fewer than this, they stay in the L3 of a small processor from step to step.
constexpr std::size_t kCachedBytes = std::size_t{16} << 20;
std::atomic<std::size_t> packed_bytes{0};

struct LinearKernel : ort::Kernel<LinearKernel> {
  std::shared_ptr<void> packed;  // null: the weight is no constant
  std::size_t bytes = 0;         // of packed

  LinearKernel(const LinearKernel&) = delete;
  ~LinearKernel() { packed_bytes -= bytes; }

  explicit LinearKernel(const OrtKernelInfo* info) {
    const ort::View weight = ort::constant_input(info, 1);
    if (weight.data == nullptr || !is_weight(weight)) return;  // compute() says what is wrong with it
    const bool half = weight.type == ort::kHalf;
    const auto n = static_cast<std::size_t>(weight.dim(0)), k = static_cast<std::size_t>(weight.dim(1));
    bytes = linear_panels(n) * linear_panel_bytes(k, half);
    packed = large_pages(bytes);
    packed_bytes += bytes;
    // In pieces, each released before the next is read: at no time is more than a piece in memory twice.
    const std::size_t piece =
        std::max<std::size_t>(kPieceBytes / std::max<std::size_t>(linear_panel_bytes(k, half), 1), 1);
    for (std::size_t begin = 0; begin < linear_panels(n); begin += piece) {
      const std::size_t end = std::min(begin + piece, linear_panels(n));
      pack_linear(weight.data, half, n, k, begin, end, packed.get());
      const std::size_t row = k * (half ? sizeof(std::uint16_t) : sizeof(float));
      const std::size_t last = std::min(end * kLinearPanel, n);
      release_file_pages(static_cast<const std::byte*>(weight.data) + begin * kLinearPanel * row,
                         (last - begin * kLinearPanel) * row);
    }
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
