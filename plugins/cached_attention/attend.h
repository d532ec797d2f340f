// Streaming-softmax attention (Dao et al. 2022, Milakov and Gimelshein 2018) over tiles of keys, read in cache order.
//
// All query heads of one key/value head share its keys, so their rows are stacked: a decode step of SmolLM2 (9 heads over 3)
// multiplies 3 rows per key it loads. Bytes per step and layer: 2 * kv_heads * length * dim * sizeof(T), whatever the capacity.
//
// For kernel sources: everything is in the namespace of their instruction set.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "../native/parallel.h"
#include "../native/simd.h"
#include "args.h"
#include "element.h"
#include "visible_rows.h"

namespace farthing {
namespace FARTHING_ISA {
namespace {

constexpr std::size_t kKeys = 64;  // keys a tile; tiles start at multiples of it, for every row of every pass
constexpr std::size_t kRows = 24;  // query rows a task: scores 24*64*4 = 6 KiB and outputs 24*128*4 = 12 KiB stay in L1
constexpr std::size_t kMaxDim = 512;
constexpr std::size_t kWideDim = 128;  // heads up to here: 64*128*4 = 32 KiB hold a tile of codes as floats
#if defined(__AVX512F__)
constexpr std::size_t kTileRows = 6;  // 6*4 accumulators of 32 registers
#else
constexpr std::size_t kTileRows = 3;  // 3*4 accumulators of 16 registers
#endif
constexpr std::size_t kTileCols = 4;
constexpr float kMinusInf = -std::numeric_limits<float>::infinity();

static_assert(kKeys % kLanes == 0);

// One head vector: optional RMSNorm, half-split rotation of the first 2*half features, scaled, written to out.
template <class T>
void rotate(const float* x, const float* norm, const float* cos, const float* sin, const AttentionArgs<T>& a,
            float scale, float* out) {
  float gain = scale;
  if (norm) {
    float squares = 0;
    for (std::size_t i = 0; i < a.dim; ++i) squares += x[i] * x[i];
    gain *= 1.0f / std::sqrt(squares / static_cast<float>(a.dim) + a.epsilon);
  }
  for (std::size_t i = 0; i < a.half; ++i) {
    const float first = x[i] * (norm ? norm[i] : 1.0f);
    const float second = x[a.half + i] * (norm ? norm[a.half + i] : 1.0f);
    out[i] = (first * cos[i] - second * sin[i]) * gain;
    out[a.half + i] = (second * cos[i] + first * sin[i]) * gain;
  }
  for (std::size_t i = 2 * a.half; i < a.dim; ++i) out[i] = x[i] * (norm ? norm[i] : 1.0f) * gain;
}

// Splits one row of qkv: rotated and scaled queries to scratch [batch][kv_head][row * group + head in group][dim], keys and
// values to their cache slot. Where keys are codes, what a code is worth goes to the query: score = (q * k_scale) . code.
template <class T>
void place_row(const AttentionArgs<T>& a, std::size_t b, std::size_t row) {
  const std::size_t group = a.heads / a.kv_heads;
  const float* packed = a.qkv + (b * a.rows + row) * (a.heads + 2 * a.kv_heads) * a.dim;
  const float* cos = a.cos + (b * a.rows + row) * a.half;
  const float* sin = a.sin + (b * a.rows + row) * a.half;
  for (std::size_t h = 0; h < a.heads; ++h) {
    float* q = a.scratch + ((b * a.kv_heads + h / group) * a.rows * group + row * group + h % group) * a.dim;
    rotate(packed + h * a.dim, a.q_norm, cos, sin, a, a.scale, q);
    if constexpr (!std::is_same_v<T, float>) {
      const float* worth = a.k_scale + h / group * a.dim;
      for (std::size_t i = 0; i < a.dim; ++i) q[i] *= worth[i];
    }
  }
  const std::size_t slot = static_cast<std::size_t>(a.past_len[b]) + row;
  for (std::size_t h = 0; h < a.kv_heads; ++h) {
    const std::size_t at = ((b * a.kv_heads + h) * a.capacity + slot) * a.dim;
    const float* value = packed + (a.heads + a.kv_heads + h) * a.dim;
    if constexpr (std::is_same_v<T, float>) {
      rotate(packed + (a.heads + h) * a.dim, a.k_norm, cos, sin, a, 1.0f, a.present_k + at);
      store_row(value, nullptr, a.dim, a.present_v + at);
    } else {
      float key[kMaxDim];
      rotate(packed + (a.heads + h) * a.dim, a.k_norm, cos, sin, a, 1.0f, key);
      store_row(key, a.k_scale + h * a.dim, a.dim, a.present_k + at);
      store_row(value, a.v_scale + h * a.dim, a.dim, a.present_v + at);
    }
  }
}

// out[0..4) = sum of each of four vectors, by the very additions of sum(), made side by side: a head of 64 features is four vectors, so
// that adding lanes up takes as long as multiplying.
inline void store_sums(const Vec (&v)[4], float* out) {
#if defined(__AVX512F__)
  const auto a = (__m512)v[0], b = (__m512)v[1], c = (__m512)v[2], d = (__m512)v[3];
  const __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  const __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
  __m512 all = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
  all = _mm512_add_ps(all, _mm512_permute_ps(all, 0xee));
  all = _mm512_add_ps(all, _mm512_movehdup_ps(all));
  const __m512i firsts = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, all)));
#elif defined(__AVX2__)
  const auto a = (__m256)v[0], b = (__m256)v[1], c = (__m256)v[2], d = (__m256)v[3];
  __m256 ab = _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
  __m256 cd = _mm256_add_ps(_mm256_permute2f128_ps(c, d, 0x20), _mm256_permute2f128_ps(c, d, 0x31));
  ab = _mm256_add_ps(ab, _mm256_permute_ps(ab, 0xee));
  cd = _mm256_add_ps(cd, _mm256_permute_ps(cd, 0xee));
  ab = _mm256_add_ps(ab, _mm256_movehdup_ps(ab));
  cd = _mm256_add_ps(cd, _mm256_movehdup_ps(cd));
  const __m256 firsts = _mm256_shuffle_ps(ab, cd, 0);  // a a c c | b b d d
  const __m128 low = _mm256_castps256_ps128(firsts), high = _mm256_extractf128_ps(firsts, 1);
  _mm_storeu_ps(out, _mm_movelh_ps(_mm_unpacklo_ps(low, high), _mm_unpackhi_ps(low, high)));
#else
  for (int i = 0; i < 4; ++i) out[i] = sum(v[i]);
#endif
}

