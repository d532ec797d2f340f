// Device half of farthing::TokenSelect: rules, workspace, types and grids. See plugins/cuda/operator.h.
#include <cmath>

#include "../cuda/operator.h"
#include "kernel.cuh"

namespace farthing::cuda {
namespace {

constexpr const char* kOp = "TokenSelect";
constexpr std::int64_t kMostThreads = 1024;  // of the block that picks: 3 tokens a thread at N = 2880

// Where the parts of the workspace begin; `bytes` is the end.
struct Parts {
  std::size_t value, nearest, scale, pool, room, chosen, gram, bytes = 0;

  Parts(const Call& c, SelectMode mode) {
    const auto tokens = static_cast<std::size_t>(c.size("B") * c.size("N"));
    value = add(tokens * sizeof(float));
    nearest = add(tokens * sizeof(float));
    scale = add(tokens * sizeof(float));
    pool = add(tokens * sizeof(int));
    room = add(static_cast<std::size_t>(c.size("B") * pools(c)) * sizeof(int));
    chosen = add(static_cast<std::size_t>(c.size("B") * c.size("k")) * sizeof(int));
    gram = add(mode == SelectMode::topk ? 0 : tokens * static_cast<std::size_t>(c.size("N")) * sizeof(float));
  }
  static std::int64_t pools(const Call& c) { return c.has(3) ? c.size("G") : 1; }

 private:
  std::size_t add(std::size_t size) {
    const std::size_t begin = bytes;
    bytes += (size + 255) / 256 * 256;
    return begin;
  }
};

struct TokenSelect {
  static constexpr const char* kName = kOp;

  static SelectMode mode_of(const Call& c) {
    const std::string& mode = c.attributes->text("mode");
    return mode == "topk" ? SelectMode::topk : mode == "mmr" ? SelectMode::mmr : SelectMode::sads;
  }

  static void rules(const Attributes& a) {
    const std::int64_t k = a.integer("k");
    if (k < 1) refuse(kOp, "k", std::to_string(k), "1 or more", "keep at least one token");
    const float lam = a.real("lam"), epsilon = a.real("epsilon");
    if (!(lam >= 0.0f && lam <= 1.0f)) {
      refuse(kOp, "lam", std::to_string(lam), "0 to 1", "1 is importance alone, 0 diversity alone");
    }
    if (!(epsilon > 0.0f && std::isfinite(epsilon))) {
      refuse(kOp, "epsilon", std::to_string(epsilon), "above 0 and finite", "use 1e-6");
    }
  }

  static void check(const Call& c) {
    const std::int64_t tokens = c.size("N"), k = c.attributes->integer("k");
    if (tokens >= 0 && k > tokens) {
      refuse(kOp, "k", std::to_string(k), "1 to " + std::to_string(tokens) + ", the number of tokens",
             "keep fewer tokens, or drop the node");
    }
    if (tokens >= 1 << 30) refuse(kOp, "N", std::to_string(tokens), "below 2^30", "split the sequence");
    if (c.has(3) && !c.has(2)) {
      refuse(kOp, "group", "absent", "present where quota is", "say which group each token is in, or drop quota");
    }
    if (c.has(3) && c.size("G") == 0) {
      refuse(kOp, "quota", shape_of(c.inputs[3]), "int64 [B,G] with G >= 1", "give one quota a group");
    }
  }

  static std::size_t workspace(const Call& c) { return Parts(c, mode_of(c)).bytes; }

  template <class S, class T>
  static void typed(const Call& c) {
    const SelectMode mode = mode_of(c);
    const Parts at(c, mode);
    auto* base = static_cast<std::byte*>(c.workspace);
    const auto part = [&](auto* type, std::size_t offset) { return reinterpret_cast<decltype(type)>(base + offset); };
    float* value = part(static_cast<float*>(nullptr), at.value);
    float* nearest = part(static_cast<float*>(nullptr), at.nearest);
    float* scale = part(static_cast<float*>(nullptr), at.scale);
    int* pool = part(static_cast<int*>(nullptr), at.pool);
    int* room = part(static_cast<int*>(nullptr), at.room);
    int* chosen = part(static_cast<int*>(nullptr), at.chosen);
    float* gram = part(static_cast<float*>(nullptr), at.gram);

    const std::int64_t batch = c.size("B"), tokens = c.size("N"), width = c.size("D");
    const std::int64_t pools = Parts::pools(c), k = c.attributes->integer("k");
    if (batch == 0) return;
    const auto threads = static_cast<unsigned>(std::min(kMostThreads, ceil_div(tokens, kWarp) * kWarp));
    const auto sequences = static_cast<unsigned>(batch);
    launch(select_begin_kernel<S>, sequences, threads, 32 * sizeof(Key), c.stream, c.in<S>(0), c.in<std::int64_t>(2),
           c.in<std::int64_t>(3), pool, value, nearest, room, tokens, pools, mode, c.attributes->real("epsilon"));
    if (mode != SelectMode::topk) {
      launch(row_scale_kernel<T>, static_cast<unsigned>(batch * tokens), 128u, 32 * sizeof(float), c.stream, c.in<T>(1),
             scale, width);
      const auto tiles = static_cast<unsigned>(ceil_div(tokens, kTile));
      launch(gram_kernel<T>, dim3(tiles, tiles, sequences), static_cast<unsigned>(kTileThreads), kTileShared, c.stream,
             c.in<T>(1), scale, gram, tokens, width);
    }
    launch(select_kernel, sequences, threads, 32 * sizeof(Key), c.stream, gram, pool, value, nearest, room, chosen,
           c.out<std::int64_t>(0), c.out<std::int64_t>(1), tokens, pools, k, mode, c.attributes->real("lam"),
           c.attributes->text("order") == "position");
  }

  static void run(const Call& c) {
    const bool half_scores = c.type(0) == Type::f16, half_feats = c.type(1) == Type::f16;
    if (half_scores) {
      half_feats ? typed<Half, Half>(c) : typed<Half, float>(c);
    } else {
      half_feats ? typed<float, Half>(c) : typed<float, float>(c);
    }
  }
};

Registered<TokenSelect> registered;

}  // namespace
}  // namespace farthing::cuda
