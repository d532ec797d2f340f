// Device half of attention over a cache: rules, workspace, grids. See plugins/cuda/operator.h.
//
// kCodes: the cache is of codes, whose scales are two inputs behind past_len.
#pragma once

#include "../cuda/operator.h"
#include "kernel.cuh"

namespace farthing::cuda {

inline constexpr std::int64_t kPlaceThreads = 128;

template <class Derived, bool kCodes>
struct AttentionLaunch {
  static constexpr std::size_t kScales = 6, kNorms = kScales + (kCodes ? 2 : 0), kVisible = kNorms + 2;

  static void rules(const Attributes& a) {
    const std::int64_t heads = a.integer("num_heads"), kv_heads = a.integer("kv_num_heads"),
                       window = a.integer("window");
    if (heads < 1 || kv_heads < 1 || heads % kv_heads) {
      refuse(Derived::kName, "num_heads / kv_num_heads", std::to_string(heads) + " / " + std::to_string(kv_heads),
             "a whole number", "export again");
    }
    if (window < 0) refuse(Derived::kName, "window", std::to_string(window), "0 or more", "export again");
  }

  static void check(const Call& c) {
    const std::int64_t dim = c.size("dh"), rotary = c.attributes->integer("rotary_dim"), half = c.size("half");
    if (dim < 0 || half < 0) return;  // not known yet
    const std::int64_t wanted = rotary ? rotary / 2 : dim / 2;
    if (half != wanted || 2 * half > dim) {
      refuse(Derived::kName, "cos", shape_of(c.inputs[1]), "[B,S," + std::to_string(wanted) + "]",
             "check positions and rotary_dim");
    }
    if (c.has(kVisible) && c.size("W") >= 0 && c.size("W") != ceil_div(c.size("S"), 64)) {
      refuse(Derived::kName, "visible", shape_of(c.inputs[kVisible]),
             "[B,S," + std::to_string(ceil_div(c.size("S"), 64)) + "]", "give 64 rows a word");
    }
    if (dim > kMostDim)
      refuse(Derived::kName, "past_k", shape_of(c.inputs[3]), "dh <= 512", "use the body for such heads");
    if (c.has(kNorms) != c.has(kNorms + 1))
      refuse(Derived::kName, "q_norm and k_norm", "one of the two", "both or none", "export again");
  }

  static std::size_t workspace(const Call& c) {
    return static_cast<std::size_t>(c.size("B") * c.size("S") * c.size("H") * c.size("dh")) * sizeof(float);
  }

  template <class T>
  static void typed(const Call& c) {
    using C = std::conditional_t<kCodes, Code, T>;
    const std::int64_t batch = c.size("B"), capacity = c.size("C"), dim = c.size("dh");
    const AttentionShape s{c.size("S"),
                           c.size("H"),
                           c.size("Hkv"),
                           dim,
                           c.size("half"),
                           capacity,
                           c.attributes->integer("window"),
                           c.has(kVisible) ? c.size("W") : 0,
                           c.attributes->real("scale"),
                           c.attributes->real("epsilon")};
    const auto cache = static_cast<std::size_t>(batch * s.kv_heads * capacity * dim) * sizeof(C);
    copy(c.out<C>(1), c.in<C>(3), cache, c.stream);
    copy(c.out<C>(2), c.in<C>(4), cache, c.stream);
    const T *k_scale = kCodes ? c.in<T>(kScales) : nullptr, *v_scale = kCodes ? c.in<T>(kScales + 1) : nullptr;
    const auto size = [](std::int64_t n) { return static_cast<unsigned>(n); };
    auto* queries = static_cast<float*>(c.workspace);
    launch(attention_place_kernel<T, C>, dim3(size(batch * s.rows), size(s.heads + 2 * s.kv_heads)),
           size(std::min(kPlaceThreads, ceil_div(dim, kWarp) * kWarp)), kWarp * sizeof(float), c.stream, c.in<T>(0),
           c.in<T>(1), c.in<T>(2), c.in<std::int64_t>(5), k_scale, v_scale, c.in<T>(kNorms), c.in<T>(kNorms + 1),
           c.out<C>(1), c.out<C>(2), queries, s);
    const std::int64_t stacks = ceil_div(s.rows * (s.heads / s.kv_heads), kStack);
    launch(attention_attend_kernel<T, C>, dim3(size(stacks), size(s.kv_heads), size(batch)), kAttendThreads,
           kAttendShared, c.stream, queries, c.out<C>(1), c.out<C>(2), c.in<std::int64_t>(5),
           c.in<std::int64_t>(kVisible), v_scale, c.out<T>(0), s);
  }

  static void run(const Call& c) { c.type(0) == Type::f16 ? typed<Half>(c) : typed<float>(c); }
};

}  // namespace farthing::cuda
