// A row is a few passes over 64 KiB (V = 16,384) that stay in the second-level cache.
//
// Thresholds are found without sorting, by bisection over the bit patterns of the distances, which order like the distances
// themselves since none is negative: a step counts (top-k) or sums (top-p) what lies below the middle, at the speed of the cache, and the
// search ends as soon as one element is left between the bounds. That is some 20 steps of a microsecond each, where nth_element takes 150 us.
#include "kernel.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "../native/scratch.h"
#include "../native/simd.h"

namespace farthing {
namespace FARTHING_ISA {
namespace {

constexpr std::size_t kBlock = 64;  // rows are padded to this; also the step of the running sum
constexpr float kLargest = std::numeric_limits<float>::max(), kInfinity = std::numeric_limits<float>::infinity();
constexpr float kReach = 87.0f, kNowhere = 128.0f;  // what is farther than kReach weighs nothing and is put at kNowhere
constexpr float kBelowOne = 1.0f - 0x1p-24f;

Vec choose(IntVec which, Vec yes, Vec no) { return (Vec)(((IntVec)yes & which) | ((IntVec)no & ~which)); }

// Keeps the compiler from fusing this product with a sum: logits, and with them ties, are those of the standard operators.
Vec rounded(Vec product) {
#if defined(__AVX512F__)
  asm("" : "+v"(product));
#elif defined(__x86_64__)
  asm("" : "+x"(product));
#elif defined(__aarch64__)
  asm("" : "+w"(product));
#endif
  return product;
}

// One row at work: `away` and `weight` have `padded` elements each, `running` one a block.
struct Row {
  std::size_t size, padded;
  float *away, *weight;
  double* running;

  explicit Row(std::size_t n) : size(n), padded((n + kBlock - 1) / kBlock * kBlock) {
    std::byte* memory = scratch<Row>(padded * 2 * sizeof(float) + padded / kBlock * sizeof(double));
    running = reinterpret_cast<double*>(memory);
    away = reinterpret_cast<float*>(running + padded / kBlock);
    weight = away + padded;
  }

  // Leaves the guided logits in `away`, -Inf where they are NaN and behind the end; returns the largest.
  float mix(const float* cond, const float* uncond, float scale) {
    const Vec factor = splat(scale), least = splat(-kInfinity);
    const bool plain = scale == 1.0f;
    const auto mixed = [&](Vec c, Vec u) {
      const Vec value = plain ? c : u + rounded(factor * (c - u));
      return choose(value == value, value, least);
    };
    Vec best = least;
    std::size_t i = 0;
    for (; i + kLanes <= size; i += kLanes) {
      const Vec value = mixed(load(cond + i), load(uncond + i));
      store(away + i, value);
      best = maximum(best, value);
    }
    if (i < size) store(away + i, mixed(load_head(cond + i, size - i), load_head(uncond + i, size - i)));
    std::fill(away + size, away + padded, -kInfinity);
    if (i < size) best = maximum(best, load(away + i));
    return max_lane(best);
  }

  std::size_t first(float value) const { return static_cast<std::size_t>(std::find(away, away + size, value) - away); }

  // Logits become distances from the best.
  void measure(float peak, float temperature) {
    const Vec top = splat(peak), heat = splat(std::min(temperature, kLargest));
    for (std::size_t i = 0; i < padded; i += kLanes) {
      const Vec value = load(away + i);
      const Vec far = choose(value == top, Vec{}, (top - value) / heat);
      store(away + i, choose(far <= splat(kReach), far, splat(kNowhere)));
    }
    std::fill(away + size, away + padded, kNowhere);
  }

  void weigh(float farthest) {
    const Vec limit = splat(farthest);
    for (std::size_t i = 0; i < padded; i += kLanes) {
      const Vec far = load(away + i);
      store(weight + i, choose(far <= limit, exp(-far), Vec{}));
    }
  }

  struct Tally {
    double mass;
    std::int64_t count;
  };

  // How many elements are not beyond the distance with these bits, and if asked their mass: single precision over 16 elements a lane.
  template <bool kMass>
  Tally within(std::int32_t bits) const {
    const IntVec limit = bits - IntVec{};
    IntVec count = {};
    double mass = 0;
    for (std::size_t block = 0; block < padded; block += kBlock) {
      Vec sums = {};
      for (std::size_t i = block; i < block + kBlock; i += kLanes) {
        const IntVec inside = (IntVec)load(away + i) <= limit;
        count -= inside;
        if constexpr (kMass) sums += (Vec)((IntVec)load(weight + i) & inside);
      }
      if constexpr (kMass) mass += sum(sums);
    }
    std::int64_t total = 0;
    for (int lane = 0; lane < kLanes; ++lane) total += count[lane];
    return {kMass ? mass : static_cast<double>(total), total};
  }