// scores[r * kKeys + c] = q[r] . k[c]: the tile of plugins/linear, without its blocking.
template <std::size_t kR, std::size_t kC, class T>
inline void dot_tile(const float* q, const T* k, std::size_t dim, float* scores) {
  Vec acc[kR][kC] = {};
  const std::size_t whole = dim - dim % kLanes;
  for (std::size_t p = 0; p < whole; p += kLanes) {
    Vec kv[kC];
    for (std::size_t c = 0; c < kC; ++c) kv[c] = load(k + c * dim + p);
    for (std::size_t r = 0; r < kR; ++r) {
      const Vec qv = load(q + r * dim + p);
      for (std::size_t c = 0; c < kC; ++c) acc[r][c] += qv * kv[c];
    }
  }
  if (whole < dim) {
    for (std::size_t c = 0; c < kC; ++c) {
      const Vec kv = load_head(k + c * dim + whole, dim - whole);
      for (std::size_t r = 0; r < kR; ++r) acc[r][c] += load_head(q + r * dim + whole, dim - whole) * kv;
    }
  }
  for (std::size_t r = 0; r < kR; ++r) {
    if constexpr (kC == 4) {
      store_sums(acc[r], scores + r * kKeys);
    } else {
      for (std::size_t c = 0; c < kC; ++c) scores[r * kKeys + c] = sum(acc[r][c]);
    }
  }
}

template <std::size_t kR, class T>
void dot_rows(const float* q, const T* k, std::size_t keys, std::size_t dim, float* scores) {
  std::size_t c = 0;
  for (; c + kTileCols <= keys; c += kTileCols) dot_tile<kR, kTileCols>(q, k + c * dim, dim, scores + c);
  for (; c < keys; ++c) dot_tile<kR, 1>(q, k + c * dim, dim, scores + c);
}

inline void store_head(float* p, Vec v, std::size_t n) {
  float lanes[kLanes];
  store(lanes, v);
  std::copy_n(lanes, n, p);
}

