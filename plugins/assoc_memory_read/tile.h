// The two products of a memory read on a tile of slots, for weights in float32, float16 or int8. Both keep the bank row-major as
// it is stored: scores want its rows as dot products, the weighted sum wants them as vectors.
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

// Rows of a register tile. AVX-512: 6*4 accumulators + 4 weights + 1 activation of 32 registers; others: 3*4 + 3 + 1 of 16.
#if defined(__AVX512F__)
inline constexpr std::size_t kTileRows = 6;
#else
inline constexpr std::size_t kTileRows = 3;
#endif
inline constexpr std::size_t kTileCols = 4;
// Up to this many rows one weight row at a time is read, in one straight line, which the hardware prefetcher follows best.
inline constexpr std::size_t kStreamRows = 3;

// out[j] = sum(v[j]), each by the very tree of sum(): four at once share the shuffles.
inline void sum_four(const Vec (&v)[4], float* out) {
#if defined(__AVX512F__)
  const auto fold = [](__m512 a, __m512 b) {  // [a.lo + a.hi, b.lo + b.hi] in halves
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
  };
  const __m512 ab = fold((__m512)v[0], (__m512)v[1]), cd = fold((__m512)v[2], (__m512)v[3]);
  __m512 quarters = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xDD));
  quarters = _mm512_add_ps(quarters, _mm512_permute_ps(quarters, 0x4E));
  quarters = _mm512_add_ps(quarters, _mm512_permute_ps(quarters, 0xB1));
  const __m512i firsts = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0);
  _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, quarters)));
#else
  for (std::size_t j = 0; j < 4; ++j) out[j] = sum(v[j]);
#endif
}

// kFetch: ask for the four rows of weights that come next, since the hardware does not follow four streams at once. Asking for what
// lies behind the last row is harmless. kTail: c is no multiple of kLanes. The loops are written so that gcc keeps the accumulators in
// registers: with one variable for sums and tail, or a loop that may be empty, it sends them through memory, which took 12 % of the speed.
template <std::size_t kRows, std::size_t kCols, bool kFetch, bool kTail, class W>
inline void dot_tile(const float* x, std::size_t c, const W* weight, float* out, std::size_t stride) {
  Vec total[kRows][kCols];
  for (std::size_t i = 0; i < kRows; ++i) {
    for (std::size_t j = 0; j < kCols; ++j) total[i][j] = Vec{};
  }
  const std::size_t whole = c - c % kLanes;
  if (!kTail || whole > 0) {
    std::size_t p = 0;
    do {
      Vec w[kCols];
      for (std::size_t j = 0; j < kCols; ++j) {
        if constexpr (kFetch) __builtin_prefetch(weight + (kCols + j) * c + p, 0, 3);
        w[j] = widen(weight + j * c + p);
      }
      for (std::size_t i = 0; i < kRows; ++i) {
        const Vec xv = load(x + i * c + p);
        for (std::size_t j = 0; j < kCols; ++j) total[i][j] += xv * w[j];
      }
      p += kLanes;
    } while (p < whole);
  }
  Vec acc[kRows][kCols];
  for (std::size_t i = 0; i < kRows; ++i) {
    for (std::size_t j = 0; j < kCols; ++j) acc[i][j] = total[i][j];
  }
  if constexpr (kTail) {
    for (std::size_t j = 0; j < kCols; ++j) {
      const Vec w = widen_head(weight + j * c + whole, c - whole);
      for (std::size_t i = 0; i < kRows; ++i) acc[i][j] += load_head(x + i * c + whole, c - whole) * w;
    }
  }
  for (std::size_t i = 0; i < kRows; ++i) {
    if constexpr (kCols == 4) {
      sum_four(acc[i], out + i * stride);
    } else {
      for (std::size_t j = 0; j < kCols; ++j) out[i * stride + j] = sum(acc[i][j]);
    }
  }
}

