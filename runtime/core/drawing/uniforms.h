// Random numbers of drawing: every draw has a number of its own, so no engine, batch or neighbour can change an image.
#pragma once

#include <cstdint>
#include <span>

namespace farthing::drawing {

// Number n under a seed, in [0, 1): the top 24 bits of SplitMix64 (Steele et al. 2014) as a counter, exact in float32.
// runtime/drawing/uniforms.py counts the same way.
inline float uniform(std::uint64_t seed, std::uint64_t n) {
  std::uint64_t x = seed + (n + 1) * 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  x ^= x >> 31;
  return static_cast<float>(x >> 40) * 0x1p-24f;
}

// The numbers of one image, one after the other.
class Stream {
 public:
  explicit Stream(std::uint64_t seed = 0, std::uint64_t taken = 0) : seed_(seed), taken_(taken) {}
  float next() { return uniform(seed_, taken_++); }

 private:
  std::uint64_t seed_, taken_;
};

// The first index whose running sum of `weights`, in ascending order, exceeds u times their total.
inline std::int64_t draw(std::span<const float> weights, float u) {
  double total = 0;
  for (const float weight : weights) total += static_cast<double>(weight);
  const double target = static_cast<double>(u) * total;
  double running = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    running += static_cast<double>(weights[i]);
    if (running > target) return static_cast<std::int64_t>(i);
  }
  return static_cast<std::int64_t>(weights.size()) - 1;
}

}  // namespace farthing::drawing