// out[r] += weights[r] @ v for kR rows and kVecs vectors of the head dimension.
template <std::size_t kR, std::size_t kVecs, class T>
inline void mix_tile(const float* weights, const T* v, std::size_t keys, std::size_t dim, float* out) {
  Vec acc[kR][kVecs];
  for (std::size_t r = 0; r < kR; ++r) {
    for (std::size_t i = 0; i < kVecs; ++i) acc[r][i] = load(out + r * dim + i * kLanes);
  }
  for (std::size_t c = 0; c < keys; ++c) {
    Vec value[kVecs];
    for (std::size_t i = 0; i < kVecs; ++i) value[i] = load(v + c * dim + i * kLanes);
    for (std::size_t r = 0; r < kR; ++r) {
      const Vec weight = splat(weights[r * kKeys + c]);
      for (std::size_t i = 0; i < kVecs; ++i) acc[r][i] += weight * value[i];
    }
  }
  for (std::size_t r = 0; r < kR; ++r) {
    for (std::size_t i = 0; i < kVecs; ++i) store(out + r * dim + i * kLanes, acc[r][i]);
  }
}

template <std::size_t kR, class T>
void mix_rows(const float* weights, const T* v, std::size_t keys, std::size_t dim, float* out) {
  std::size_t p = 0;
  for (; p + 4 * kLanes <= dim; p += 4 * kLanes) mix_tile<kR, 4>(weights, v + p, keys, dim, out + p);
  for (; p + kLanes <= dim; p += kLanes) mix_tile<kR, 1>(weights, v + p, keys, dim, out + p);
  if (p == dim) return;
  // Head sizes that are no multiple of the vector. Not a loop over scalars: compilers round those in more than one way.
  Vec acc[kR];
  for (std::size_t r = 0; r < kR; ++r) acc[r] = load_head(out + r * dim + p, dim - p);
  for (std::size_t c = 0; c < keys; ++c) {
    const Vec value = load_head(v + c * dim + p, dim - p);
    for (std::size_t r = 0; r < kR; ++r) acc[r] += splat(weights[r * kKeys + c]) * value;
  }
  for (std::size_t r = 0; r < kR; ++r) store_head(out + r * dim + p, acc[r], dim - p);
}

// The same two products for one row and keys that lie anywhere: keys k[0..count). Each number is made as above.
template <std::size_t kC, class T>
inline void dot_named(const float* q, const T* const* k, std::size_t dim, float* scores) {
  Vec acc[kC] = {};
  const std::size_t whole = dim - dim % kLanes;
  for (std::size_t p = 0; p < whole; p += kLanes) {
    const Vec qv = load(q + p);
    for (std::size_t c = 0; c < kC; ++c) acc[c] += qv * load(k[c] + p);
  }
  if (whole < dim) {
    const Vec qv = load_head(q + whole, dim - whole);
    for (std::size_t c = 0; c < kC; ++c) acc[c] += qv * load_head(k[c] + whole, dim - whole);
  }
  for (std::size_t c = 0; c < kC; ++c) scores[c] = sum(acc[c]);
}

template <std::size_t kVecs, class T>
inline void mix_named(const float* weights, const T* const* v, std::size_t count, float* out, std::size_t p) {
  Vec acc[kVecs];
  for (std::size_t i = 0; i < kVecs; ++i) acc[i] = load(out + p + i * kLanes);
  for (std::size_t c = 0; c < count; ++c) {
    const Vec weight = splat(weights[c]);
    for (std::size_t i = 0; i < kVecs; ++i) acc[i] += weight * load(v[c] + p + i * kLanes);
  }
  for (std::size_t i = 0; i < kVecs; ++i) store(out + p + i * kLanes, acc[i]);
}

template <class T>
void dot_row(const float* q, const T* const* k, std::size_t count, std::size_t dim, float* scores) {
  std::size_t c = 0;
  for (; c + kTileCols <= count; c += kTileCols) dot_named<kTileCols>(q, k + c, dim, scores + c);
  for (; c < count; ++c) dot_named<1>(q, k + c, dim, scores + c);
}

template <class T>
void mix_row(const float* weights, const T* const* v, std::size_t count, std::size_t dim, float* out) {
  std::size_t p = 0;
  for (; p + 4 * kLanes <= dim; p += 4 * kLanes) mix_named<4>(weights, v, count, out, p);
  for (; p + kLanes <= dim; p += kLanes) mix_named<1>(weights, v, count, out, p);
  if (p == dim) return;
  Vec acc = load_head(out + p, dim - p);
  for (std::size_t c = 0; c < count; ++c) acc += splat(weights[c]) * load_head(v[c] + p, dim - p);
  store_head(out + p, acc, dim - p);
}

// Calls f.template operator()<n>(first row) for strips of kTileRows rows and one last strip of what is left.
template <std::size_t kMost, class F>
inline void last_strip(std::size_t first, std::size_t left, const F& f) {
  if constexpr (kMost > 0) {
    if (left == kMost) {
      f.template operator()<kMost>(first);
    } else {
      last_strip<kMost - 1>(first, left, f);
    }
  }
}

