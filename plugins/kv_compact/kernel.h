// Rows past_len + rows[t] of the cache move to past_len + t; see operator.py for the contract.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../native/isa.h"
#include "../native/parallel.h"

namespace farthing {

struct KvCompactArgs {
  const float* past_k;  // [batch, kv_heads, capacity, dim]
  const float* past_v;
  const std::int64_t* past_len;  // [batch]
  const std::int64_t* rows;      // [batch, listed]; rows[t] >= t, checked by the caller
  const std::int64_t* count;     // [batch], at most listed
  float* present_k;              // may be past_k itself: then only rows that move are touched
  float* present_v;
  std::size_t batch, kv_heads, capacity, dim, listed;
};

FARTHING_DECLARE_KERNEL(void kv_compact(const KvCompactArgs& args, const Parallel& parallel))

}  // namespace farthing
