// Rotary embedding, cache write and causal grouped-query attention; see operator.py for the contract.
#pragma once

#include "../native/isa.h"
#include "../native/parallel.h"
#include "args.h"

namespace farthing {

using CachedAttentionArgs = AttentionArgs<float>;

// Each output row is computed in an order that depends only on its own slot, never on how many rows share the pass. With visible
// it is the order of the rows it sees, wherever they stand: a path of a tree gives bit for bit what plain decoding gives.
FARTHING_DECLARE_KERNEL(void cached_attention(const CachedAttentionArgs& args, const Parallel& parallel))

}  // namespace farthing
