// y = base, and in the listed rows y = base + scale * (x a^T) b^T; see operator.py for the contract.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../native/isa.h"
#include "../native/parallel.h"

namespace farthing {

struct GatedLoraArgs {
  const float* x;            // [total, k]
  const float* base;         // [total, n]
  const void* a_panels;      // pack_linear of a [rank, k]
  const void* b_panels;      // pack_linear of b [n, rank]
  bool half;                 // a and b are float16 bits; else float32
  const std::int64_t* rows;  // [count], ascending, below total: checked by the caller
  float* y;                  // [total, n]; may be base itself: then only the listed rows are touched
  float* hidden;             // gated_lora_hidden(count, rank) floats
  std::size_t total, count, k, n, rank;
  float scale;
};

// Floats of scratch memory for the products with a: each row's are padded to whole panels of 16.
inline std::size_t gated_lora_hidden(std::size_t count, std::size_t rank) { return count * ((rank + 15) / 16 * 16); }

// Every number is one chain of multiply-adds in the order of k, then one in the order of the rank: the result of a row does not
// depend on which other rows are listed.
FARTHING_DECLARE_KERNEL(void gated_lora(const GatedLoraArgs& args, const Parallel& parallel))

}  // namespace farthing
