// Integer dot products over packed panels: 4 products of 8 bits are summed into each of 16 outputs by one instruction.
//
// Arithmetic for one Zen 4 core with AVX-512 VNNI (64 products a cycle, about 30 GB/s from memory): a group of 32 inputs of a panel of 4-bit
// weights is 256 bytes of codes, 64 of scales and 16 of zero points: 336 bytes every 36 cycles at 3.2 GHz. One row takes 8 products, 12
// operations to part the halves and 5 for scales: 10 cycles, so a row waits for memory, and so do four; parting is shared by all rows
// of a strip, after which a row costs 12.
#include "kernel.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "../native/simd.h"

namespace farthing {
namespace FARTHING_ISA {
namespace {

constexpr std::size_t kVecs = kQuantPanel / kLanes;
constexpr std::size_t kBytes = kLanes * 4;  // a vector of codes: kLanes outputs, 4 inputs each
typedef std::uint8_t ByteVec __attribute__((vector_size(kBytes)));
typedef std::uint8_t LooseBytes __attribute__((vector_size(kBytes), aligned(1), may_alias));
typedef std::int32_t LooseInt __attribute__((aligned(1), may_alias));

#if defined(__AVX512F__)
constexpr std::size_t kMaxRows = 8;
#else
constexpr std::size_t kMaxRows = 4;
#endif

// Panels of about this many bytes are one task.
constexpr std::size_t kTaskBytes = 64 << 10;

// fast: by the instruction that has_byte_dot() asks for.
enum class Dot { plain, fast };

inline ByteVec load_codes(const std::uint8_t* p) { return *reinterpret_cast<const LooseBytes*>(p); }

// The high halves of bytes. The compiler has no shift of bytes.
inline ByteVec high_halves(ByteVec v) {
  typedef std::uint16_t Pairs __attribute__((vector_size(kBytes)));
  return (ByteVec)((Pairs)v >> 4) & 15;
}

// acc[lane] += sum over 4 of codes[lane, i] * x[i], x int8; codes <= 15 unless fast on x86. Exact.
template <Dot kDot>
inline IntVec dot(IntVec acc, ByteVec codes, const std::int8_t* x) {
#if defined(__AVX512F__)
  if constexpr (kDot == Dot::fast) {
    // In assembler, since the rest of this file must run on processors that have AVX-512 without it.
    asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(codes), "m"(*reinterpret_cast<const LooseInt*>(x)));
    return acc;
  } else {
    int four;
    std::memcpy(&four, x, 4);
    const __m512i pairs = _mm512_maddubs_epi16((__m512i)codes, _mm512_set1_epi32(four));
    return (IntVec)_mm512_add_epi32((__m512i)acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
  }
#elif defined(__AVX2__)
  int four;
  std::memcpy(&four, x, 4);
  const __m256i pairs = _mm256_maddubs_epi16((__m256i)codes, _mm256_set1_epi32(four));
  return (IntVec)_mm256_add_epi32((__m256i)acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#else
#if defined(__aarch64__)
  if constexpr (kDot == Dot::fast) {
    // As above: in assembler, for processors of Armv8.2 in a file that runs on all.
    std::int32_t word;
    std::memcpy(&word, x, 4);
    const int32x4_t four = vdupq_n_s32(word);
    asm(".arch armv8.2-a+dotprod\n\tsdot %0.4s, %1.16b, %2.4b[0]" : "+w"(acc) : "w"(codes), "w"(four));
    return acc;
  }
#endif
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < 4; ++i) acc[lane] += codes[4 * lane + i] * x[i];
  }
  return acc;
#endif
}

// Eight-bit codes where only products of 4-bit ones are exact: high and low halves apart.
template <Dot kDot>
inline IntVec dot_bytes(IntVec acc, ByteVec codes, const std::int8_t* x) {
#if defined(__AVX2__) || defined(__aarch64__)
#if defined(__aarch64__)
  constexpr bool kApart = kDot == Dot::fast;  // NEON's are signed
#else
  constexpr bool kApart = kDot != Dot::fast;
#endif
  if constexpr (kApart) {
    const ByteVec low = codes & 15, high = high_halves(codes);
    return dot<kDot>(acc, low, x) + (dot<kDot>(IntVec{}, high, x) << 4);
  }
#endif
  return dot<kDot>(acc, codes, x);
}

inline Vec to_float(IntVec v) { return __builtin_convertvector(v, Vec); }

// kLanes bytes as float. The compiler's own conversion takes them one by one.
inline Vec to_float(const std::uint8_t* p) {
#if defined(__AVX512F__)
  return to_float((IntVec)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__AVX2__)
  return to_float((IntVec)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
  IntVec wide;
  for (int i = 0; i < kLanes; ++i) wide[i] = p[i];
  return to_float(wide);
#endif
}

// Many rows keep the processor busy for longer than memory takes for their weights, and have few loads in flight.
constexpr std::size_t kAheadBytes = 4096;
template <std::size_t kRows>
inline void fetch_ahead(const std::uint8_t* line) {
  if constexpr (kRows > 1) __builtin_prefetch(line + kAheadBytes, 0, 3);
}

// Rows rounded to int8: codes [rows, groups * group], and for each group its scale and the scale times the sum of its codes.
struct Rounded {
  std::vector<std::int8_t> codes;
  std::vector<float> scales, sums;
  std::size_t width = 0, groups = 0;

  void resize(std::size_t rows, const QuantShape& shape) {
    groups = shape.groups();
    width = groups * shape.group();
    codes.resize(rows * width);
    scales.resize(rows * groups);
    sums.resize(rows * groups);
  }

  void round(const float* x, std::size_t row, const QuantShape& shape) {
    const std::size_t group = shape.group();
    for (std::size_t g = 0; g < groups; ++g) {
      const std::size_t begin = g * group, count = std::min(group, shape.k - begin);
      float padded[32] = {};
      std::memcpy(padded, x + begin, count * sizeof(float));
      Vec most = {};
      bool finite = true;
      for (std::size_t i = 0; i < group; i += kLanes) {
        const Vec v = load(padded + i);
        most = maximum(most, (Vec)((IntVec)v & 0x7fffffff));
      }
      const float largest = max_lane(most);
      for (std::size_t i = 0; i < count; ++i) finite &= std::fabs(padded[i]) <= 3.4028235e38f;
      const float inverse = largest > 0 && finite ? 127 / largest : 0;
      std::int8_t* out = codes.data() + row * width + begin;
      int sum = 0;
      for (std::size_t i = 0; i < group; ++i) {
        // Adding 1.5 * 2^23 rounds to the nearest even integer.
        const int code = static_cast<int>(padded[i] * inverse + 12582912.0f - 12582912.0f);
        out[i] = static_cast<std::int8_t>(finite ? code : 0);
        sum += out[i];
      }
      const float scale = finite ? largest / 127 : NAN;
      scales[row * groups + g] = scale;
      sums[row * groups + g] = scale * static_cast<float>(sum);
    }
  }
};

// kRows rows against kVecs vectors of outputs, all groups.
template <Dot kDot, bool kNibbles, std::size_t kGroup, std::size_t kRows>
inline void panel(const QuantShape& shape, const std::uint8_t* packed, const Rounded& x, std::size_t row,
                  Vec (&total)[kRows][kVecs]) {
  constexpr std::size_t kQuads = kGroup / 4, kStored = kNibbles ? kQuads / 2 : kQuads;
  const std::size_t per_block = shape.block / kGroup, groups = x.groups;
  const std::int8_t* rows[kRows];
  for (std::size_t r = 0; r < kRows; ++r) rows[r] = x.codes.data() + (row + r) * x.width;
  const float *row_scales = x.scales.data() + row * groups, *row_sums = x.sums.data() + row * groups;
  for (std::size_t v = 0; v < kVecs; ++v) {
    Vec sums[kRows] = {};
    Vec scale = {}, shift = {};
    const std::uint8_t* at = packed;
    for (std::size_t g = 0; g < groups; ++g) {
      if (g % per_block == 0) {
        fetch_ahead<kRows>(at);
        scale = load(reinterpret_cast<const float*>(at) + v * kLanes);
        shift = scale * (shape.zeros ? to_float(at + kQuantPanel * sizeof(float) + v * kLanes) : splat(shape.middle));
        at += shape.head_bytes();
      }
      ByteVec lines[kQuads];
      for (std::size_t j = 0; j < kStored; ++j) {
        fetch_ahead<kRows>(at);
        const ByteVec both = load_codes(at + v * kBytes);
        at += 4 * kQuantPanel;
        if constexpr (kNibbles) {
          lines[j] = both & 15;
          lines[j + kStored] = high_halves(both);
        } else {
          lines[j] = both;
        }
      }
      for (std::size_t r = 0; r < kRows; ++r) {
        IntVec even = {}, odd = {};
        const std::int8_t* q = rows[r] + g * kGroup;
        for (std::size_t j = 0; j < kQuads; j += 2) {
          if constexpr (kNibbles) {
            even = dot<kDot>(even, lines[j], q + 4 * j);
            odd = dot<kDot>(odd, lines[j + 1], q + 4 * j + 4);
          } else {
            even = dot_bytes<kDot>(even, lines[j], q + 4 * j);
            odd = dot_bytes<kDot>(odd, lines[j + 1], q + 4 * j + 4);
          }
        }
        sums[r] += to_float(even + odd) * splat(row_scales[r * groups + g]) * scale;
        sums[r] -= shift * splat(row_sums[r * groups + g]);
      }
    }
    for (std::size_t r = 0; r < kRows; ++r) total[r][v] = sums[r];
  }
}

// Writes `columns` <= 16 outputs of a row.
inline void finish(const Vec (&acc)[kVecs], float* y, std::size_t columns) {
  if (columns == kQuantPanel) {
    for (std::size_t v = 0; v < kVecs; ++v) store(y + v * kLanes, acc[v]);
    return;
  }
  float lanes[kQuantPanel];
  for (std::size_t v = 0; v < kVecs; ++v) store(lanes + v * kLanes, acc[v]);
  for (std::size_t c = 0; c < columns; ++c) y[c] = lanes[c];
}

// A strip of exactly `rows` <= kMost rows against a panel.
template <Dot kDot, bool kNibbles, std::size_t kGroup, std::size_t kMost>
inline void strip(const QuantizedLinearArgs& a, const Rounded& x, std::size_t panel_at, std::size_t row,
                  std::size_t rows) {
  if constexpr (kMost > 0) {
    if (rows != kMost) return strip<kDot, kNibbles, kGroup, kMost - 1>(a, x, panel_at, row, rows);
    Vec acc[kMost][kVecs];
    const auto* packed = static_cast<const std::uint8_t*>(a.panels) + panel_at * a.shape.panel_bytes();
    panel<kDot, kNibbles, kGroup, kMost>(a.shape, packed, x, row, acc);
    const std::size_t col = panel_at * kQuantPanel, columns = std::min(kQuantPanel, a.shape.n - col);
    for (std::size_t r = 0; r < kMost; ++r) {
      finish(acc[r], a.y + (row + r) * a.shape.n + col, columns);
    }
  }
}

// Panels [begin, end). All rows pass over a panel while it is in the caches, in strips of nearly equal height.
template <Dot kDot, bool kNibbles, std::size_t kGroup>
void panels(const QuantizedLinearArgs& a, const Rounded& x, std::size_t begin, std::size_t end) {
  const std::size_t strips = (a.rows + kMaxRows - 1) / kMaxRows;
  for (std::size_t i = begin; i < end; ++i) {
    for (std::size_t s = 0; s < strips; ++s) {
      const std::size_t row = a.rows * s / strips, next = a.rows * (s + 1) / strips;
      strip<kDot, kNibbles, kGroup, kMaxRows>(a, x, i, row, next - row);
    }
  }
}

template <Dot kDot>
auto chosen(const QuantShape& shape) {
  const bool wide = shape.group() == 32;
  return shape.nibbles ? (wide ? &panels<kDot, true, 32> : &panels<kDot, true, 16>)
                       : (wide ? &panels<kDot, false, 32> : &panels<kDot, false, 16>);
}

}  // namespace

void quantized_linear(const QuantizedLinearArgs& a, const Parallel& parallel) {
  static thread_local Rounded rounded;  // grows to the largest pass, then stays
  Rounded& x = rounded;
  x.resize(a.rows, a.shape);
  constexpr std::size_t kRowsOfTask = 16;
  parallel((a.rows + kRowsOfTask - 1) / kRowsOfTask, [&](std::size_t task) {
    for (std::size_t r = task * kRowsOfTask; r < std::min((task + 1) * kRowsOfTask, a.rows); ++r) {
      x.round(a.x + r * a.shape.k, r, a.shape);
    }
  });
#if defined(__AVX512F__) || defined(__aarch64__)
  static const bool fast = has_byte_dot();
  const auto run = fast ? chosen<Dot::fast>(a.shape) : chosen<Dot::plain>(a.shape);
#else
  const auto run = chosen<Dot::plain>(a.shape);
#endif
  const std::size_t count = a.shape.panels();
  const std::size_t per_task = std::max<std::size_t>(kTaskBytes / std::max<std::size_t>(a.shape.panel_bytes(), 1), 1);
  parallel((count + per_task - 1) / per_task, [&](std::size_t task) {
    const std::size_t begin = task * per_task;
    run(a, x, begin, std::min(begin + per_task, count));
  });
}

}  // namespace FARTHING_ISA
}  // namespace farthing
