// What the two products of a memory read on a tile of slots share (dots.h, weighted_sum.h), for weights in float32, float16 or int8. Both
// keep the bank row-major as it is stored: scores want its rows as dot products, the weighted sum wants them as vectors.
//
// Every result is one chain of multiply-adds in one order, whatever the number of rows, so a row alone and a row in a chunk of
// 200 are equal bit for bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "../native/simd.h"

namespace farthing {
namespace FARTHING_ISA {
namespace memory {

inline Vec widen(const float* p) { return load(p); }
inline Vec widen(const std::uint16_t* p) { return load(p); }
inline Vec widen(const std::int8_t* p) {
#if defined(__AVX512F__)
  return (Vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__AVX2__)
  return (Vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
  Vec wide;
  for (int i = 0; i < kLanes; ++i) wide[i] = p[i];
  return wide;
#endif
}
template <class T>
inline Vec widen_head(const T* p, std::size_t n) {
  T lanes[kLanes] = {};
  std::memcpy(lanes, p, n * sizeof(T));
  return widen(lanes);
}

// The first n < kLanes lanes.
inline void store_head(float* p, Vec v, std::size_t n) {
  float lanes[kLanes];
  store(lanes, v);
  std::memcpy(p, lanes, n * sizeof(float));
}

// Register tiles. AVX-512, of 32 registers: 4*4 sums of dot products, 4 weights and 1 activation, the rest for sums over lanes that are under
// way; 6*4 of a weighted sum, 4 + 1. Others, of 16: 3*4 + 3 + 1 for both.
#if defined(__AVX512F__)
inline constexpr std::size_t kDotRows = 4, kSumRows = 6;
// From this many rows on, a tile that is not float32 is widened once and not by every strip. With AVX-512 multiplying hides the widening.
inline constexpr std::size_t kWideRows = ~std::size_t{0};
#else
inline constexpr std::size_t kDotRows = 3, kSumRows = 3;
inline constexpr std::size_t kWideRows = 7;
#endif
inline constexpr std::size_t kDotCols = 4;

// Rows of the next strip of at most `most`: 5 are taken as 3 + 2 and not as 4 + 1, since a strip of one waits for its weights.
inline std::size_t even_strip(std::size_t rows, std::size_t most) {
  const std::size_t strips = (rows + most - 1) / most;
  return (rows + strips - 1) / strips;
}

}  // namespace memory
}  // namespace FARTHING_ISA
}  // namespace farthing