template <std::size_t kRows, bool kStream, bool kFetch, bool kTail, class W>
inline void dot_columns(const float* x, std::size_t c, const W* weight, std::size_t cols, float* out,
                      std::size_t stride) {
  std::size_t col = 0;
  if constexpr (!kStream) {
    for (; col + kTileCols <= cols; col += kTileCols) {
      dot_tile<kRows, kTileCols, kFetch, kTail>(x, c, weight + col * c, out + col, stride);
    }
  }
  for (; col < cols; ++col) dot_tile<kRows, 1, false, kTail>(x, c, weight + col * c, out + col, stride);
}

template <std::size_t kRows, bool kStream, bool kFetch, class W>
inline void dot_strip(const float* x, std::size_t c, const W* weight, std::size_t cols, float* out,
                      std::size_t stride) {
  c % kLanes == 0 ? dot_columns<kRows, kStream, kFetch, false>(x, c, weight, cols, out, stride)
                  : dot_columns<kRows, kStream, kFetch, true>(x, c, weight, cols, out, stride);
}

template <std::size_t kMost, bool kStream, bool kFetch, class W>
inline void dot_rest(const float* x, std::size_t rows, std::size_t c, const W* weight, std::size_t cols, float* out,
                     std::size_t stride) {
  if constexpr (kMost > 0) {
    if (rows == kMost) {
      dot_strip<kMost, kStream, kFetch>(x, c, weight, cols, out, stride);
    } else {
      dot_rest<kMost - 1, kStream, kFetch>(x, rows, c, weight, cols, out, stride);
    }
  }
}

// Rows of the next strip: 8 are taken as 4 + 4 and not as 6 + 2, since a strip of two waits for its weights.
inline std::size_t even_strip(std::size_t rows) {
  const std::size_t strips = (rows + kTileRows - 1) / kTileRows;
  return (rows + strips - 1) / strips;
}

// out[i * stride + j] = x[i] . weight[j] for `rows` rows of x and `cols` rows of weight, both of width c.
template <class W>
inline void dots(const float* x, std::size_t rows, std::size_t c, const W* weight, std::size_t cols, float* out,
                 std::size_t stride) {
  if (rows <= kStreamRows) return dot_rest<kStreamRows, true, false>(x, rows, c, weight, cols, out, stride);
  bool first = true;  // the later strips find the weights in L2
  for (std::size_t strip; rows > 0; rows -= strip, x += strip * c, out += strip * stride, first = false) {
    strip = even_strip(rows);
    first ? dot_rest<kTileRows, false, true>(x, strip, c, weight, cols, out, stride)
          : dot_rest<kTileRows, false, false>(x, strip, c, weight, cols, out, stride);
  }
}

// acc[i][0..kVecs) += p[i][s] * bank[s][0..kVecs), slot after slot.
template <std::size_t kRows, std::size_t kVecs, class W>
inline void sum_tile(const float* p, std::size_t stride, const W* bank, std::size_t slots, std::size_t c, float* acc) {
  Vec a[kRows][kVecs];
  for (std::size_t i = 0; i < kRows; ++i) {
    for (std::size_t v = 0; v < kVecs; ++v) a[i][v] = load(acc + i * c + v * kLanes);
  }
  for (std::size_t s = 0; s < slots; ++s) {
    Vec w[kVecs];
    for (std::size_t v = 0; v < kVecs; ++v) w[v] = widen(bank + s * c + v * kLanes);
    for (std::size_t i = 0; i < kRows; ++i) {
      const Vec share = splat(p[i * stride + s]);
      for (std::size_t v = 0; v < kVecs; ++v) a[i][v] += share * w[v];
    }
  }
  for (std::size_t i = 0; i < kRows; ++i) {
    for (std::size_t v = 0; v < kVecs; ++v) store(acc + i * c + v * kLanes, a[i][v]);
  }
}

