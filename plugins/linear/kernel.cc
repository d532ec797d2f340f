// The dot-product form of GEMM: the weight is read in its own order, so nothing is packed and nothing is copied.
//
// Every output has one vector accumulator. Two shapes of tile share the work:
// - Up to 3 rows: one weight row at a time. That walks the weight in one straight line, which is what the hardware prefetcher
//   follows best (measured on a Zen 4 core, k = 576..2048, one row: 22..27 GB/s, where tiles of 2 to 8 columns reach 8..16).
// - More rows: 6x4 (AVX-512) or 3x4 tiles. Per k-step 24 FMAs (24 cycles) against 10 loads (5 cycles), or 12 FMAs (6 cycles)
//   against 7 loads (3.5): bound by the FMA units. The first strip fetches ahead in software along the line its four columns
//   cover together (20 GB/s where the hardware alone gives 14); later strips find the block in L2.
// The reduction at the end costs about 8 instructions an output, 5..10 % of the tile at k = 576.
#include "kernel.h"

#include <algorithm>

#include "../native/simd.h"

namespace farthing {
namespace FARTHING_ISA {
namespace {

constexpr std::size_t kStreamRows = 3;
#if defined(__AVX512F__)
constexpr std::size_t kTileRows = 6;  // 6*4 accumulators + 4 weights + 1 activation <= 32 registers
#else
constexpr std::size_t kTileRows = 3;  // 3*4 accumulators + 1 weight + 3 activations <= 16 registers (32 on NEON)
#endif
constexpr std::size_t kTileCols = 4;

// A block of weight rows stays in L2 while all activations pass over it: 256 KiB of the usual 512 KiB and more.
constexpr std::size_t kBlockBytes = 256 << 10;

// How far the first strip fetches ahead, in bytes; a multiple of a page, since the hardware stops at every 4 KiB page.
constexpr std::size_t kAhead = 8192;

template <std::size_t kRows, std::size_t kCols, bool kPrefetch, class Weight>
inline void tile(const LinearArgs& a, const Weight* weight, std::size_t row, std::size_t col) {
  const float* x[kRows];
  const Weight* w[kCols];
  for (std::size_t i = 0; i < kRows; ++i) x[i] = a.x + (row + i) * a.k;
  for (std::size_t j = 0; j < kCols; ++j) w[j] = weight + (col + j) * a.k;
  Vec acc[kRows][kCols] = {};
  const std::size_t whole = a.k - a.k % kLanes;
  for (std::size_t p = 0; p < whole; p += kLanes) {
    Vec wv[kCols];
    for (std::size_t j = 0; j < kCols; ++j) {
      if constexpr (kPrefetch) {
        __builtin_prefetch(reinterpret_cast<const char*>(w[0] + kCols * p + j * kLanes) + kAhead, 0, 3);
      }
      wv[j] = load(w[j] + p);
    }
    for (std::size_t i = 0; i < kRows; ++i) {
      const Vec xv = load(x[i] + p);
      for (std::size_t j = 0; j < kCols; ++j) acc[i][j] += xv * wv[j];
    }
  }
  if (whole < a.k) {
    for (std::size_t j = 0; j < kCols; ++j) {
      const Vec wv = load_head(w[j] + whole, a.k - whole);
      for (std::size_t i = 0; i < kRows; ++i) acc[i][j] += load_head(x[i] + whole, a.k - whole) * wv;
    }
  }
  for (std::size_t i = 0; i < kRows; ++i) {
    for (std::size_t j = 0; j < kCols; ++j) {
      const float total = sum(acc[i][j]);
      a.y[(row + i) * a.n + col + j] = a.bias ? total + a.bias[col + j] : total;
    }
  }
}

// kRows activations against the weight rows [begin, end).
template <std::size_t kRows, bool kFirst, class Weight>
inline void strip(const LinearArgs& a, const Weight* weight, std::size_t row, std::size_t begin, std::size_t end) {
  std::size_t col = begin;
  if constexpr (!kFirst || kRows > kStreamRows) {
    for (; col + kTileCols <= end; col += kTileCols) tile<kRows, kTileCols, kFirst>(a, weight, row, col);
  }
  for (; col < end; ++col) tile<kRows, 1, false>(a, weight, row, col);
}

// A strip of exactly `rows` <= kMost rows.
template <std::size_t kMost, bool kFirst, class Weight>
inline void strip_of(const LinearArgs& a, const Weight* weight, std::size_t row, std::size_t rows, std::size_t begin,
                     std::size_t end) {
  if constexpr (kMost > 0) {
    if (rows == kMost) {
      strip<kMost, kFirst>(a, weight, row, begin, end);
    } else {
      strip_of<kMost - 1, kFirst>(a, weight, row, rows, begin, end);
    }
  }
}

template <class Weight>
void block(const LinearArgs& a, std::size_t begin, std::size_t end) {
  const auto* weight = static_cast<const Weight*>(a.weight);
  std::size_t row = std::min(a.rows, kTileRows);
  strip_of<kTileRows, true>(a, weight, 0, row, begin, end);
  for (; row + kTileRows <= a.rows; row += kTileRows) strip<kTileRows, false>(a, weight, row, begin, end);
  strip_of<kTileRows - 1, false>(a, weight, row, a.rows - row, begin, end);
}

}  // namespace

void linear(const LinearArgs& args, const Parallel& parallel) {
  const std::size_t element = args.half ? sizeof(std::uint16_t) : sizeof(float);
  const std::size_t fitting = kBlockBytes / std::max<std::size_t>(args.k * element, 1);
  // At least a tile, at most what fits, and a multiple of the tile so that only the last block has a ragged edge.
  const std::size_t cols = std::max(kTileCols, std::min<std::size_t>(fitting, 256) / kTileCols * kTileCols);
  const std::size_t blocks = (args.n + cols - 1) / cols;
  parallel(blocks, [&](std::size_t i) {
    const std::size_t begin = i * cols, end = std::min(begin + cols, args.n);
    args.half ? block<std::uint16_t>(args, begin, end) : block<float>(args, begin, end);
  });
}

}  // namespace FARTHING_ISA
}  // namespace farthing