template <class F>
inline void in_strips(std::size_t rows, const F& f) {
  std::size_t r = 0;
  for (; r + kTileRows <= rows; r += kTileRows) f.template operator()<kTileRows>(r);
  last_strip<kTileRows - 1>(r, rows - r, f);
}

// Inlined into both kinds of attend: as a function of its own it is rounded differently (where multiply-adds contract).
// Running softmax of one row over one tile: rescales out, turns scores into weights. limit: keys of the tile it may see.
__attribute__((always_inline)) inline void soften(float* scores, std::size_t from, std::size_t limit, float& top,
                                                  float& mass, float* out, std::size_t dim) {
  std::fill(scores, scores + from, kMinusInf);
  std::fill(scores + limit, scores + kKeys, kMinusInf);
  Vec best = load(scores);
  for (std::size_t c = kLanes; c < kKeys; c += kLanes) best = maximum(best, load(scores + c));
  const float higher = std::max(top, max_lane(best));
  if (higher == kMinusInf) {  // nothing visible yet (a tile before the window)
    std::fill(scores, scores + kKeys, 0.0f);
    return;
  }
  Vec total{};
  for (std::size_t c = 0; c < kKeys; c += kLanes) {
    const Vec weight = exp(load(scores + c) - splat(higher));
    store(scores + c, weight);
    total += weight;
  }
  const float shrink = top == kMinusInf ? 0.0f : exp(splat(top - higher))[0];
  mass = mass * shrink + sum(total);
  if (shrink != 1.0f) {
    for (std::size_t i = 0; i < dim; ++i) out[i] *= shrink;
  }
  top = higher;
}

inline void widen(const std::int8_t* codes, std::size_t count, float* out) {
  const std::size_t whole = count - count % kLanes;
  for (std::size_t i = 0; i < whole; i += kLanes) store(out + i, load(codes + i));
  for (std::size_t i = whole; i < count; ++i) out[i] = static_cast<float>(codes[i]);
}

