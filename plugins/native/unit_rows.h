// Rows of features, float32 or float16, as unit vectors of floats: x / (norm + 1e-8). Included by kernels, like simd.h.
#pragma once

#include <cmath>
#include <cstring>

#include "row_dots.h"

namespace farthing {
namespace FARTHING_ISA {

// What a row is multiplied by: 1 / (norm + 1e-8), or 0 for a row that is not finite or whose norm overflows.
inline float row_scale(float squares) {
  const float norm = std::sqrt(squares);
  return norm <= 3.402823466e38f ? 1.0f / (norm + 1e-8f) : 0.0f;
}

// Sum of squares of x[0..n) and its dot product with y, which is padded with zeros to whole vectors. Four chains hide the
// latency of the multiply-add.
template <class T>
inline void squares_and_dot(const T* x, const float* y, std::size_t n, float& squares, float& dot) {
  Vec s[2] = {}, d[2] = {};
  std::size_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    for (std::size_t j = 0; j < 2; ++j) {
      const Vec v = load(x + i + j * kLanes);
      s[j] += v * v;
      d[j] += v * load(y + i + j * kLanes);
    }
  }
  for (; i < n; i += kLanes) {
    const std::size_t left = n - i;
    const Vec v = left < kLanes ? load_head(x + i, left) : load(x + i);
    s[0] += v * v;
    d[0] += v * load(y + i);
  }
  squares = sum(s[0] + s[1]);
  dot = sum(d[0] + d[1]);
}

template <class T>
inline float sum_of_squares(const T* x, std::size_t n) {
  Vec s[4] = {};
  std::size_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (std::size_t j = 0; j < 4; ++j) {
      const Vec v = load(x + i + j * kLanes);
      s[j] += v * v;
    }
  }
  for (; i < n; i += kLanes) {
    const std::size_t left = n - i;
    const Vec v = left < kLanes ? load_head(x + i, left) : load(x + i);
    s[0] += v * v;
  }
  return sum((s[0] + s[1]) + (s[2] + s[3]));
}

// out[0..padded) = x * scale, zeros behind n; all zeros for scale 0, whatever x holds.
template <class T>
inline void copy_scaled(const T* x, std::size_t n, float scale, float* out) {
  const std::size_t padded = (n + kLanes - 1) / kLanes * kLanes;
  if (scale == 0.0f) {
    std::memset(out, 0, padded * sizeof(float));
    return;
  }
  const Vec factor = splat(scale);
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, load(x + i) * factor);
  if (i < n) store(out + i, load_head(x + i, n - i) * factor);
}

}  // namespace FARTHING_ISA
}  // namespace farthing
