// Which k of N tokens to keep (see operator.py for the rules). One call handles one sequence.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../native/isa.h"
#include "../native/parallel.h"

namespace farthing {

enum class SelectMode { topk, mmr, sads };

struct TokenSelectArgs {
  const float* scores;        // [n]
  const void* feats;          // [n, dim]
  bool half;                  // feats are float16 bits; else float32
  const std::int64_t* group;  // [n] or null
  const std::int64_t* quota;  // [groups] or null; only with group
  std::int64_t* picks;        // [k], in pick order
  std::size_t n, dim, groups, k;
  SelectMode mode;
  float lam, epsilon;
  std::byte* scratch;  // token_select_scratch() bytes, aligned to 64; contents need not survive
};

// Bytes of scratch: about 4 * k * dim + 56 * n, never n * n.
FARTHING_DECLARE_KERNEL(std::size_t token_select_scratch(std::size_t n, std::size_t dim, std::size_t groups,
                                                         std::size_t k, SelectMode mode))

// Needs 1 <= k <= n.
FARTHING_DECLARE_KERNEL(void token_select(const TokenSelectArgs& args, const Parallel& parallel))

}  // namespace farthing
