// ONNX Runtime face of attention over a cache, of floats or of codes: what CachedAttention and QuantizedCachedAttention share.
//
// A Face has kName, Element (float or std::int8_t) and kernel(), the kernel for this processor. Codes have two inputs more, their scales, behind
// past_len.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "../native/ort_op.h"
#include "args.h"
#include "visible_rows.h"

namespace farthing {

inline constexpr std::int64_t kMaxHeadDim = 512;  // the kernel keeps a block of outputs of this width on the stack

template <class Face>
struct AttentionKernel : ort::Kernel<AttentionKernel<Face>> {
  using T = typename Face::Element;
  static constexpr bool kCodes = !std::is_same_v<T, float>;
  static constexpr std::size_t kBehindLen = 6, kBehindScales = kBehindLen + (kCodes ? 2 : 0);

  explicit AttentionKernel(const OrtKernelInfo* info)
      : heads(ort::int_attribute(info, "num_heads")),
        kv_heads(ort::int_attribute(info, "kv_num_heads")),
        window(ort::int_attribute(info, "window", 0)),
        rotary(ort::int_attribute(info, "rotary_dim", 0)),
        scale(ort::float_attribute(info, "scale")),
        epsilon(ort::float_attribute(info, "epsilon", 1e-6f)) {
    if (heads < 1 || kv_heads < 1 || heads % kv_heads != 0) {
      ort::refuse(Face::kName, "num_heads / kv_num_heads", std::to_string(heads) + " / " + std::to_string(kv_heads),
                  "a whole number", "export again");
    }
    if (window < 0) ort::refuse(Face::kName, "window", std::to_string(window), "0 or more", "export again");
    if constexpr (kCodes) {
      for (std::size_t i = 0; i < 2; ++i) {
        const ort::View constant = ort::constant_input(info, kBehindLen + i);
        if (constant.data) check_positive(constant, kScaleNames[i]);
        constant_scales[i] = constant.data != nullptr;
      }
    }
  }

  void compute(OrtKernelContext* context) {
    const ort::View qkv = ort::input(context, 0), cos = ort::input(context, 1), sin = ort::input(context, 2);
    const ort::View past_k = ort::input(context, 3), past_v = ort::input(context, 4), past_len = ort::input(context, 5);
    const ort::View q_norm = ort::input(context, kBehindScales), k_norm = ort::input(context, kBehindScales + 1);
    const ort::View visible = ort::input(context, kBehindScales + 2);
    check_shapes(qkv, cos, sin, past_k, past_v, past_len, q_norm, k_norm);
    const float* scales[2] = {nullptr, nullptr};
    if constexpr (kCodes) {
      for (std::size_t i = 0; i < 2; ++i) scales[i] = scales_of(ort::input(context, kBehindLen + i), i, past_k);
    }
    if (visible.data) check_visible(visible, qkv);

    const std::int64_t batch = qkv.dim(0), rows = qkv.dim(1), dim = past_k.dim(3), capacity = past_k.dim(2);
    for (std::int64_t b = 0; b < batch; ++b) {
      const std::int64_t past = past_len.as<std::int64_t>()[b];
      if (past < 0 || past > capacity - rows) {  // capacity - rows cannot overflow where past + rows could
        ort::refuse(Face::kName, "past_len + rows", std::to_string(past) + " + " + std::to_string(rows),
                    "0 to " + std::to_string(capacity), "open the bundle with a longer context");
      }
    }
    const std::int64_t y_dims[] = {batch, rows, heads * dim};
    auto* y = static_cast<float*>(ort::output(context, 0, y_dims));
    auto* present_k = static_cast<T*>(ort::output(context, 1, {past_k.dims.data(), 4}));
    auto* present_v = static_cast<T*>(ort::output(context, 2, {past_v.dims.data(), 4}));
    // Per calling thread and growing only: no allocation once the longest pass has been seen.
    thread_local std::vector<float> scratch;
    const auto needed = static_cast<std::size_t>(batch * rows * heads * dim);
    if (scratch.size() < needed) scratch.resize(needed);
    static const auto kernel = Face::kernel();
    const auto size = [](std::int64_t v) { return static_cast<std::size_t>(v); };
    if (needed == 0) {
      if (present_k != past_k.data) std::copy_n(past_k.as<T>(), past_k.elements(), present_k);
      if (present_v != past_v.data) std::copy_n(past_v.as<T>(), past_v.elements(), present_v);
      return;
    }
    kernel({qkv.as<float>(),
            cos.as<float>(),
            sin.as<float>(),
            past_k.as<T>(),
            past_v.as<T>(),
            past_len.as<std::int64_t>(),
            scales[0],
            scales[1],
            q_norm.as<float>(),
            k_norm.as<float>(),
            y,
            present_k,
            present_v,
            visible.as<std::int64_t>(),
            scratch.data(),
            size(batch),
            size(rows),
            size(heads),
            size(kv_heads),
            size(dim),
            size(cos.last()),
            size(capacity),
            size(window),
            visible.data ? size(visible.dim(2)) : 0,
            scale,
            epsilon},
           ort::threads(context));
  }