template <std::size_t kRows, class W>
inline void sum_strip(const float* p, std::size_t stride, const W* bank, std::size_t slots, std::size_t c, float* acc) {
  std::size_t col = 0;
  for (; col + 4 * kLanes <= c; col += 4 * kLanes) sum_tile<kRows, 4>(p, stride, bank + col, slots, c, acc + col);
  for (; col + kLanes <= c; col += kLanes) sum_tile<kRows, 1>(p, stride, bank + col, slots, c, acc + col);
  if (col == c) return;
  for (std::size_t i = 0; i < kRows; ++i) {  // the tail in the same order, a vector with zeros behind
    Vec a = load_head(acc + i * c + col, c - col);
    for (std::size_t s = 0; s < slots; ++s) a += splat(p[i * stride + s]) * widen_head(bank + s * c + col, c - col);
    float lanes[kLanes];
    store(lanes, a);
    std::memcpy(acc + i * c + col, lanes, (c - col) * sizeof(float));
  }
}

template <std::size_t kMost, class W>
inline void sum_rest(const float* p, std::size_t stride, std::size_t rows, const W* bank, std::size_t slots,
                     std::size_t c, float* acc) {
  if constexpr (kMost > 0) {
    if (rows == kMost) {
      sum_strip<kMost>(p, stride, bank, slots, c, acc);
    } else {
      sum_rest<kMost - 1>(p, stride, rows, bank, slots, c, acc);
    }
  }
}

// One row: four slots at a time over the whole width, so the bank is read in straight lines; acc stays in L1.
template <class W>
inline void sum_row(const float* p, const W* bank, std::size_t slots, std::size_t c, float* acc) {
  std::size_t s = 0;
  const std::size_t whole = c - c % kLanes;
  for (; s + 4 <= slots; s += 4) {
    const Vec p0 = splat(p[s]), p1 = splat(p[s + 1]), p2 = splat(p[s + 2]), p3 = splat(p[s + 3]);
    const W *b0 = bank + s * c, *b1 = b0 + c, *b2 = b1 + c, *b3 = b2 + c;
    for (std::size_t v = 0; v < whole; v += kLanes) {
      Vec a = load(acc + v);
      a += p0 * widen(b0 + v);
      a += p1 * widen(b1 + v);
      a += p2 * widen(b2 + v);
      a += p3 * widen(b3 + v);
      store(acc + v, a);
    }
  }
  for (; s < slots; ++s) {
    for (std::size_t v = 0; v < whole; v += kLanes) {
      Vec a = load(acc + v);
      a += splat(p[s]) * widen(bank + s * c + v);
      store(acc + v, a);
    }
  }
  if (whole == c) return;
  Vec a = load_head(acc + whole, c - whole);
  for (s = 0; s < slots; ++s) a += splat(p[s]) * widen_head(bank + s * c + whole, c - whole);
  float lanes[kLanes];
  store(lanes, a);
  std::memcpy(acc + whole, lanes, (c - whole) * sizeof(float));
}

// acc[i] += sum over s of p[i * stride + s] * bank[s], rows of width c.
template <class W>
inline void weighted_sum(const float* p, std::size_t stride, std::size_t rows, const W* bank, std::size_t slots,
                         std::size_t c, float* acc) {
  if (rows == 1) return sum_row(p, bank, slots, c, acc);
  for (std::size_t strip; rows > 0; rows -= strip, p += strip * stride, acc += strip * c) {
    strip = even_strip(rows);
    sum_rest<kTileRows>(p, stride, strip, bank, slots, c, acc);
  }
}

// A tile as float32, so that many rows widen it once and not once a strip. Widening is exact: results are the same bits.
template <class W>
inline void widen_tile(const W* from, std::size_t count, float* to) {
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(to + i, widen(from + i));
  for (; i < count; ++i) to[i] = widen_head(from + i, 1)[0];
}

}  // namespace memory
}  // namespace FARTHING_ISA
}  // namespace farthing
