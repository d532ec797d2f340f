// What a cache is made of: floats, or codes of 8 bits that are widened in registers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "../native/simd.h"

namespace farthing {
namespace FARTHING_ISA {

// kLanes codes as float: sign extension and conversion, two instructions. Written out, since compilers take vectors of bytes apart.
inline Vec load(const std::int8_t* p) {
#if defined(__AVX512F__)
  return (Vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__AVX2__)
  return (Vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#elif defined(__SSE2__)
  std::int32_t four;
  std::memcpy(&four, p, sizeof four);
  const __m128i zero = _mm_setzero_si128();  // interleaved below the codes, then shifted out with their sign
  const __m128i high = _mm_unpacklo_epi16(zero, _mm_unpacklo_epi8(zero, _mm_cvtsi32_si128(four)));
  return (Vec)_mm_cvtepi32_ps(_mm_srai_epi32(high, 24));
#elif defined(__aarch64__)
  std::int32_t four;
  std::memcpy(&four, p, sizeof four);
  const int16x8_t wide = vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four)));
  return (Vec)vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
#else
  Vec v;
  for (int i = 0; i < kLanes; ++i) v[i] = p[i];
  return v;
#endif
}

inline Vec load_head(const std::int8_t* p, std::size_t n) {
  std::int8_t lanes[kLanes] = {};
  std::memcpy(lanes, p, n);
  return load(lanes);
}

inline void store_row(const float* x, const float*, std::size_t count, float* out) {
  std::memcpy(out, x, count * sizeof(float));
}

// The nearest code of x / scale, ties to even, clipped to -128 .. 127; NaN becomes -128. Adding and subtracting 1.5 * 2^23 rounds.
inline void store_row(const float* x, const float* scale, std::size_t count, std::int8_t* out) {
  constexpr float kMagic = 12582912.0f;
  for (std::size_t i = 0; i < count; ++i) {
    float steps = x[i] / scale[i];
    steps = steps > -128.0f ? steps : -128.0f;
    steps = steps < 127.0f ? steps : 127.0f;
    out[i] = static_cast<std::int8_t>(static_cast<std::int32_t>((steps + kMagic) - kMagic));
  }
}

}  // namespace FARTHING_ISA
}  // namespace farthing