  void check_shapes(const ort::View& qkv, const ort::View& cos, const ort::View& sin, const ort::View& past_k,
                    const ort::View& past_v, const ort::View& past_len, const ort::View& q_norm,
                    const ort::View& k_norm) const {
    if (past_k.rank != 4 || past_k.dim(1) != kv_heads || past_k.dim(3) > kMaxHeadDim || past_k.dim(3) < 1) {
      ort::refuse(Face::kName, "past_k", past_k.shape(), "[B," + std::to_string(kv_heads) + ",C,dh] with dh <= 512",
                  "check num_heads and the cache");
    }
    if (past_v.rank != 4 || past_v.dims != past_k.dims) {
      ort::refuse(Face::kName, "past_v", past_v.shape(), "the shape of past_k, " + past_k.shape(), "check the cache");
    }
    const std::int64_t dim = past_k.dim(3), width = (heads + 2 * kv_heads) * dim;
    if (qkv.rank != 3 || qkv.dim(0) != past_k.dim(0) || qkv.dim(2) != width) {
      ort::refuse(Face::kName, "qkv", qkv.shape(),
                  "[" + std::to_string(past_k.dim(0)) + ",S," + std::to_string(width) + "]",
                  "check num_heads and the qkv linear");
    }
    const std::int64_t half = rotary ? rotary / 2 : dim / 2;
    if (cos.rank != 3 || cos.dim(0) != qkv.dim(0) || cos.dim(1) != qkv.dim(1) || cos.dim(2) != half || 2 * half > dim) {
      ort::refuse(Face::kName, "cos", cos.shape(), "[B,S," + std::to_string(half) + "] as in qkv " + qkv.shape(),
                  "check positions and rotary_dim");
    }
    if (sin.rank != 3 || sin.dims != cos.dims) {
      ort::refuse(Face::kName, "sin", sin.shape(), "the shape of cos, " + cos.shape(), "check positions");
    }
    if (past_len.rank != 1 || past_len.dim(0) != qkv.dim(0)) {
      ort::refuse(Face::kName, "past_len", past_len.shape(), "[" + std::to_string(qkv.dim(0)) + "]",
                  "give one length a sequence");
    }
    if ((q_norm.data != nullptr) != (k_norm.data != nullptr)) {
      ort::refuse(Face::kName, "q_norm and k_norm", "one of the two", "both or none", "export again");
    }
    for (const ort::View* norm : {&q_norm, &k_norm}) {
      if (norm->data && (norm->rank != 1 || norm->dim(0) != dim)) {
        ort::refuse(Face::kName, "head norm", norm->shape(), "[" + std::to_string(dim) + "]", "export again");
      }
    }
  }

  const float* scales_of(const ort::View& scales, std::size_t which, const ort::View& past_k) const {
    if (scales.rank != 2 || scales.dim(0) != kv_heads || scales.dim(1) != past_k.dim(3)) {
      ort::refuse(
          Face::kName, kScaleNames[which], scales.shape(),
          "[" + std::to_string(kv_heads) + "," + std::to_string(past_k.dim(3)) + "] as in past_k " + past_k.shape(),
          "quantize again");
    }
    if (!constant_scales[which]) check_positive(scales, kScaleNames[which]);
    return scales.as<float>();
  }

  static void check_positive(const ort::View& scales, const char* name) {
    const float* values = scales.as<float>();
    if (!std::all_of(values, values + scales.elements(), [](float x) { return x > 0; })) {  // NaN is refused, too
      ort::refuse(Face::kName, name, "not above 0 everywhere", "positive numbers", "quantize again");
    }
  }

  static void check_visible(const ort::View& visible, const ort::View& qkv) {
    const std::int64_t batch = qkv.dim(0), rows = qkv.dim(1), words = (rows + 63) / 64;
    const auto text = [](std::int64_t n) { return std::to_string(n); };
    if (visible.rank != 3 || visible.dim(0) != batch || visible.dim(1) != rows || visible.dim(2) != words) {
      ort::refuse(Face::kName, "visible", visible.shape(),
                  "[" + text(batch) + "," + text(rows) + "," + text(words) + "]", "give 64 rows a word");
    }
    for (std::int64_t i = 0; i < batch * rows; ++i) {
      const VisibleRows sees(visible.as<std::int64_t>() + i * words, static_cast<std::size_t>(words));
      const std::int64_t row = i % rows;
      const auto name = [&] { return "visible[" + text(i / rows) + "," + text(row) + "]"; };
      if (sees.exceeds(static_cast<std::size_t>(rows))) {
        ort::refuse(Face::kName, name(), "a set with rows beyond the pass", "rows 0 to " + text(rows - 1),
                    "clear the bits behind them");
      }
      if (!sees.has(static_cast<std::size_t>(row))) {
        ort::refuse(Face::kName, name(), "a set without row " + text(row), "it inside", "a row sees itself");
      }
    }
  }

  static constexpr const char* kScaleNames[] = {"k_scale", "v_scale"};
  std::int64_t heads, kv_heads, window, rotary;
  float scale, epsilon;
  bool constant_scales[2] = {false, false};  // checked once
};

}  // namespace farthing
