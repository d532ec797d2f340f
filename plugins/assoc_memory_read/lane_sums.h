// Four sums over lanes at once, which share the shuffles. Each is by the very tree of sum(): halves, quarters, pairs, lanes.
#pragma once

#include <cstddef>

#include "../native/simd.h"

namespace farthing {
namespace FARTHING_ISA {
namespace memory {

#if defined(__AVX512F__)
// [a.lo + a.hi, b.hi + b.lo] in halves.
inline __m512 fold_halves(Vec a, Vec b) {
  return _mm512_add_ps(_mm512_mask_blend_ps(0xFF00, (__m512)a, (__m512)b),
                       _mm512_shuffle_f32x4((__m512)a, (__m512)b, 0x4E));
}

inline void four_sums(const Vec (&v)[4], float* out) {
  const __m512 ab = fold_halves(v[0], v[1]), cd = fold_halves(v[2], v[3]);
  const __m512 other = _mm512_mask_blend_ps(0xF0F0, cd, ab);
  __m512 sums = _mm512_add_ps(_mm512_mask_blend_ps(0xF0F0, ab, cd), _mm512_shuffle_f32x4(other, other, 0xB1));
  sums = _mm512_add_ps(sums, _mm512_permute_ps(sums, 0x4E));
  sums = _mm512_add_ps(sums, _mm512_permute_ps(sums, 0xB1));  // A, C, B, D, four times each
  const __m512i firsts = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 4, 8, 0);
  _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, sums)));
}
#elif defined(__AVX2__)
// [a.lo + a.hi, b.hi + b.lo] in halves.
inline __m256 fold_halves(Vec a, Vec b) {
  return _mm256_add_ps(_mm256_blend_ps((__m256)a, (__m256)b, 0xF0), _mm256_permute2f128_ps((__m256)a, (__m256)b, 0x21));
}

inline void four_sums(const Vec (&v)[4], float* out) {
  const __m256 ab = fold_halves(v[0], v[1]), cd = fold_halves(v[2], v[3]);
  __m256 sums = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xEE));
  sums = _mm256_add_ps(sums, _mm256_permute_ps(sums, 0xB1));  // A, A, C, C, B, B, D, D
  _mm_storeu_ps(out, _mm_blend_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1), 0xA));
}
#else
inline void four_sums(const Vec (&v)[4], float* out) {
  for (std::size_t j = 0; j < 4; ++j) out[j] = sum(v[j]);
}
#endif

}  // namespace memory
}  // namespace FARTHING_ISA
}  // namespace farthing
