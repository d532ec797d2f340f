// Outer-product GEMM over packed panels: for every k one line of 16 weights is multiplied into the rows' accumulators.
//
// A panel is one straight line through memory, read once for up to kMaxRows rows; that is what decoding and verification
// need, since both wait for the weights. Arithmetic for AVX-512 on a Zen 4 core (117 GFLOP/s, about 30 GB/s from memory):
// a line of 64 bytes costs R cycles for R rows and arrives every 8 cycles, so up to 8 rows a pass is as long as for one.
// Measured there, SmolLM2's layers (425 MB of weights), one thread: 1 row 13.6 ms, 4 rows 15.1, 8 rows 15.9, 16 rows 30.3,
// 64 rows 122 (111 GFLOP/s). Dot products over the unpacked weight took 15.6, 24.1, 37.6, 41, 140.
#include "kernel.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "../native/simd.h"

namespace farthing {
namespace FARTHING_ISA {
namespace {

constexpr std::size_t kVecs = kLinearPanel / kLanes;
#if defined(__AVX512F__)
constexpr std::size_t kMaxRows = 16;  // 16 accumulators + 1 line of weights; activations are memory operands
#elif defined(__AVX2__) || defined(__aarch64__)
constexpr std::size_t kMaxRows =
    6;  // AVX2: 6*2 accumulators + 2 of weights + 1 activation <= 16; NEON: 6*4 + 4 + 1 <= 32
#else
constexpr std::size_t kMaxRows = 2;  // 2*4 accumulators + 4 of weights + 1 activation <= 16
#endif

// Panels of about this many bytes are one task: some microseconds, so that threads share the work evenly.
constexpr std::size_t kTaskBytes = 256 << 10;

// Rows whose distance is a multiple of this many bytes fall into one or two sets of L1 (8 ways of 4 KiB), which 16 rows
// overflow: at k = 2048 that took more than half of the speed. Such activations are copied to rows one line further apart.
constexpr std::size_t kAlias = 2048;

// How a pass fetches ahead, found by measurement. One row: the hardware alone is best. Few rows: into L1, a page ahead. Many
// rows: the arithmetic of a line takes longer, fewer loads are in flight, and L1 has too few of them; L2 has more.
constexpr std::size_t kFewRows = 5, kNearBytes = 4096, kFarBytes = 32768;

template <std::size_t kRows, class Weight>
inline void fetch_ahead(const Weight* w) {
  const char* line = reinterpret_cast<const char*>(w);
  if constexpr (kRows > kFewRows) {
    __builtin_prefetch(line + kFarBytes, 0, 2);
  } else if constexpr (kRows > 1) {
    __builtin_prefetch(line + kNearBytes, 0, 3);
  }
}

// kRows rows of x, `stride` floats apart, against one panel. Rows are addressed in threes (base, + stride, + 2 stride), which are addressing modes of
// x86, so that 16 rows need 6 pointers.
template <std::size_t kRows, class Weight>
inline void panel(const float* x, std::size_t stride, const Weight* w, std::size_t k, Vec (&acc)[kRows][kVecs]) {
  constexpr std::size_t kBases = (kRows + 2) / 3;
  const float* base[kBases];
  for (std::size_t g = 0; g < kBases; ++g) base[g] = x + g * 3 * stride;
  Vec total[kRows][kVecs] = {};
  for (std::size_t p = 0; p < k; ++p) {
    fetch_ahead<kRows>(w);
    Vec line[kVecs];
    for (std::size_t v = 0; v < kVecs; ++v) line[v] = load(w + v * kLanes);
    w += kLinearPanel;
    for (std::size_t r = 0; r < kRows; ++r) {
      const Vec one = splat(base[r / 3][r % 3 * stride]);
      for (std::size_t v = 0; v < kVecs; ++v) total[r][v] += one * line[v];
    }
    for (std::size_t g = 0; g < kBases; ++g) ++base[g];
  }
  for (std::size_t r = 0; r < kRows; ++r) {
    for (std::size_t v = 0; v < kVecs; ++v) acc[r][v] = total[r][v];
  }
}

// One row against two panels at once. A row's sums are one chain of multiply-adds, 4 cycles for each line of 64 bytes: enough for
// memory (8 cycles a line), half of what L3 gives. Two chains keep up with L3; from memory two streams are 10% slower than one.
template <class Weight>
inline void two_panels(const float* x, const Weight* w, std::size_t k, Vec (&first)[kVecs], Vec (&second)[kVecs]) {
  const Weight* other = w + kLinearPanel * k;
  Vec a[kVecs] = {}, b[kVecs] = {};
  for (std::size_t p = 0; p < k; ++p) {
    const Vec one = splat(x[p]);
    for (std::size_t v = 0; v < kVecs; ++v) {
      a[v] += one * load(w + p * kLinearPanel + v * kLanes);
      b[v] += one * load(other + p * kLinearPanel + v * kLanes);
    }
  }
  for (std::size_t v = 0; v < kVecs; ++v) first[v] = a[v], second[v] = b[v];
}

// Adds the bias and writes `columns` <= 16 outputs of a row.
inline void finish(const Vec (&acc)[kVecs], const float* bias, float* y, std::size_t columns) {
  if (columns == kLinearPanel) {
    for (std::size_t v = 0; v < kVecs; ++v) store(y + v * kLanes, bias ? acc[v] + load(bias + v * kLanes) : acc[v]);
    return;
  }
  float lanes[kLinearPanel];
  for (std::size_t v = 0; v < kVecs; ++v) store(lanes + v * kLanes, acc[v]);
  for (std::size_t c = 0; c < columns; ++c) y[c] = bias ? lanes[c] + bias[c] : lanes[c];
}

// A strip of exactly `rows` <= kMost rows against the panel that begins at output `col`.
template <std::size_t kMost, class Weight>
inline void strip(const LinearArgs& a, std::size_t stride, const Weight* w, std::size_t row, std::size_t rows,
                  std::size_t col) {
  if constexpr (kMost > 0) {
    if (rows != kMost) return strip<kMost - 1>(a, stride, w, row, rows, col);
    Vec acc[kMost][kVecs];
    panel<kMost>(a.x + row * stride, stride, w, a.k, acc);
    const std::size_t columns = std::min(kLinearPanel, a.n - col);
    for (std::size_t r = 0; r < kMost; ++r) {
      finish(acc[r], a.bias ? a.bias + col : nullptr, a.y + (row + r) * a.n + col, columns);
    }
  }
}

// Panels [begin, end). All rows pass over a panel while it is in the caches, in strips of nearly equal height.
template <class Weight>
void panels(const LinearArgs& a, std::size_t stride, std::size_t begin, std::size_t end) {
  const std::size_t strips = (a.rows + kMaxRows - 1) / kMaxRows;
  std::size_t i = begin;
  for (; a.rows == 1 && a.cached && i + 2 <= end; i += 2) {
    Vec acc[2][kVecs];
    two_panels(a.x, static_cast<const Weight*>(a.panels) + i * kLinearPanel * a.k, a.k, acc[0], acc[1]);
    for (std::size_t j = 0; j < 2; ++j) {
      const std::size_t col = (i + j) * kLinearPanel;
      finish(acc[j], a.bias ? a.bias + col : nullptr, a.y + col, std::min(kLinearPanel, a.n - col));
    }
  }
  for (; i < end; ++i) {
    const Weight* w = static_cast<const Weight*>(a.panels) + i * kLinearPanel * a.k;
    for (std::size_t s = 0; s < strips; ++s) {
      const std::size_t row = a.rows * s / strips, next = a.rows * (s + 1) / strips;
      strip<kMaxRows>(a, stride, w, row, next - row, i * kLinearPanel);
    }
  }
}

}  // namespace

void linear(const LinearArgs& args, const Parallel& parallel) {
  LinearArgs a = args;
  std::size_t stride = a.k;
  static thread_local std::vector<float> apart;  // grows to the largest pass, then stays
  if (a.rows > 2 && a.k > 0 && a.k * sizeof(float) % kAlias == 0) {
    stride = a.k + 64 / sizeof(float);
    apart.resize(a.rows * stride);
    for (std::size_t r = 0; r < a.rows; ++r) {
      std::memcpy(apart.data() + r * stride, a.x + r * a.k, a.k * sizeof(float));
    }
    a.x = apart.data();
  }
  const std::size_t count = linear_panels(a.n);
  const std::size_t bytes = std::max<std::size_t>(linear_panel_bytes(a.k, a.half), 1);
  const std::size_t per_task = std::max<std::size_t>(kTaskBytes / bytes, 1);
  parallel((count + per_task - 1) / per_task, [&](std::size_t task) {
    const std::size_t begin = task * per_task, end = std::min(begin + per_task, count);
    a.half ? panels<std::uint16_t>(a, stride, begin, end) : panels<float>(a, stride, begin, end);
  });
}

}  // namespace FARTHING_ISA
}  // namespace farthing
