// Rotary embedding, cache write and causal grouped-query attention; see operator.py for the contract.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../native/isa.h"
#include "../native/parallel.h"

namespace farthing {

struct CachedAttentionArgs {
  const float* qkv;     // [batch, rows, (heads + 2 * kv_heads) * dim]
  const float* cos;     // [batch, rows, half]
  const float* sin;     // [batch, rows, half]
  const float* past_k;  // [batch, kv_heads, capacity, dim]
  const float* past_v;
  const std::int64_t* past_len;  // [batch]; past_len + rows <= capacity, checked by the caller
  const float* q_norm;           // [dim] or null
  const float* k_norm;           // [dim] or null
  float* y;                      // [batch, rows, heads * dim]
  float* present_k;              // may be past_k itself: then only the new rows are written
  float* present_v;
  // [batch, rows, words]: bit j % 64 of word j / 64 is set when the row sees row j of the pass; every row sees itself and none
  // beyond the pass, checked by the caller. Null: a row sees all rows before it.
  const std::int64_t* visible;
  float* scratch;  // batch * rows * heads * dim floats, for the rotated queries
  std::size_t batch, rows, heads, kv_heads, dim, half, capacity;
  std::size_t window;  // 0 = no window
  std::size_t words;   // of visible
  float scale, epsilon;
};

// Each output row is computed in an order that depends only on its own slot, never on how many rows share the pass. With visible
// it is the order of the rows it sees, wherever they stand: a path of a tree gives bit for bit what plain decoding gives.
FARTHING_DECLARE_KERNEL(void cached_attention(const CachedAttentionArgs& args, const Parallel& parallel))

}  // namespace farthing
