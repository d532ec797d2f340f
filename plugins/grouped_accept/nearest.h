// The codes around x in the order of p, without sorting. Included by kernel.cc alone, once per instruction set.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "../native/simd.h"

namespace farthing {
namespace FARTHING_ISA {
namespace {

inline float positive(float x) { return x > 0 ? x : 0.0f; }

// The `most` smallest of the keys that are pushed, in `keys` with room for capacity(most). A full buffer is halved by
// selection, so that a push costs O(1) on average.
struct Smallest {
  std::uint64_t* keys;
  std::size_t most, size = 0;
  std::uint64_t bound = ~std::uint64_t{0};

  static std::size_t capacity(std::size_t most) { return most == 0 ? 0 : most + std::max<std::size_t>(most, 8); }

  // True when the bound has fallen.
  bool push(std::uint64_t key) {
    if (most == 0 || key > bound) return false;
    keys[size++] = key;
    if (size < capacity(most)) return false;
    select();
    bound = keys[most - 1];
    return true;
  }
  // Leaves the smallest `most` in front, the largest of them last.
  void select() {
    if (size <= most) return;
    std::nth_element(keys, keys + most - 1, keys + size);
    size = most;
  }
};

// One bit a lane of a comparison's result.
inline unsigned bits_of(IntVec mask) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask((__m512i)mask);
#elif defined(__AVX2__)
  return static_cast<unsigned>(_mm256_movemask_ps((__m256)mask));
#else
  unsigned bits = 0;
  for (int i = 0; i < kLanes; ++i) bits |= static_cast<unsigned>(mask[i] & 1) << i;
  return bits;
#endif
}

inline bool any_of(IntVec mask) {
#if defined(__AVX2__)
  return bits_of(mask) != 0;
#else
  const auto halves = __builtin_bit_cast(std::array<std::uint64_t, 2>, mask);
  return (halves[0] | halves[1]) != 0;
#endif
}

inline std::size_t side_of(std::size_t codes, std::size_t size) { return std::min(size, codes); }

// Keys that nearest_by_rank() needs.
inline std::size_t group_scratch(std::size_t codes, std::size_t group_size) {
  const std::size_t before = group_size / 2;
  return Smallest::capacity(side_of(codes, before)) + Smallest::capacity(side_of(codes, group_size - 1 - before)) + 1;
}

// Writes the codes of the `group_size` ranks around x to `memory`, x itself left out, in no order; returns how many. Rank 0 is the largest
// of row [codes], the lower index before its equals; NaN and negative numbers count as 0.
inline std::size_t nearest_by_rank(const float* row, std::size_t codes, std::size_t x, std::size_t group_size,
                                   std::uint64_t* memory) {
  const std::size_t half = group_size / 2;
  // Before x the nearest are the smallest, and among equals the last; behind x the largest, and among equals the first.
  Smallest before{memory, side_of(codes, half)};
  Smallest after{memory + Smallest::capacity(before.most), side_of(codes, group_size - 1 - half)};
  const float own = positive(row[x]);
  // What may still be near enough lies above `low` and not above `high`. Going up, an equal of the last kept is nearer before x,
  // and farther behind it.
  float low = after.most || own == 0.0f ? -1.0f : std::nextafter(own, -1.0f);
  float high = before.most ? std::numeric_limits<float>::infinity() : own;
  const auto look = [&](std::size_t c, float value) {
    if (c == x) return;
    const std::uint64_t order = std::bit_cast<std::uint32_t>(value);
    if (value > own || (value == own && c < x)) {
      if (before.push(order << 32 | (0xffffffffu - static_cast<std::uint32_t>(c)))) {
        high = std::bit_cast<float>(static_cast<std::uint32_t>(before.bound >> 32));
      }
    } else if (after.push((0xffffffffu - order) << 32 | c)) {
      low = std::bit_cast<float>(0xffffffffu - static_cast<std::uint32_t>(after.bound >> 32));
    }
  };
  std::size_t c = 0;
  constexpr std::size_t kVectors = 4;
  for (; c + kVectors * kLanes <= codes; c += kVectors * kLanes) {
    IntVec hits[kVectors], some{};
    for (std::size_t v = 0; v < kVectors; ++v) {
      const Vec value = maximum(load(row + c + v * kLanes), Vec{});  // NaN is not greater: 0
      hits[v] = (value > splat(low)) & (value <= splat(high));
      some |= hits[v];
    }
    if (!any_of(some)) continue;
    for (std::size_t v = 0; v < kVectors; ++v) {
      for (unsigned bits = bits_of(hits[v]); bits; bits &= bits - 1) {
        const std::size_t at = c + v * kLanes + static_cast<std::size_t>(std::countr_zero(bits));
        look(at, positive(row[at]));
      }
    }
  }
  for (; c < codes; ++c) {
    const float value = positive(row[c]);
    if (value > low && value <= high) look(c, value);
  }
  before.select();
  after.select();
  std::size_t members = 0;
  for (std::size_t i = 0; i < before.size; ++i) memory[members++] = 0xffffffffu - (before.keys[i] & 0xffffffffu);
  for (std::size_t i = 0; i < after.size; ++i) memory[members++] = after.keys[i] & 0xffffffffu;
  return members;
}

}  // namespace
}  // namespace FARTHING_ISA
}  // namespace farthing
