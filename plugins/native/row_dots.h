// Dot products of rows with rows, tile by tile: the GEMM A * B^T for operators that look at a Gram matrix but never keep it.
//
// Both operands are rows of floats padded with zeros to a multiple of kLanes, so there are no tails along the depth; a tile that
// hangs over an edge repeats the last row. Every dot product is the same chain of lane-wise multiply-adds and the same
// reduction tree, wherever it stands in a tile: equal rows give bit for bit equal similarities, so ties stay ties.
#pragma once

#include <algorithm>
#include <cstddef>

#include "simd.h"

namespace farthing {
namespace FARTHING_ISA {

#if defined(__AVX512F__)
inline constexpr std::size_t kDotRows = 6;  // 6*4 accumulators + 4 of B + 1 of A <= 32 registers
#else
inline constexpr std::size_t kDotRows = 3;  // 3*4 accumulators + 1 + 3 <= 16 registers
#endif
inline constexpr std::size_t kDotCols = 4;

// Depth of a pass over a strip: 6 rows of A and 4 of B, 2 KiB each, are 20 KiB of L1, and A stays there for the whole strip.
inline constexpr std::size_t kDotDepth = 512;

// Floats from one row to the next: a multiple of a vector, and never a multiple of a page, which would map every row of a tile
// to the same few sets of L1.
inline std::size_t dot_stride(std::size_t depth) {
  const std::size_t padded = (depth + kLanes - 1) / kLanes * kLanes;
  return padded % 1024 == 0 ? padded + 16 : padded;
}

#if defined(__clang__) || __GNUC__ >= 12
#define FARTHING_SHUFFLE __builtin_shufflevector
#else
#error "gcc 12 or clang is needed for __builtin_shufflevector"
#endif

// The sums of four vectors, in order, in lanes 0..3. Shuffles of pairs halve the work of four separate reductions.
inline void store_sums(Vec a, Vec b, Vec c, Vec d, float* out, bool accumulate) {
  float low[4];
#if defined(__AVX512F__)
  const Vec ab = FARTHING_SHUFFLE(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
                 FARTHING_SHUFFLE(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  const Vec cd = FARTHING_SHUFFLE(c, d, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
                 FARTHING_SHUFFLE(c, d, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  const Vec four = FARTHING_SHUFFLE(ab, cd, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
                   FARTHING_SHUFFLE(ab, cd, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
  const Vec two = four + FARTHING_SHUFFLE(four, four, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
  const Vec one = two + FARTHING_SHUFFLE(two, two, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
  const Vec packed = FARTHING_SHUFFLE(one, one, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12);
#elif defined(__AVX2__)
  const Vec ab = FARTHING_SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + FARTHING_SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
  const Vec cd = FARTHING_SHUFFLE(c, d, 0, 1, 2, 3, 8, 9, 10, 11) + FARTHING_SHUFFLE(c, d, 4, 5, 6, 7, 12, 13, 14, 15);
  const Vec four =
      FARTHING_SHUFFLE(ab, cd, 0, 1, 4, 5, 8, 9, 12, 13) + FARTHING_SHUFFLE(ab, cd, 2, 3, 6, 7, 10, 11, 14, 15);
  const Vec packed =
      FARTHING_SHUFFLE(four, four, 0, 2, 4, 6, 0, 2, 4, 6) + FARTHING_SHUFFLE(four, four, 1, 3, 5, 7, 1, 3, 5, 7);
#else
  const Vec ab = FARTHING_SHUFFLE(a, b, 0, 1, 4, 5) + FARTHING_SHUFFLE(a, b, 2, 3, 6, 7);
  const Vec cd = FARTHING_SHUFFLE(c, d, 0, 1, 4, 5) + FARTHING_SHUFFLE(c, d, 2, 3, 6, 7);
  const Vec packed = FARTHING_SHUFFLE(ab, cd, 0, 2, 4, 6) + FARTHING_SHUFFLE(ab, cd, 1, 3, 5, 7);
#endif
  __builtin_memcpy(low, &packed, sizeof(low));
  for (int i = 0; i < 4; ++i) out[i] = accumulate ? out[i] + low[i] : low[i];
}

// out[i * ld + j] = (or +=) a[i] . b[j] over the depths [begin, end), multiples of kLanes.
inline void dot_tile(const float* const* a, const float* const* b, std::size_t begin, std::size_t end, float* out,
                     std::size_t ld) {
  Vec acc[kDotRows][kDotCols] = {};
  for (std::size_t p = begin; p < end; p += kLanes) {
    Vec bv[kDotCols];
    for (std::size_t j = 0; j < kDotCols; ++j) bv[j] = load(b[j] + p);
    for (std::size_t i = 0; i < kDotRows; ++i) {
      const Vec av = load(a[i] + p);
      for (std::size_t j = 0; j < kDotCols; ++j) acc[i][j] += av * bv[j];
    }
  }
  for (std::size_t i = 0; i < kDotRows; ++i) {
    store_sums(acc[i][0], acc[i][1], acc[i][2], acc[i][3], out + i * ld, begin > 0);
  }
}

// A strip: `rows` <= kDotRows rows of A, each with every row b(0) .. b(cols - 1). out holds kDotRows x ld floats, ld >= cols
// rounded up to kDotCols; what lies beyond rows and cols is scratch.
template <class B>
inline void dot_strip(const float* const* a, std::size_t rows, B&& b, std::size_t cols, std::size_t depth, float* out,
                      std::size_t ld) {
  const float* left[kDotRows];
  for (std::size_t i = 0; i < kDotRows; ++i) left[i] = a[std::min(i, rows - 1)];
  const std::size_t padded = (depth + kLanes - 1) / kLanes * kLanes;
  for (std::size_t begin = 0; begin < padded; begin += kDotDepth) {
    const std::size_t end = std::min(begin + kDotDepth, padded);
    for (std::size_t col = 0; col < cols; col += kDotCols) {
      const float* right[kDotCols];
      for (std::size_t j = 0; j < kDotCols; ++j) right[j] = b(std::min(col + j, cols - 1));
      dot_tile(left, right, begin, end, out + col, ld);
    }
  }
}

}  // namespace FARTHING_ISA
}  // namespace farthing
