// Which candidates can be among the best `width`, without ordering all of them. Included by kernel.cc alone, once per instruction set.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>

#include "../native/simd.h"

namespace farthing {
namespace FARTHING_ISA {
namespace {

// How many of value[0..n) reach `least`; value is padded with -Inf to whole vectors.
inline std::size_t reaching(const float* value, std::size_t n, float least) {
  IntVec reached = {};
  const Vec wanted = splat(least);
  for (std::size_t i = 0; i < n; i += kLanes) reached -= load(value + i) >= wanted;
  std::size_t total = 0;
  for (int lane = 0; lane < kLanes; ++lane) total += static_cast<std::size_t>(reached[lane]);
  return total;
}

// A value that more than `width` of value[0..n) reach, and not many more: the rest cannot be among the best width + 1. -Inf for
// n <= width. Needs n finite values, and room for padding behind them. Bisection counts n / kLanes vectors some ten times, where
// nth_element mispredicts a branch for every second value.
inline float leaders_floor(float* value, std::size_t n, std::size_t width) {
  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  for (std::size_t i = n; i % kLanes != 0; ++i) value[i] = kLowest;
  if (n <= width) return kLowest;
  Vec least = splat(value[0]), most = least;
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    least = -maximum(-least, -load(value + i));
    most = maximum(most, load(value + i));
  }
  float low = value[0], high = low;
  for (int lane = 0; lane < kLanes; ++lane) {
    low = std::min(low, least[lane]);
    high = std::max(high, most[lane]);
  }
  for (; i < n; ++i) {
    low = std::min(low, value[i]);
    high = std::max(high, value[i]);
  }
  // `low` is always reached by more than `width`. Ties may keep it from being reached by few; then 24 halvings are enough.
  for (int turn = 0; turn < 24 && low < high; ++turn) {
    const float middle = low * 0.5f + high * 0.5f;
    const std::size_t reached = reaching(value, n, middle);
    (reached > width ? low : high) = middle;
    if (reached > width && reached <= 2 * width) break;
  }
  return low;
}

}  // namespace
}  // namespace FARTHING_ISA
}  // namespace farthing
