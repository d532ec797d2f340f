// Device half of farthing::SimPrune: rules, workspace, types and grids. See plugins/cuda/operator.h.
#include <cmath>
#include <cstddef>

#include "../cuda/operator.h"
#include "kernel.cuh"

namespace farthing::cuda {
namespace {

constexpr const char* kOp = "SimPrune";
constexpr std::int64_t kThreads = 128;

Map map_of(const Attributes& a) {
  const auto side = [&](const char* name) { return static_cast<int>(a.integer(name)); };
  return {side("height"), side("width"), side("patch_height"), side("patch_width")};
}

// Hands out pieces of the workspace, each aligned to 256 bytes; from nullptr it counts.
struct Pieces {
  std::byte* base;
  std::size_t used = 0;

  template <class T>
  T* take(std::int64_t count) {
    T* piece = base ? reinterpret_cast<T*>(base + used) : nullptr;
    used += (static_cast<std::size_t>(count) * sizeof(T) + 255) / 256 * 256;
    return piece;
  }
};

struct Workspace {
  Key* best;
  float *scale, *score, *total;
  int *base, *kept, *gone, *rank;
  unsigned char *is_base, *pruned;
  std::size_t bytes;

  explicit Workspace(const Call& c) {
    Pieces pieces{static_cast<std::byte*>(c.workspace)};
    const std::int64_t batch = c.size("B"), tokens = batch * map_of(*c.attributes).tokens();
    best = pieces.take<Key>(tokens);
    scale = pieces.take<float>(tokens);
    score = pieces.take<float>(tokens);
    total = pieces.take<float>(batch * c.size("C"));
    for (int** list : {&base, &kept, &gone, &rank}) *list = pieces.take<int>(tokens);
    is_base = pieces.take<unsigned char>(tokens);
    pruned = pieces.take<unsigned char>(tokens);
    bytes = pieces.used;
  }
};

struct SimPrune {
  static constexpr const char* kName = kOp;

  static void rules(const Attributes& a) {
    for (const char* name : {"height", "width", "patch_height", "patch_width"}) {
      const std::int64_t size = a.integer(name);
      if (size < 1 || size > 1 << 15) {
        refuse(kOp, name, std::to_string(size), "1 or more", "give the shape of the feature map");
      }
    }
    const Map map = map_of(a);
    fits("patch_height", map.patch_height, map.height);
    fits("patch_width", map.patch_width, map.width);
    const std::int64_t prune = a.integer("prune"), others = map.tokens() - map.bases();
    if (prune < 1 || prune > others) {
      refuse(kOp, "prune", std::to_string(prune), "1 to " + std::to_string(others) + ", all but the base tokens",
             "prune less, or leave the node out for 0");
    }
    for (const char* name : {"beta", "alpha"}) {
      if (std::isfinite(a.real(name))) continue;
      refuse(kOp, name, std::to_string(a.real(name)), "a finite number", "the paper has beta 1 and alpha 0.1");
    }
  }

  static void fits(const char* name, int patch, int side) {
    if (patch <= side) return;
    refuse(kOp, name, std::to_string(patch), "1 to " + std::to_string(side), "a map needs at least one whole patch");
  }

  static std::size_t workspace(const Call& c) { return Workspace(c).bytes; }

  template <class S, class T>
  static void typed(const Call& c) {
    const Workspace w(c);
    const Map map = map_of(*c.attributes);
    const std::int64_t batch = c.size("B"), tokens = map.tokens(), width = c.size("C");
    const std::int64_t prune = c.attributes->integer("prune"), keeping = tokens - prune;
    if (batch == 0) return;
    const auto rows = static_cast<unsigned>(batch * tokens), sequences = static_cast<unsigned>(batch);
    const dim3 each(static_cast<unsigned>(ceil_div(tokens, kThreads)), sequences);
    const auto tiles = [&](std::int64_t count) {
      return dim3(static_cast<unsigned>(ceil_div(count, kTile)), sequences);
    };
    const auto threads = static_cast<unsigned>(kThreads);
    const std::size_t near_shared = kTile * sizeof(Key) + kTileShared;
    const T* x = c.in<T>(0);
    launch(row_scale_kernel<T>, rows, threads, 32 * sizeof(float), c.stream, x, w.scale, width);
    launch(unit_sum_kernel<T>, dim3(static_cast<unsigned>(ceil_div(width, kThreads)), sequences), threads, 0, c.stream,
           x, w.scale, w.total, tokens, width);
    launch(prune_score_kernel<S, T>, rows, threads, 32 * sizeof(float), c.stream, x, w.scale, w.total, c.in<S>(1),
           w.score, tokens, width, c.attributes->real("beta"), c.attributes->real("alpha"));
    launch(choose_bases_kernel, each, threads, 0, c.stream, w.score, w.base, w.is_base, map);
    launch(nearest_kernel<T>, tiles(tokens), static_cast<unsigned>(kTileThreads), near_shared, c.stream, x, w.scale,
           static_cast<const int*>(nullptr), tokens, w.base, map.bases(), w.best, tokens, width);
    launch(choose_pruned_kernel, each, threads, 0, c.stream, w.best, w.is_base, w.pruned, tokens, prune);
    launch(list_kernel, each, threads, 0, c.stream, w.pruned, w.kept, w.gone, w.rank, c.out<std::int64_t>(0), tokens,
           prune);
    if (c.out<std::int64_t>(1) == nullptr) return;
    launch(nearest_kernel<T>, tiles(prune), static_cast<unsigned>(kTileThreads), near_shared, c.stream, x, w.scale,
           w.gone, prune, w.kept, keeping, w.best, tokens, width);
    launch(source_kernel, each, threads, 0, c.stream, w.best, w.pruned, w.rank, c.out<std::int64_t>(1), tokens);
  }

  static void run(const Call& c) {
    const bool half_noise = c.type(1) == Type::f16, half_x = c.type(0) == Type::f16;
    if (half_noise) {
      half_x ? typed<Half, Half>(c) : typed<Half, float>(c);
    } else {
      half_x ? typed<float, Half>(c) : typed<float, float>(c);
    }
  }
};

Registered<SimPrune> registered;

}  // namespace
}  // namespace farthing::cuda
