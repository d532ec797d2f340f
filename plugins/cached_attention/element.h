// What a cache is made of: floats, or codes of 8 bits that are widened in registers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "../native/simd.h"

namespace farthing {
namespace FARTHING_ISA {

typedef std::int8_t CodeVec __attribute__((vector_size(kLanes)));

// kLanes codes as float: two instructions (sign extension, conversion) where there is a register of that width.
inline Vec load(const std::int8_t* p) {
  CodeVec codes;
  std::memcpy(&codes, p, sizeof codes);
  return __builtin_convertvector(__builtin_convertvector(codes, IntVec), Vec);
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