// Rows [begin, end) of the stacked rows of key/value head h of sequence b.
//
// A row's keys are the past and then what it sees of the pass; own is the place of its last key in that order, and tiles are cut
// in it. Without sets the order is that of the slots, and every key of a tile is shared by all rows. With sets only the past
// is; behind it each row has a list of its own.
//
// Codes are widened in registers where one strip of rows uses them, and else once for all strips. The numbers are the same.
template <bool kSets, class T>
void attend(const AttentionArgs<T>& a, std::size_t b, std::size_t h, std::size_t begin, std::size_t end) {
  const std::size_t group = a.heads / a.kv_heads;
  const std::size_t past = static_cast<std::size_t>(a.past_len[b]);
  const std::size_t rows = end - begin;
  const float* q = a.scratch + ((b * a.kv_heads + h) * a.rows * group + begin) * a.dim;
  const T* keys = a.present_k + (b * a.kv_heads + h) * a.capacity * a.dim;
  const T* values = a.present_v + (b * a.kv_heads + h) * a.capacity * a.dim;

  alignas(64) float scores[kRows * kKeys];
  alignas(64) float out[kRows * kMaxDim];
  constexpr bool kCodes = !std::is_same_v<T, float>;
  [[maybe_unused]] alignas(64) float wide[kCodes ? kKeys * kWideDim : 1];
  const bool widened = kCodes && rows > kTileRows && a.dim <= kWideDim;
  float top[kRows], mass[kRows];
  std::fill(out, out + rows * a.dim, 0.0f);
  std::fill(top, top + rows, kMinusInf);
  std::fill(mass, mass + rows, 0.0f);

  std::size_t own[kRows];
  [[maybe_unused]] VisibleRows sees[kRows];
  for (std::size_t r = 0; r < rows; ++r) {
    const std::size_t row = (begin + r) / group;
    if constexpr (kSets) {
      sees[r] = VisibleRows(a.visible + (b * a.rows + row) * a.words, a.words);
      own[r] = past + sees[r].size() - 1;
    } else {
      own[r] = past + row;
    }
  }
  const std::size_t first_own = *std::min_element(own, own + rows), last_own = *std::max_element(own, own + rows);
  // With sets the window leaves out slots of the past only: what a row sees of the pass is given.
  const auto lowest = [&](std::size_t of) {
    const std::size_t slot = a.window && of + 1 > a.window ? of + 1 - a.window : 0;
    return kSets ? std::min(slot, past) : slot;
  };
  for (std::size_t base = lowest(first_own) / kKeys * kKeys; base <= last_own; base += kKeys) {
    const std::size_t present = std::min(kKeys, last_own + 1 - base);
    const std::size_t shared = kSets ? std::min(kKeys, past > base ? past - base : 0) : present;
    // f<rows of a strip>(its first row, the tile of `cache`)
    const auto strips = [&](const T* cache, const auto& f) {
      const T* tile = cache + base * a.dim;
      if constexpr (kCodes) {
        if (widened) {
          widen(tile, shared * a.dim, wide);
          in_strips(rows, [&]<std::size_t kR>(std::size_t r) { f.template operator()<kR>(r, wide); });
          return;
        }
      }
      in_strips(rows, [&]<std::size_t kR>(std::size_t r) { f.template operator()<kR>(r, tile); });
    };
    strips(keys, [&]<std::size_t kR>(std::size_t r, const auto* tile) {
      dot_rows<kR>(q + r * a.dim, tile, shared, a.dim, scores + r * kKeys);
    });
    [[maybe_unused]] const T* named[kSets ? kRows : 1][kKeys];
    [[maybe_unused]] std::size_t count[kSets ? kRows : 1];
    for (std::size_t r = 0; r < rows; ++r) {
      const std::size_t from = std::min(present, lowest(own[r]) > base ? lowest(own[r]) - base : 0);
      const std::size_t limit = own[r] < base ? from : std::max(from, std::min(present, own[r] + 1 - base));
      if constexpr (kSets) {
        count[r] = limit > shared ? limit - shared : 0;
        for (std::size_t c = 0; c < count[r]; ++c) named[r][c] = keys + (past + sees[r].next()) * a.dim;
        dot_row(q + r * a.dim, named[r], count[r], a.dim, scores + r * kKeys + shared);
      }
      soften(scores + r * kKeys, from, limit, top[r], mass[r], out + r * a.dim, a.dim);
    }
    strips(values, [&]<std::size_t kR>(std::size_t r, const auto* tile) {
      mix_rows<kR>(scores + r * kKeys, tile, shared, a.dim, out + r * a.dim);
    });
    if constexpr (kSets) {
      for (std::size_t r = 0; r < rows; ++r) {
        for (std::size_t c = 0; c < count[r]; ++c) named[r][c] = values + (named[r][c] - keys);
        mix_row(scores + r * kKeys + shared, named[r], count[r], a.dim, out + r * a.dim);
      }
    }
  }
  for (std::size_t r = 0; r < rows; ++r) {
    const std::size_t row = (begin + r) / group, head = h * group + (begin + r) % group;
    float* y = a.y + ((b * a.rows + row) * a.heads + head) * a.dim;
    for (std::size_t i = 0; i < a.dim; ++i) y[i] = out[r * a.dim + i] / mass[r];
    if constexpr (kCodes) {
      const float* worth = a.v_scale + h * a.dim;
      for (std::size_t i = 0; i < a.dim; ++i) y[i] *= worth[i];
    }
  }
}

// The whole operator.
template <class T>
void run_attention(const AttentionArgs<T>& a, const Parallel& parallel) {
  const std::size_t cache = a.batch * a.kv_heads * a.capacity * a.dim;
  if (a.present_k != a.past_k) std::copy_n(a.past_k, cache, a.present_k);
  if (a.present_v != a.past_v) std::copy_n(a.past_v, cache, a.present_v);

  constexpr std::size_t kPlaced = 16;  // rows a task when splitting qkv: some 10 us each
  const std::size_t strips = (a.rows + kPlaced - 1) / kPlaced;
  parallel(a.batch * strips, [&](std::size_t task) {
    const std::size_t b = task / strips, begin = task % strips * kPlaced;
    for (std::size_t row = begin; row < std::min(begin + kPlaced, a.rows); ++row) place_row(a, b, row);
  });

  const std::size_t stacked = a.rows * (a.heads / a.kv_heads);
  const std::size_t blocks = (stacked + kRows - 1) / kRows;
  parallel(a.batch * a.kv_heads * blocks, [&](std::size_t task) {
    const std::size_t b = task / (a.kv_heads * blocks), h = task / blocks % a.kv_heads;
    const std::size_t begin = task % blocks * kRows;
    const std::size_t end = std::min(begin + kRows, stacked);
    a.visible ? attend<true>(a, b, h, begin, end) : attend<false>(a, b, h, begin, end);
  });
}

}  // namespace
}  // namespace FARTHING_ISA
}  // namespace farthing
