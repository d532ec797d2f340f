// What CachedAttention's kernels take. T: float, or std::int8_t for a cache of codes (quantized_cached_attention).
#pragma once

#include <cstddef>
#include <cstdint>

namespace farthing {

template <class T>
struct AttentionArgs {
  const float* qkv;  // [batch, rows, (heads + 2 * kv_heads) * dim]
  const float* cos;  // [batch, rows, half]
  const float* sin;  // [batch, rows, half]
  const T* past_k;   // [batch, kv_heads, capacity, dim]
  const T* past_v;
  const std::int64_t* past_len;  // [batch]; past_len + rows <= capacity, checked by the caller
  const float* k_scale;          // [kv_heads, dim], above 0: a key is k_scale * code; null for float
  const float* v_scale;
  const float* q_norm;  // [dim] or null
  const float* k_norm;  // [dim] or null
  float* y;             // [batch, rows, heads * dim]
  T* present_k;         // may be past_k itself: then only the new rows are written
  T* present_v;
  // [batch, rows, words]: bit j % 64 of word j / 64 is set when the row sees row j of the pass; every row sees itself and none
  // beyond the pass, checked by the caller. Null: a row sees all rows before it.
  const std::int64_t* visible;
  float* scratch;  // batch * rows * heads * dim floats, for the rotated queries
  std::size_t batch, rows, heads, kv_heads, dim, half, capacity;
  std::size_t window;  // 0 = no window
  std::size_t words;   // of visible
  float scale, epsilon;
};

}  // namespace farthing
