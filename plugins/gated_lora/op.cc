// ONNX Runtime face of farthing::GatedLora. Constant adapters are packed once, when the session is made. The output may take the
// buffer of `base`, and ONNX Runtime gives it that when nobody else reads base: then rows without the gate cost nothing.
#include <algorithm>
#include <cmath>

#include "../linear/kernel.h"
#include "../native/large_pages.h"
#include "../native/ort_op.h"
#include "kernel.h"

namespace farthing {
namespace {

constexpr const char* kOp = "GatedLora";

bool is_weight(const ort::View& weight) {
  return weight.rank == 2 && weight.dim(0) > 0 && (weight.type == ort::kFloat || weight.type == ort::kHalf);
}

// Bytes of a packed weight [n, k].
std::size_t packed_bytes(const ort::View& weight) {
  return linear_panels(static_cast<std::size_t>(weight.dim(0))) *
         linear_panel_bytes(static_cast<std::size_t>(weight.dim(1)), weight.type == ort::kHalf);
}

void pack(const ort::View& weight, void* panels) {
  const auto n = static_cast<std::size_t>(weight.dim(0)), k = static_cast<std::size_t>(weight.dim(1));
  pack_linear(weight.data, weight.type == ort::kHalf, n, k, 0, linear_panels(n), panels);
}

struct GatedLoraKernel : ort::Kernel<GatedLoraKernel> {
  float scale;
  std::shared_ptr<void> packed[2];  // a and b; null: no constant

  explicit GatedLoraKernel(const OrtKernelInfo* info) : scale(ort::float_attribute(info, "scale")) {
    if (!std::isfinite(scale)) {
      ort::refuse(kOp, "scale", std::to_string(scale), "a finite number", "give alpha / rank");
    }
    for (std::size_t i = 0; i < 2; ++i) {
      const ort::View weight = ort::constant_input(info, 2 + i);
      if (weight.data == nullptr || !is_weight(weight)) continue;  // compute() says what is wrong with it
      packed[i] = large_pages(packed_bytes(weight));
      pack(weight, packed[i].get());
    }
  }

  const void* panels(std::size_t i, const ort::View& weight) const {
    if (packed[i]) return packed[i].get();
    static thread_local std::vector<std::max_align_t> scratch[2];
    scratch[i].resize(packed_bytes(weight) / sizeof(std::max_align_t) + 1);
    pack(weight, scratch[i].data());
    return scratch[i].data();
  }

  void compute(OrtKernelContext* context) {
    const ort::View x = ort::input(context, 0), base = ort::input(context, 1), a = ort::input(context, 2),
                    b = ort::input(context, 3), rows = ort::input(context, 4);
    check(x, base, a, b, rows);
    std::size_t total = 1;
    for (std::size_t i = 0; i + 1 < x.rank; ++i) total *= static_cast<std::size_t>(x.dims[i]);
    std::int64_t previous = -1;
    for (std::int64_t i = 0; i < rows.dim(0); ++i) {
      const std::int64_t row = rows.as<std::int64_t>()[i];
      if (row <= previous || row >= static_cast<std::int64_t>(total)) {
        ort::refuse(kOp, "rows", std::to_string(row) + " after " + std::to_string(previous),
                    "ascending numbers from 0 to " + std::to_string(static_cast<std::int64_t>(total) - 1),
                    "give each gated row once");
      }
      previous = row;
    }
    auto* y = static_cast<float*>(ort::output(context, 0, {base.dims.data(), base.rank}));
    const auto count = static_cast<std::size_t>(rows.dim(0)), rank = static_cast<std::size_t>(a.dim(0));
    if (total == 0 || base.last() == 0) return;
    // Per calling thread and growing only: no allocation once the longest pass has been seen.
    static thread_local std::vector<float> hidden;
    if (hidden.size() < gated_lora_hidden(count, rank)) hidden.resize(gated_lora_hidden(count, rank));
    static const auto kernel = FARTHING_SELECT(gated_lora);
    kernel({x.as<float>(), base.as<float>(), panels(0, a), panels(1, b), a.type == ort::kHalf, rows.as<std::int64_t>(),
            y, hidden.data(), total, count, static_cast<std::size_t>(a.dim(1)), static_cast<std::size_t>(b.dim(0)),
            rank, scale},
           ort::threads(context));
  }

  static void check(const ort::View& x, const ort::View& base, const ort::View& a, const ort::View& b,
                    const ort::View& rows) {
    const auto text = [](std::int64_t n) { return std::to_string(n); };
    for (const auto& [name, weight] : {std::pair{"a", &a}, std::pair{"b", &b}}) {
      if (weight->type != ort::kFloat && weight->type != ort::kHalf) {
        ort::refuse(kOp, std::string("dtype of ") + name, ort::type_name(weight->type), "float32 or float16",
                    "cast the adapter");
      }
      if (weight->rank != 2) ort::refuse(kOp, name, weight->shape(), "a matrix", "reshape the adapter");
    }
    if (a.type != b.type) {
      ort::refuse(kOp, "dtype of b", ort::type_name(b.type), std::string("that of a, ") + ort::type_name(a.type),
                  "cast one of them");
    }
    if (a.dim(0) == 0) ort::refuse(kOp, "a", a.shape(), "a rank of 1 or more", "leave the node out instead");
    if (x.rank == 0 || x.last() != a.dim(1)) {
      ort::refuse(kOp, "x", x.shape(), "[...," + text(a.dim(1)) + "]", "check which adapter is connected");
    }
    if (b.dim(1) != a.dim(0)) {
      ort::refuse(kOp, "b", b.shape(), "[N," + text(a.dim(0)) + "]", "check that a and b are of one adapter");
    }
    if (base.rank != x.rank || base.last() != b.dim(0) ||
        !std::equal(x.dims.begin(), x.dims.begin() + x.rank - 1, base.dims.begin())) {
      ort::refuse(kOp, "base", base.shape(),
                  "the shape of x, " + x.shape() + ", with " + text(b.dim(0)) + " at its end",
                  "check which linear is connected");
    }
    if (rows.rank != 1) ort::refuse(kOp, "rows", rows.shape(), "[M]", "give the list of gated rows");
  }
};

struct GatedLoraOp : ort::Op<GatedLoraOp, GatedLoraKernel> {
  static constexpr const char* kName = kOp;
  static constexpr std::array kInputs{ort::kFloat, ort::kFloat, ort::kAny, ort::kAny, ort::kInt64};
  static constexpr std::size_t kRequired = 5;
  static constexpr std::array kOutputs{ort::kFloat};

  GatedLoraOp() {
    OrtCustomOp::GetMayInplace = [](int** input, int** output) -> std::size_t {
      static int base = 1, y = 0;
      *input = &base;
      *output = &y;
      return 1;
    };
    OrtCustomOp::ReleaseMayInplace = [](int*, int*) {};
  }
};

ort::Registered<GatedLoraOp> registered;

}  // namespace
}  // namespace farthing
