// acc += p * bank: the second product of a memory read, over a bank that is row-major as it is stored.
#pragma once

#include <algorithm>
#include <cstddef>

#include "tile.h"

namespace farthing {
namespace FARTHING_ISA {
namespace memory {

// acc[i][0..kVecs) += p[i][s] * bank[s][0..kVecs), slot after slot.
template <std::size_t kRows, std::size_t kVecs, class W>
inline void sum_tile(const float* p, std::size_t stride, const W* bank, std::size_t slots, std::size_t c, float* acc,
                     bool fresh) {
  Vec a[kRows][kVecs];
  for (std::size_t i = 0; i < kRows; ++i) {
    for (std::size_t v = 0; v < kVecs; ++v) a[i][v] = fresh ? Vec{} : load(acc + i * c + v * kLanes);
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
inline void sum_strip(const float* p, std::size_t stride, const W* bank, std::size_t slots, std::size_t c, float* acc,
                      bool fresh) {
  std::size_t col = 0;
  for (; col + 4 * kLanes <= c; col += 4 * kLanes)
    sum_tile<kRows, 4>(p, stride, bank + col, slots, c, acc + col, fresh);
  for (; col + kLanes <= c; col += kLanes) sum_tile<kRows, 1>(p, stride, bank + col, slots, c, acc + col, fresh);
  if (col == c) return;
  for (std::size_t i = 0; i < kRows; ++i) {  // the tail in the same order, a vector with zeros behind
    Vec a = fresh ? Vec{} : load_head(acc + i * c + col, c - col);
    for (std::size_t s = 0; s < slots; ++s) a += splat(p[i * stride + s]) * widen_head(bank + s * c + col, c - col);
    store_head(acc + i * c + col, a, c - col);
  }
}

template <std::size_t kMost, class W>
inline void sum_rest(const float* p, std::size_t stride, std::size_t rows, const W* bank, std::size_t slots,
                     std::size_t c, float* acc, bool fresh) {
  if constexpr (kMost > 0) {
    if (rows == kMost) {
      sum_strip<kMost>(p, stride, bank, slots, c, acc, fresh);
    } else {
      sum_rest<kMost - 1>(p, stride, rows, bank, slots, c, acc, fresh);
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
  store_head(acc + whole, a, c - whole);
}

// acc[i] += sum over s of p[i * stride + s] * bank[s], rows of width c; fresh: acc is taken as zero.
template <class W>
inline void weighted_sum(const float* p, std::size_t stride, std::size_t rows, const W* bank, std::size_t slots,
                         std::size_t c, float* acc, bool fresh) {
  if (rows == 1) {
    if (fresh) std::fill_n(acc, c, 0.0f);
    return sum_row(p, bank, slots, c, acc);
  }
  for (std::size_t strip; rows > 0; rows -= strip, p += strip * stride, acc += strip * c) {
    strip = even_strip(rows, kSumRows);
    sum_rest<kSumRows>(p, stride, strip, bank, slots, c, acc, fresh);
  }
}

}  // namespace memory
}  // namespace FARTHING_ISA
}  // namespace farthing
