// ONNX Runtime face of farthing::TokenSelect.
#include <algorithm>
#include <cmath>

#include "../native/ort_op.h"
#include "../native/scratch.h"
#include "kernel.h"

namespace farthing {
namespace {

constexpr const char* kOp = "TokenSelect";

SelectMode mode_of(const std::string& name) {
  if (name == "topk") return SelectMode::topk;
  if (name == "mmr") return SelectMode::mmr;
  if (name == "sads") return SelectMode::sads;
  ort::refuse(kOp, "mode", "'" + name + "'", "topk or mmr or sads", "choose one of them");
}

struct TokenSelectKernel : ort::Kernel<TokenSelectKernel> {
  explicit TokenSelectKernel(const OrtKernelInfo* info)
      : k(ort::int_attribute(info, "k")),
        mode(mode_of(ort::string_attribute(info, "mode"))),
        lam(ort::float_attribute(info, "lam", 0.5f)),
        epsilon(ort::float_attribute(info, "epsilon", 1e-6f)) {
    if (k < 1) ort::refuse(kOp, "k", std::to_string(k), "1 or more", "keep at least one token");
    const std::string order = ort::string_attribute(info, "order", "position");
    if (order != "position" && order != "score") {
      ort::refuse(kOp, "order", "'" + order + "'", "position or score", "choose one of them");
    }
    by_position = order == "position";
    if (!(lam >= 0.0f && lam <= 1.0f)) {
      ort::refuse(kOp, "lam", std::to_string(lam), "0 to 1", "1 is importance alone, 0 diversity alone");
    }
    if (!(epsilon > 0.0f && std::isfinite(epsilon))) {
      ort::refuse(kOp, "epsilon", std::to_string(epsilon), "above 0 and finite", "use 1e-6");
    }
  }

  void compute(OrtKernelContext* context) {
    const ort::View scores = ort::input(context, 0), feats = ort::input(context, 1);
    const ort::View group = ort::input(context, 2), quota = ort::input(context, 3);
    check(scores, feats, group, quota);
    const auto size = [](std::int64_t v) { return static_cast<std::size_t>(v); };
    const std::size_t batch = size(scores.dim(0)), n = size(scores.dim(1)), dim = size(feats.dim(2)), keep = size(k);
    const std::size_t groups = quota.data ? size(quota.dim(1)) : 0;
    const std::int64_t dims[] = {scores.dim(0), k};
    auto* index = static_cast<std::int64_t*>(ort::output(context, 0, dims));
    auto* picks = static_cast<std::int64_t*>(ort::output(context, 1, dims));
    static const auto kernel = FARTHING_SELECT(token_select);
    static const auto bytes = FARTHING_SELECT(token_select_scratch);
    // The picks need a place even when nobody asks for them.
    const std::size_t needed = (bytes(n, dim, groups, keep, mode) + 63) / 64 * 64;
    std::byte* memory = scratch<TokenSelectKernel>(needed + (picks ? 0 : keep * sizeof(std::int64_t)));
    const bool half = feats.type == ort::kHalf;
    for (std::size_t b = 0; b < batch; ++b) {
      std::int64_t* chosen = picks ? picks + b * keep : reinterpret_cast<std::int64_t*>(memory + needed);
      kernel({scores.as<float>() + b * n, feats.as<std::byte>() + b * n * dim * (half ? 2 : 4), half,
              group.data ? group.as<std::int64_t>() + b * n : nullptr,
              quota.data ? quota.as<std::int64_t>() + b * groups : nullptr, picks + b * keep, n, dim, groups, keep,
              mode, lam, epsilon, memory},
             ort::threads(context));
      if (index == nullptr) continue;
      std::copy_n(chosen, keep, index + b * keep);
      if (by_position) std::sort(index + b * keep, index + (b + 1) * keep);
    }
  }

  void check(const ort::View& scores, const ort::View& feats, const ort::View& group, const ort::View& quota) const {
    if (scores.rank != 2) ort::refuse(kOp, "scores", scores.shape(), "[B,N]", "give one score a token");
    const std::string rows = std::to_string(scores.dim(0)) + "," + std::to_string(scores.dim(1));
    if (feats.rank != 3 || feats.dim(0) != scores.dim(0) || feats.dim(1) != scores.dim(1)) {
      ort::refuse(kOp, "feats", feats.shape(), "[" + rows + ",D]", "give one row of features a score");
    }
    if (feats.type != ort::kFloat && feats.type != ort::kHalf) {
      ort::refuse(kOp, "dtype of feats", ort::type_name(feats.type), "float32 or float16", "cast the features");
    }
    if (group.data && (group.rank != 2 || group.dim(0) != scores.dim(0) || group.dim(1) != scores.dim(1))) {
      ort::refuse(kOp, "group", group.shape(), "int64 [" + rows + "]", "give one group a token");
    }
    if (quota.data && !group.data) {
      ort::refuse(kOp, "group", "absent", "present where quota is", "say which group each token is in, or drop quota");
    }
    if (quota.data && (quota.rank != 2 || quota.dim(0) != scores.dim(0) || quota.dim(1) < 1)) {
      ort::refuse(kOp, "quota", quota.shape(), "int64 [" + std::to_string(scores.dim(0)) + ",G]",
                  "give one quota a group");
    }
    if (k > scores.dim(1)) {
      ort::refuse(kOp, "k", std::to_string(k), "1 to " + std::to_string(scores.dim(1)) + ", the number of tokens",
                  "keep fewer tokens, or drop the node");
    }
    if (scores.dim(1) > INT32_MAX)
      ort::refuse(kOp, "scores", scores.shape(), "below 2^31 tokens", "split the sequence");
  }

  std::int64_t k;
  SelectMode mode;
  float lam, epsilon;
  bool by_position = true;
};

struct TokenSelectOp : ort::Op<TokenSelectOp, TokenSelectKernel> {
  static constexpr const char* kName = kOp;
  static constexpr std::array kInputs{ort::kFloat, ort::kAny, ort::kInt64, ort::kInt64};
  static constexpr std::size_t kRequired = 2;
  static constexpr std::array kOutputs{ort::kInt64, ort::kInt64};
};

ort::Registered<TokenSelectOp> registered;

}  // namespace
}  // namespace farthing