  // A distance within which just those lie that the smallest distance with a mass (or count) of `target` has within it.
  template <bool kMass>
  float threshold(double target) const {
    std::int32_t low = -1, high = std::bit_cast<std::int32_t>(kNowhere);
    std::int64_t below = 0, above = static_cast<std::int64_t>(padded);
    while (high - low > 1 && above - below > 1) {
      const std::int32_t middle = low + (high - low) / 2;
      const Tally tally = within<kMass>(middle);
      const bool more = tally.mass < target;
      (more ? low : high) = middle;
      (more ? below : above) = tally.count;
    }
    return std::bit_cast<float>(high);
  }

  // Running sums of the blocks; returns the last, the total.
  double accumulate() {
    double total = 0;
    for (std::size_t block = 0; block < padded / kBlock; ++block) {
      double part[8] = {};
      for (std::size_t i = 0; i < kBlock; i += 8) {
        for (std::size_t j = 0; j < 8; ++j) part[j] += static_cast<double>(weight[block * kBlock + i + j]);
      }
      total += ((part[0] + part[4]) + (part[2] + part[6])) + ((part[1] + part[5]) + (part[3] + part[7]));
      running[block] = total;
    }
    return total;
  }

  // The first element whose running sum exceeds `target`, which is below the total.
  std::size_t draw(double target) const {
    const double* found = std::upper_bound(running, running + padded / kBlock, target);
    double total = found == running ? 0 : found[-1];
    const auto block = static_cast<std::size_t>(found - running) * kBlock;
    std::size_t last = block;
    for (std::size_t i = block; i < block + kBlock; ++i) {
      if (weight[i] == 0.0f) continue;
      last = i;
      total += static_cast<double>(weight[i]);
      if (total > target) break;  // not reached only where the block's sum was rounded up
    }
    return last;
  }

  void normalise(double total, float* probs) const {
    const Vec divisor = splat(static_cast<float>(total));
    std::size_t i = 0;
    for (; i + kLanes <= size; i += kLanes) store(probs + i, load(weight + i) / divisor);
    for (; i < size; ++i) probs[i] = weight[i] / static_cast<float>(total);
  }
};

void sample_row(const GuidedSampleArgs& a, std::size_t index) {
  Row row(a.size);
  const std::size_t at = index * a.size;
  float* probs = a.probs ? a.probs + at : nullptr;
  const float peak = row.mix(a.cond + at, a.uncond + at, a.scale[index / a.rows]);
  if (!(a.temperature > 0.0f)) {
    const std::size_t best = row.first(peak);
    a.ids[index] = static_cast<std::int64_t>(best);
    if (!probs) return;
    std::fill_n(probs, a.size, 0.0f);
    probs[best] = 1.0f;
    return;
  }
  row.measure(peak, a.temperature);
  const bool ranked = a.top_k > 0 && static_cast<std::uint64_t>(a.top_k) < a.size;
  row.weigh(ranked ? row.threshold<false>(static_cast<double>(a.top_k)) : kNowhere);
  if (a.top_p < 1.0f) {
    const double all = row.within<true>(std::bit_cast<std::int32_t>(kNowhere)).mass;
    const float farthest = row.threshold<true>(static_cast<double>(std::max(a.top_p, 0.0f)) * all);
    for (std::size_t i = 0; i < row.padded; i += kLanes) {
      store(row.weight + i, choose(load(row.away + i) <= splat(farthest), load(row.weight + i), Vec{}));
    }
  }
  const double total = row.accumulate();
  const float u = a.uniforms[index];
  a.ids[index] =
      static_cast<std::int64_t>(row.draw(total * static_cast<double>(u > 0.0f ? std::min(u, kBelowOne) : 0.0f)));
  if (probs) row.normalise(total, probs);
}

}  // namespace

void guided_sample(const GuidedSampleArgs& args, const Parallel& parallel) {
  parallel(args.batch * args.rows, [&](std::size_t index) { sample_row(args, index); });
}

}  // namespace FARTHING_ISA
}  // namespace farthing
