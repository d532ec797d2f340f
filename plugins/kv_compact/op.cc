// ONNX Runtime face of farthing::KvCompact.
#include "../native/ort_op.h"
#include "kernel.h"

namespace farthing {
namespace {

constexpr const char* kOp = "KvCompact";

struct KvCompactKernel : ort::Kernel<KvCompactKernel> {
  explicit KvCompactKernel(const OrtKernelInfo*) {}

  void compute(OrtKernelContext* context) {
    const ort::View past_k = ort::input(context, 0), past_v = ort::input(context, 1), past_len = ort::input(context, 2),
                    rows = ort::input(context, 3), count = ort::input(context, 4);
    check_shapes(past_k, past_v, past_len, rows, count);
    check_values(past_k, past_len, rows, count);
    auto* present_k = static_cast<float*>(ort::output(context, 0, {past_k.dims.data(), 4}));
    auto* present_v = static_cast<float*>(ort::output(context, 1, {past_v.dims.data(), 4}));
    if (past_k.elements() == 0) return;
    const auto size = [](std::int64_t v) { return static_cast<std::size_t>(v); };
    static const auto kernel = FARTHING_SELECT(kv_compact);
    kernel({past_k.as<float>(), past_v.as<float>(), past_len.as<std::int64_t>(), rows.as<std::int64_t>(),
            count.as<std::int64_t>(), present_k, present_v, size(past_k.dim(0)), size(past_k.dim(1)),
            size(past_k.dim(2)), size(past_k.dim(3)), size(rows.dim(1))},
           ort::threads(context));
  }

  static void check_shapes(const ort::View& past_k, const ort::View& past_v, const ort::View& past_len,
                           const ort::View& rows, const ort::View& count) {
    if (past_k.rank != 4) ort::refuse(kOp, "past_k", past_k.shape(), "[B,Hkv,C,dh]", "check the cache");
    if (past_v.rank != 4 || past_v.dims != past_k.dims) {
      ort::refuse(kOp, "past_v", past_v.shape(), "the shape of past_k, " + past_k.shape(), "check the cache");
    }
    const std::string batch = std::to_string(past_k.dim(0));
    if (past_len.rank != 1 || past_len.dim(0) != past_k.dim(0)) {
      ort::refuse(kOp, "past_len", past_len.shape(), "[" + batch + "]", "give one length a sequence");
    }
    if (rows.rank != 2 || rows.dim(0) != past_k.dim(0)) {
      ort::refuse(kOp, "rows", rows.shape(), "[" + batch + ",N]", "give one list a sequence");
    }
    if (count.rank != 1 || count.dim(0) != past_k.dim(0)) {
      ort::refuse(kOp, "count", count.shape(), "[" + batch + "]", "give one number a sequence");
    }
  }

  static void check_values(const ort::View& past_k, const ort::View& past_len, const ort::View& rows,
                           const ort::View& count) {
    const auto text = [](std::int64_t n) { return std::to_string(n); };
    const std::int64_t capacity = past_k.dim(2), listed = rows.dim(1);
    for (std::int64_t b = 0; b < past_k.dim(0); ++b) {
      const std::int64_t past = past_len.as<std::int64_t>()[b], n = count.as<std::int64_t>()[b];
      if (past < 0 || past > capacity - listed) {
        ort::refuse(kOp, "past_len + rows", text(past) + " + " + text(listed), "0 to " + text(capacity),
                    "give rows of the last pass only");
      }
      if (n < 0 || n > listed) ort::refuse(kOp, "count", text(n), "0 to " + text(listed), "count the accepted rows");
      for (std::int64_t t = 0; t < n; ++t) {
        const std::int64_t row = rows.as<std::int64_t>()[b * listed + t];
        if (row < t || row >= capacity - past) {
          ort::refuse(kOp, "row " + text(t), text(row), text(t) + " to " + text(capacity - past - 1),
                      "list the accepted rows in ascending order");
        }
      }
    }
  }
};

struct KvCompactOp : ort::Op<KvCompactOp, KvCompactKernel> {
  static constexpr const char* kName = kOp;
  static constexpr std::array kInputs{ort::kFloat, ort::kFloat, ort::kInt64, ort::kInt64, ort::kInt64};
  static constexpr std::size_t kRequired = 5;
  static constexpr std::array kOutputs{ort::kFloat, ort::kFloat};
};

ort::Registered<KvCompactOp> registered;

}  // namespace
}  // namespace farthing
