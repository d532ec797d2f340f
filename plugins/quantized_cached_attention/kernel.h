// CachedAttention over a cache of 8-bit codes with a scale for each head and feature; see operator.py for the contract.
#pragma once

#include "../cached_attention/args.h"
#include "../native/isa.h"
#include "../native/parallel.h"

namespace farthing {

using QuantizedCachedAttentionArgs = AttentionArgs<std::int8_t>;

// The promises of cached_attention: a row's result depends neither on the rows that share its pass nor, with visible, on where the
// rows stand that it sees.
FARTHING_DECLARE_KERNEL(void quantized_cached_attention(const QuantizedCachedAttentionArgs& args,
                                                        const Parallel& parallel))

}  // namespace farthing
