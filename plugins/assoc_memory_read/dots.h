// x . weight^T: the scores of rows against a tile of slots, and the gates.
//
// A tile of 4 x 4 dot products at depth 512 is 512 multiply-adds of vectors, and the 16 sums over lanes are a tenth as much work again.
// Done at the end of a tile they fill the schedulers while they wait for the last products, and the multipliers idle (measured on a
// Zen 4 core whose peak is 117 GFLOP/s: 112, and 100 where gcc sent the accumulators through memory); so the sums of a tile are
// taken in portions amid the products of the next one, which gives 116.
#pragma once

#include <cstddef>

#include "lane_sums.h"
#include "tile.h"

namespace farthing {
namespace FARTHING_ISA {
namespace memory {

// Up to this many rows one weight row at a time is read, in one straight line, which the hardware prefetcher follows best.
inline constexpr std::size_t kStreamRows = 3;

// Portions of a tile's sums, and how many vectors of the next tile's depth pass by for each.
inline constexpr std::size_t kPortions = 3, kPortionDepth = 4;

// What a strip of rows does with the weights besides multiplying.
enum class Pass {
  stream,  // one row of weights at a time
  first,  // ask for the four rows of weights that come next, since the hardware does not follow four streams at once; asking for
  // what lies behind the last row is harmless
  widen,  // as first, and leave the weights as float32, so that the later strips and the weighted sum need not widen them
  later,  // the weights are in L2
};

template <class W>
struct Dots {
  const float* x;
  std::size_t c;
  const W* weight;
  float* out;
  std::size_t stride;
};

template <std::size_t kRows, std::size_t kCols>
[[gnu::always_inline]] inline void clear(Vec (&acc)[kRows][kCols]) {
  for (std::size_t i = 0; i < kRows; ++i) {
    for (std::size_t j = 0; j < kCols; ++j) acc[i][j] = Vec{};
  }
}

template <std::size_t kRows, std::size_t kCols>
struct Tile {
  Vec acc[kRows][kCols];
  float* out;

  // Writes the sums of rows [begin, end).
  [[gnu::always_inline]] void finish(std::size_t begin, std::size_t end, std::size_t stride) const {
    for (std::size_t i = begin; i < end; ++i) {
      if constexpr (kCols == 4) {
        four_sums(acc[i], out + i * stride);
      } else {
        for (std::size_t j = 0; j < kCols; ++j) out[i * stride + j] = sum(acc[i][j]);
      }
    }
  }
};

// Depths p .. p + kLanes - 1 of kRows rows of x with the weights col .. col + kCols - 1.
template <Pass kPass, std::size_t kRows, std::size_t kCols, class W>
[[gnu::always_inline]] inline void multiply(const Dots<W>& d, std::size_t col, std::size_t p,
                                            Vec (&acc)[kRows][kCols]) {
  const std::size_t c = d.c;
  const W* weight = d.weight + col * c + p;
  Vec w[kCols];
  for (std::size_t j = 0; j < kCols; ++j) {
    if constexpr (kPass == Pass::first) __builtin_prefetch(weight + (kCols + j) * c, 0, 3);
    w[j] = widen(weight + j * c);
  }
  for (std::size_t i = 0; i < kRows; ++i) {
    const Vec xv = load(d.x + i * c + p);
    for (std::size_t j = 0; j < kCols; ++j) acc[i][j] += xv * w[j];
  }
}

// Where c is a multiple of kLanes and more than the portions take: the sums of `before` are written, and this tile takes its place. Loops
// that surely run once, and sums in a variable of their own, are what it takes for gcc to keep them in registers.
template <Pass kPass, std::size_t kRows, std::size_t kCols, class W>
inline void deep_tile(const Dots<W> d, std::size_t col, Tile<kRows, kCols>& before) {
  Vec acc[kRows][kCols];
  clear(acc);
  std::size_t p = 0;
#pragma GCC unroll 4
  for (std::size_t portion = 0; portion < kPortions; ++portion) {
    do {
      multiply<kPass>(d, col, p, acc);
      p += kLanes;
    } while (p < (portion + 1) * kPortionDepth * kLanes);
    before.finish(kRows * portion / kPortions, kRows * (portion + 1) / kPortions, d.stride);
  }
  do {
    multiply<kPass>(d, col, p, acc);
    p += kLanes;
  } while (p < d.c);
  for (std::size_t i = 0; i < kRows; ++i) {
    for (std::size_t j = 0; j < kCols; ++j) before.acc[i][j] = acc[i][j];
  }
  before.out = d.out + col;
}

// Any c.
template <Pass kPass, std::size_t kRows, std::size_t kCols, class W>
inline void any_tile(const Dots<W> d, std::size_t col) {
  Tile<kRows, kCols> tile;
  clear(tile.acc);
  const std::size_t c = d.c, whole = c - c % kLanes, rest = c - whole;
  for (std::size_t p = 0; p < whole; p += kLanes) multiply<kPass>(d, col, p, tile.acc);
  for (std::size_t j = 0; j < kCols && rest > 0; ++j) {
    const Vec w = widen_head(d.weight + (col + j) * c + whole, rest);
    for (std::size_t i = 0; i < kRows; ++i) tile.acc[i][j] += load_head(d.x + i * c + whole, rest) * w;
  }
  tile.out = d.out + col;
  tile.finish(0, kRows, d.stride);
}

// Not inlined, so that gcc lays out registers for its loops alone.
template <Pass kPass, std::size_t kRows, class W>
[[gnu::noinline]] void dot_columns(const Dots<W>& d, std::size_t cols) {
  std::size_t col = 0;
  if constexpr (kPass != Pass::stream) {
    if (d.c % kLanes == 0 && d.c > kPortions * kPortionDepth * kLanes && cols >= kDotCols) {
      Tile<kRows, kDotCols> tile;  // zeros, whose sums are written where those of the first tile will be
      clear(tile.acc);
      tile.out = d.out;
      for (; col + kDotCols <= cols; col += kDotCols) deep_tile<kPass>(d, col, tile);
      tile.finish(0, kRows, d.stride);
    }
    for (; col + kDotCols <= cols; col += kDotCols) any_tile<kPass, kRows, kDotCols>(d, col);
  }
  for (; col < cols; ++col) any_tile<kPass, kRows, 1>(d, col);
}

// A strip of exactly `rows` <= kMost rows.
template <Pass kPass, std::size_t kMost, class W>
inline void dot_strip(const Dots<W>& d, std::size_t rows, std::size_t cols) {
  if constexpr (kMost > 0) {
    rows == kMost ? dot_columns<kPass, kMost>(d, cols) : dot_strip<kPass, kMost - 1>(d, rows, cols);
  }
}

// out[i * stride + j] = x[i] . weight[j] for `rows` rows of x and `cols` rows of weight, both of width c. Weights that are not float32 are
// widened by every strip.
template <class W>
inline void dots(const float* x, std::size_t rows, std::size_t c, const W* weight, std::size_t cols, float* out,
                 std::size_t stride) {
  Dots<W> d{x, c, weight, out, stride};
  if (rows <= kStreamRows) return dot_strip<Pass::stream, kStreamRows>(d, rows, cols);
  for (std::size_t done = 0, strip; done < rows; done += strip) {
    strip = even_strip(rows - done, kDotRows);
    d.x = x + done * c, d.out = out + done * stride;
    done == 0 ? dot_strip<Pass::first, kDotRows>(d, strip, cols) : dot_strip<Pass::later, kDotRows>(d, strip, cols);
  }
}

}  // namespace memory
}  // namespace FARTHING_ISA
}  // namespace farthing
