// One vector type per instruction set, written with the compiler's vector extensions.
//
// Kernel sources (plugins/*/kernel.cc) are compiled once per instruction set with FARTHING_ISA naming the namespace, so the
// same text becomes AVX-512, AVX2+FMA, or the base set of the target (SSE2, or NEON on aarch64). a * b + c contracts to a
// fused multiply-add where there is one (-ffp-contract=fast).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__F16C__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace farthing {
namespace FARTHING_ISA {

#if defined(__AVX512F__)
inline constexpr int kLanes = 16;
#elif defined(__AVX2__)
inline constexpr int kLanes = 8;
#else
inline constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(kLanes * sizeof(float))));
typedef std::int32_t IntVec __attribute__((vector_size(kLanes * sizeof(float))));
typedef float LooseVec __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));

inline Vec load(const float* p) { return *reinterpret_cast<const LooseVec*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<LooseVec*>(p) = v; }
inline Vec splat(float x) { return x - Vec{}; }

// The first n < kLanes floats, zeros behind.
inline Vec load_head(const float* p, std::size_t n) {
  float lanes[kLanes] = {};
  std::memcpy(lanes, p, n * sizeof(float));
  return load(lanes);
}

// IEEE half floats, as bits, widened to float.
inline Vec load(const std::uint16_t* p) {
#if defined(__AVX512F__)
  return (Vec)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__)
  return (Vec)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#elif defined(__aarch64__)
  return (Vec)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
#else
  // Shift exponent and mantissa into place, rescale by 2^112 (exact for subnormals too), restore Inf/NaN and the sign.
  IntVec h;
  for (int i = 0; i < kLanes; ++i) h[i] = p[i];
  IntVec magnitude = (h & 0x7fff) << 13;
  IntVec special = magnitude >= (0x7c00 << 13);  // all ones where Inf or NaN
  Vec scaled = (Vec)magnitude * splat(0x1p112f);
  IntVec bits = ((IntVec)scaled & ~special) | ((magnitude | 0x7f800000) & special) | ((h & 0x8000) << 16);
  return (Vec)bits;
#endif
}

inline Vec load_head(const std::uint16_t* p, std::size_t n) {
  std::uint16_t lanes[kLanes] = {};
  std::memcpy(lanes, p, n * sizeof(std::uint16_t));
  return load(lanes);
}

// Sum of the lanes by halving: always the same tree, so a result never depends on which tile computed it.
inline float sum(Vec v) {
#if defined(__AVX512F__)
  __m256 half = _mm256_add_ps(_mm512_castps512_ps256((__m512)v),
                              _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd((__m512)v), 1)));
  __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  quarter = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)));
#elif defined(__AVX2__)
  __m128 quarter = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
  quarter = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)));
#else
  return (v[0] + v[2]) + (v[1] + v[3]);
#endif
}

inline Vec maximum(Vec a, Vec b) {
#if defined(__AVX512F__)
  return (Vec)_mm512_max_ps((__m512)a, (__m512)b);
#else
  IntVec greater = a > b;
  return (Vec)(((IntVec)a & greater) | ((IntVec)b & ~greater));
#endif
}

inline float max_lane(Vec v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)v);
#else
  float lanes[kLanes];
  store(lanes, v);
  float best = lanes[0];
  for (int i = 1; i < kLanes; ++i) best = lanes[i] > best ? lanes[i] : best;
  return best;
#endif
}

// e^x to about 2 ulp for x in [-87, 88]; below that 0 (softmax's masked entries), above clamped. NaN stays NaN.
// x = n ln2 + r, |r| <= ln2/2, e^r by its Taylor polynomial to r^7/7! (error (ln2/2)^8/8! = 5e-9).
inline Vec exp(Vec x) {
#if defined(__AVX512F__)
  const __mmask16 kept = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-87.0f), _CMP_NLT_UQ);  // NaN is kept
  Vec y = (Vec)_mm512_min_ps(_mm512_set1_ps(88.0f), (__m512)x);                               // the second where NaN
#else
  IntVec under = x < splat(-87.0f);
  IntVec over = x > splat(88.0f);
  Vec y = (Vec)(((IntVec)x & ~over) | ((IntVec)splat(88.0f) & over));
  y = (Vec)((IntVec)y & ~under);
#endif
  // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer and leaves it in the low mantissa bits.
  const Vec magic = splat(12582912.0f);
  Vec shifted = y * splat(1.44269504f) + magic;
  Vec n = shifted - magic;
  Vec r = y - n * splat(0.693359375f);
  r = r - n * splat(-2.12194440e-4f);
  Vec p = splat(1.0f / 5040);
  p = p * r + splat(1.0f / 720);
  p = p * r + splat(1.0f / 120);
  p = p * r + splat(1.0f / 24);
  p = p * r + splat(1.0f / 6);
  p = p * r + splat(0.5f);
  p = p * r + splat(1.0f);
  p = p * r + splat(1.0f);
#if defined(__AVX512F__)
  return (Vec)_mm512_maskz_scalef_ps(kept, (__m512)p, (__m512)n);
#else
  IntVec exponent = ((IntVec)shifted - (IntVec)magic) << 23;
  Vec result = (Vec)((IntVec)p + exponent);
  return (Vec)((IntVec)result & ~under);
#endif
}

}  // namespace FARTHING_ISA
}  // namespace farthing
